"""Readers of file formats: what a file stores, as `page.Contents`, not yet converted."""
