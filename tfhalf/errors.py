"""Every exception that tfhalf raises on purpose.

    TfhalfError
    |-- InputError              exit 2: what the caller gave is at fault
    |   |-- ConfigError         a pipeline file or an override
    |   |   `-- BudgetError         a training step takes more memory than it may
    |   |-- RefError            "file.py:name" does not lead to a callable
    |   |-- DataError           a data set, an image, a label
    |   |-- ArtifactError       a path that holds no artifact, or not such a one
    |   |   |-- UnsupportedError    a runtime does not open or run a file
    |   |   `-- UnavailableError    a runtime, or its device, is not on this machine
    |   `-- RequestError        a request that the server does not answer as asked; carries its HTTP status
    `-- ShortfallError          exit 1: the input was right and the job fell short
        |-- TrainingError       loss scale collapsed, non-finite loss
        |-- ExportError         a format cannot hold this model
        |-- ParityError         an artifact does not answer like the float32 model
        |-- IntegrityError      a file is missing or is not what its manifest says
        |-- ResumeError         a run that cannot go on
        |-- MemoryShortfall     what was to be measured takes more memory than there is
        |-- PeerError           another of the processes that train together has ended
        `-- Interrupted         exit 130, 143: a signal ended training, which can go on from a checkpoint

A message is one line: what was received, what is accepted, what to do.
"""

from __future__ import annotations

from tfhalf.text import clean


class TfhalfError(Exception):
    """Base of the tree. ``exit_code`` is what the command line ends with.

    A message may quote any file: whatever of it a terminal would act on is taken out here.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(clean(message))


class InputError(TfhalfError):
    """What the caller gave cannot be used as it is."""

    exit_code = 2


class ConfigError(InputError):
    """A pipeline file or an override is malformed."""


class BudgetError(ConfigError):
    """A training step takes more memory than it may."""


class RefError(InputError):
    """A reference such as ``file.py:build`` does not lead to a callable."""


class DataError(InputError):
    """A data set cannot be had, or one of its items is wrong."""


class ArtifactError(InputError):
    """A path does not lead to an artifact that can be opened."""


class UnsupportedError(ArtifactError):
    """A runtime does not open or run a file, which another one may; ``reason`` says why, without the file's name."""

    def __init__(self, path: object, reason: str, remedy: str = "") -> None:
        super().__init__(f"{path}: {reason}{remedy and f'; {remedy}'}")
        self.reason = clean(reason)


class UnavailableError(ArtifactError):
    """A runtime is not installed, or its device is not there or does not start; another may do."""


class RequestError(InputError):
    """A request that the server cannot or will not answer as asked.

    ``status`` is its HTTP status, ``retry_after`` the seconds after which asking again may help (None: no such time).
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class ShortfallError(TfhalfError):
    """The input was right, and the job fell short."""


class TrainingError(ShortfallError):
    """Training cannot go on: the numbers are lost."""


class ExportError(ShortfallError):
    """A model cannot be written in a format that was asked for."""


class ParityError(ShortfallError):
    """An artifact does not answer like the float32 model."""


class IntegrityError(ShortfallError):
    """A file is missing, or is not the one its manifest describes."""


class ResumeError(ShortfallError):
    """A run cannot be taken up again."""


class MemoryShortfall(ShortfallError):  # noqa: N818  # an answer, where it is the question how much fits
    """What was to be measured takes more memory than there is."""


class PeerError(ShortfallError):
    """Another of the processes that train together has ended or does not answer; ``reason`` says which, ``remedy`` what
    to do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.remedy = clean(reason), clean(remedy)


class Interrupted(ShortfallError):  # noqa: N818  # nothing went wrong
    """A signal ended training, after a checkpoint; ``exit_code`` is 128 and the signal's number."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number
