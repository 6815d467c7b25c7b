"""Who calls, and how much it may hurry."""

from __future__ import annotations

import pytest

from edged.calls import Priority
from edged.errors import RequestError
from edged.serving._caller import client_of, is_local, priority_of


@pytest.mark.parametrize(
    ("peer", "client", "local"),
    [
        ("ipv4:192.0.2.7:40123", "192.0.2.7", False),
        ("ipv4:127.0.0.1:40123", "127.0.0.1", True),
        ("ipv6:%5B2001:db8::7%5D:40123", "2001:db8::7", False),
        ("ipv6:[::1]:40123", "::1", True),
        ("unix:", "unix", True),
        ("unix:/run/edged/edged.sock", "unix", True),
        ("something else", "something else", False),
    ],
)
def test_a_client_is_an_address_without_its_port(peer: str, client: str, local: bool) -> None:
    assert client_of(peer) == client
    assert is_local(client) is local


def test_high_priority_is_for_whom_it_is_allowed_to_and_low_for_everybody() -> None:
    assert priority_of({}, may_be_high=True) is Priority.NORMAL
    assert priority_of({"edged-priority": "high"}, may_be_high=True) is Priority.HIGH
    assert priority_of({"edged-priority": "high"}, may_be_high=False) is Priority.NORMAL
    assert priority_of({"edged-priority": "low"}, may_be_high=False) is Priority.LOW
    with pytest.raises(RequestError, match="'urgent' is none of high, normal, low"):
        priority_of({"edged-priority": "urgent"}, may_be_high=True)
