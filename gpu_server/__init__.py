"""The GPU server: ingest, segmentation, measurement, REST and the live page."""
