"""The table of the slot's states has no dead ends and no way out of the end."""

from __future__ import annotations

from edged.slot import TRANSITIONS, Event, State


def reachable(start: State) -> set[State]:
    seen, frontier = {start}, [start]
    while frontier:
        state = frontier.pop()
        for (source, _), target in TRANSITIONS.items():
            if source is state and target not in seen:
                seen.add(target)
                frontier.append(target)
    return seen


def test_every_state_can_be_reached_from_the_start() -> None:
    assert reachable(State.ABSENT) == set(State)


def test_serving_can_be_reached_from_every_state_but_the_last() -> None:
    for state in set(State) - {State.STOPPED}:
        assert State.SERVING in reachable(state)
    assert reachable(State.STOPPED) == {State.STOPPED}


def test_the_device_may_be_lost_in_every_live_state() -> None:
    for state in set(State) - {State.STOPPED}:
        assert TRANSITIONS[state, Event.DEVICE_LOST] is State.ABSENT
