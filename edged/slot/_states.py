"""What a slot can be, and what may happen to it in each state: the whole table."""

from __future__ import annotations

import enum

__all__ = ["TRANSITIONS", "Event", "State"]


class State(enum.Enum):
    """What a slot is. The value is what a person reads."""

    ABSENT = "no device"
    EMPTY = "no model loaded"
    LOADING = "loading"
    SERVING = "serving"
    SWAPPING = "swapping"
    STOPPED = "stopped"


class Event(enum.Enum):
    """What can happen to a slot."""

    DEVICE_FOUND = "device found"
    DEVICE_LOST = "device lost"
    LOAD = "load"
    LOADED = "loaded"
    LOAD_FAILED = "load failed"
    SWAP = "swap"
    SWAPPED = "swapped"
    ROLLED_BACK = "rolled back"
    CONTAINER_LOST = "container lost"
    STOP = "stop"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.ABSENT, Event.DEVICE_FOUND): State.EMPTY,
    (State.EMPTY, Event.LOAD): State.LOADING,
    (State.LOADING, Event.LOADED): State.SERVING,
    (State.LOADING, Event.LOAD_FAILED): State.EMPTY,
    (State.SERVING, Event.SWAP): State.SWAPPING,
    (State.SWAPPING, Event.SWAPPED): State.SERVING,
    (State.SWAPPING, Event.ROLLED_BACK): State.SERVING,
    (State.SWAPPING, Event.LOAD_FAILED): State.EMPTY,
    (State.SERVING, Event.CONTAINER_LOST): State.EMPTY,
    **{(state, Event.DEVICE_LOST): State.ABSENT for state in State if state is not State.STOPPED},
    **{(state, Event.STOP): State.STOPPED for state in State},
}
"""(state, event) → state. What is not here cannot happen; the slot refuses to do it."""
