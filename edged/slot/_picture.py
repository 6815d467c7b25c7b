"""The part of docs/slot.md that is made from the table of states: ``make docs`` writes it."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

from edged.slot._states import TRANSITIONS, Event, State

__all__ = ["redrawn"]

_BEGIN: Final = "<!-- from here made by `make docs` -->\n"
_END: Final = "<!-- to here made by `make docs` -->\n"

_STATES: Final = {
    State.ABSENT: "No device is open: calls are refused at once with UNAVAILABLE.",
    State.EMPTY: "A device is open and no model serves from it: what is committed is about to be"
    " loaded, or nothing can be, and calls get NOT_FOUND with the reason.",
    State.LOADING: "A model is on its way onto a device that serves none: calls are held.",
    State.SERVING: "One container has the device's queue, and calls go to it.",
    State.SWAPPING: "Another model takes the place of the one that serves: calls are held.",
    State.STOPPED: "The daemon is ending: calls are refused, and nothing leads out of it.",
}
_EVENTS: Final = {
    Event.DEVICE_FOUND: "The link has opened the device.",
    Event.DEVICE_LOST: "The link to the device is gone.",
    Event.LOAD: "A model is given the device while none serves.",
    Event.LOADED: "It has passed its self-test.",
    Event.LOAD_FAILED: "It has not, and there is none to go back to at once.",
    Event.SWAP: "A model is in the idle bank, its container is ready, and the gate closes.",
    Event.SWAPPED: "The new model has passed its self-test, and the gate opens.",
    Event.ROLLED_BACK: "The new one has failed, and the old one has the device again.",
    Event.CONTAINER_LOST: "The container that serves has ended.",
    Event.STOP: "The daemon was asked to stop.",
}


def redrawn(page: str) -> str:
    """*page* with the part between the two marks made anew."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{_diagram()}\n{_tables()}\n{_END}{after}"


def _diagram() -> str:
    """Mermaid; what may happen in every state but the last is drawn once."""
    live = set(State) - {State.STOPPED}
    edges: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for event in Event:
        ways = {source: to for (source, by), to in TRANSITIONS.items() if by is event}
        if live <= ways.keys() and len(set(ways.values())) == 1:
            edges["ANY", ways[State.SERVING].name].append(event.value)
            continue
        for source, to in ways.items():
            edges[source.name, to.name].append(event.value)
    lines = ["```mermaid", "stateDiagram-v2", "    direction LR"]
    lines += [f'    state "{state.value}" as {state.name}' for state in State]
    lines += ['    state "any but stopped" as ANY', f"    [*] --> {State.ABSENT.name}"]
    lines += [f"    {a} --> {b}: {' / '.join(events)}" for (a, b), events in edges.items()]
    return "\n".join([*lines, f"    {State.STOPPED.name} --> [*]", "```", ""])


def _tables() -> str:
    states = [f"| {state.value} | {_STATES[state]} |" for state in State]
    events = [f"| {event.value} | {_EVENTS[event]} |" for event in Event]
    head = ["| state | |", "|---|---|"], ["| event | |", "|---|---|"]
    return "\n".join([*head[0], *states, "", *head[1], *events, ""])


def main() -> None:
    page = Path(sys.argv[1])
    page.write_text(redrawn(page.read_text()))


if __name__ == "__main__":
    main()
