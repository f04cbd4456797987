"""The errors a user can meet; every one is a single line that says what was found, what was expected, and what to do.

```text
MedunetError                 catch this one to catch them all; the command line turns it into exit code 2
├── InputError (ValueError)  something that was given cannot be used
│   ├── VolumeError          a file or object is no volume, is damaged, or has no usable geometry
│   ├── GeometryError        two volumes that must share a grid do not
│   ├── LabelError           a label map holds values that the task does not know
│   ├── TaskError            a task recipe is unknown or wrong
│   ├── DatasetError         a dataset folder cannot be understood, or a case of it is incomplete
│   └── ModelError           a model folder is missing, incomplete, damaged or of another kind
├── OutputError (OSError)    a result cannot be written, or would replace something it must not
└── TrainingError            training cannot go on; the message says where the last good state lies
    └── TrainingStoppedError training was asked to stop (a signal), and saved its state first
```
"""


class MedunetError(Exception):
    """Base of all errors that medunet raises on purpose."""


class InputError(MedunetError, ValueError):
    """Something that was given cannot be used."""


class VolumeError(InputError):
    """A file or object is no volume, is damaged, or has no usable geometry."""


class GeometryError(InputError):
    """Two volumes that must lie on the same grid do not."""


class LabelError(InputError):
    """A label map holds values that the task does not know."""


class TaskError(InputError):
    """A task recipe is unknown or wrong."""


class DatasetError(InputError):
    """A dataset folder cannot be understood, or one of its cases is incomplete."""


class ModelError(InputError):
    """A model folder is missing, incomplete, damaged or of another kind."""


class OutputError(MedunetError, OSError):
    """A result cannot be written, or would replace something that it must not."""


class TrainingError(MedunetError):
    """Training cannot go on; the message says where the last good state lies."""


class TrainingStoppedError(TrainingError):
    """Training was asked to stop, and saved its state first.

    Args:
        reason: What asked, such as ``"SIGTERM"``.

    Attributes:
        reason: The same.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)  # the reason alone, so that the error survives its way between processes
        self.reason = reason

    def __str__(self) -> str:
        return f"Training was stopped by {self.reason} after its state had been saved; go on with --resume."
