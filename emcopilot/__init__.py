"""EMcopilot: shared science, wire format and client."""

__version__ = "0.1.0"
