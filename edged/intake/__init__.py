"""The drop folder: a file copied into it becomes the model that serves, or comes back with why not.

The intake notices files, waits until they are whole, hands them on one at a time, and tells the
story in ``NAME.status.txt`` beside each. What a model is, and where it goes, it does not know.
"""

from edged.intake._folder import MODEL_SUFFIXES
from edged.intake._intake import Accept, Intake, Served, Stored, Tell
from edged.intake._status import Fate, FileStatus, read_status

__all__ = [
    "MODEL_SUFFIXES",
    "Accept",
    "Fate",
    "FileStatus",
    "Intake",
    "Served",
    "Stored",
    "Tell",
    "read_status",
]
