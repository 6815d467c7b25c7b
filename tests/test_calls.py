"""What a call carries besides its bytes."""

from __future__ import annotations

import pytest

from edged.calls import Stopwatch, TraceParent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"01-{TRACE}-{SPAN}-01-what-comes", True),
    ],
)
def test_a_traceparent_is_read(text: str, sampled: bool) -> None:
    found = TraceParent.parse(text)
    assert found == TraceParent(TRACE, SPAN, sampled)
    assert TraceParent.parse(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01 ",
        f"00-{TRACE}-{SPAN}-01\n",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"01-{TRACE}-{SPAN}-01{'x' * 500}",
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\A|."):
        TraceParent.parse(text)


def test_what_a_stage_says_of_itself_is_at_most_what_has_passed() -> None:
    watch = Stopwatch()
    watch.split({"decode": 1e9, "device": 5.0, "epilogue": -3.0}, rest="channel")
    assert sum(watch.steps.values()) == pytest.approx(watch.seconds)
    assert watch.steps["device"] == watch.steps["epilogue"] == watch.steps["channel"] == 0
