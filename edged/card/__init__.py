"""A card on this machine's bus, taken from the kernel and handed out to daemon and container.

One process has it, ``edged-card``, as the emulator's has the emulated one: over its socket one
cannot tell them apart.
"""

from edged.card._keeper import Keeper
from edged.card._places import Places
from edged.card._shared import SharedCard
from edged.card._state import Condition, State, read_state
from edged.card._way import Way

__all__ = ["Condition", "Keeper", "Places", "SharedCard", "State", "Way", "read_state"]
