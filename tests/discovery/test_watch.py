"""Cards come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OTHER = "0000:00:03.0"
CARD = "0000:00:04.0"
IDS = (0x8086, 0x09C4, 0x120000)


def test_cards_that_come_go_and_are_replaced(start_machine: Callable[..., Any]) -> None:
    machine = start_machine()
    assert machine.said() == [[OTHER], []]
    machine.do("add", CARD, *IDS)
    assert machine.said() == [[OTHER, CARD], []]
    # Gone and back before anyone could look: it is another card all the same.
    machine.do("replace", CARD)
    assert machine.said() == [[OTHER, CARD], [CARD]]
    machine.do("remove", CARD)
    while (said := machine.said())[0] != [OTHER]:
        assert said[1] == [CARD]  # the event was faster than the removal from sysfs
    assert said == [[OTHER], [CARD]]
