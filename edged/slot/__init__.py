"""The slot: the one place on a device where a model can be, and how models change places in it.

It decides which container holds the device and when calls may pass. It knows containers, the
store and the device; nothing of gRPC, and nothing of folders that people drop things into.
"""

from edged.slot._compile import CompilerProcess
from edged.slot._firmware import FirmwareUpdate
from edged.slot._gate import Gate
from edged.slot._link import DeviceLink
from edged.slot._renewal import Renewal
from edged.slot._slot import AT_ONCE, Deployed, Slot, SlotLimits, SlotStatus
from edged.slot._standby import Standbys, Tell
from edged.slot._states import TRANSITIONS, Event, State

__all__ = [
    "AT_ONCE",
    "TRANSITIONS",
    "CompilerProcess",
    "Deployed",
    "DeviceLink",
    "Event",
    "FirmwareUpdate",
    "Gate",
    "Renewal",
    "Slot",
    "SlotLimits",
    "SlotStatus",
    "Standbys",
    "State",
    "Tell",
]
