"""The drop folder: a file copied into it becomes the model that serves, or comes back with why not.

The intake notices files and folders, waits until they are whole, hands them on one at a time, and
tells the story in ``NAME.status.txt`` beside each. It looks at names and first bytes only: what a
model is, and where it goes, it does not know.
"""

from edged.intake._inside import Inside, survey
from edged.intake._intake import Accept, Arrival, Intake, Served, Stored, Tell
from edged.intake._status import Fate, FileStatus, read_status

__all__ = [
    "Accept",
    "Arrival",
    "Fate",
    "FileStatus",
    "Inside",
    "Intake",
    "Served",
    "Stored",
    "Tell",
    "read_status",
    "survey",
]
