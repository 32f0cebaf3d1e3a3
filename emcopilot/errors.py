"""Everything that can go wrong, as one small tree.

EMcopilotError
├── ConfigError        a person must edit a file or an option; the program stops
├── WireError          sender and receiver disagree; the frame is refused, never guessed
├── DecodeError        this frame is unreadable; the next may be fine
│   └── RefusedError   readable, but not an image we segment (a spectrum, 4-D data)
├── CalibrationError   pixels are fine, nanometres are not
├── StoreError         the server's disk or database cannot take more just now
│   └── UnstorableError  it will never take this; the next may be fine
├── ModelError         weights and code disagree; keep the incumbent
└── AdaptationError    a job failed; live weights are untouched

Every message says what, got, expected, and what to do.
"""


class EMcopilotError(Exception):
    """Root of everything EMcopilot raises on purpose."""


class ConfigError(EMcopilotError):
    """A setting, a path or a device that a person must put right."""


class WireError(EMcopilotError):
    """A message that breaks the EMC1 protocol."""


class DecodeError(EMcopilotError):
    """A file or page whose pixels cannot be read."""


class RefusedError(DecodeError):
    """A file that is sound but holds no 2-D image: a spectrum or 4-D data."""


class CalibrationError(EMcopilotError):
    """A pixel size that cannot be right."""


class StoreError(EMcopilotError):
    """The database or the disk under it refused a write."""


class UnstorableError(StoreError):
    """A value that does not fit the database; it would refuse it again."""


class ModelError(EMcopilotError):
    """Weights, card and code that do not belong together."""


class AdaptationError(EMcopilotError):
    """A training or adaptation job that failed; live weights are untouched."""
