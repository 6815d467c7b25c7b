"""What a call carries besides its bytes."""

from __future__ import annotations

import asyncio

import pytest

from edged.calls import Call, Observed, Outcome, Stopwatch, TraceParent
from edged.errors import DeadlineError

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


async def test_who_observes_is_told_how_a_call_ended_and_after_its_caller() -> None:
    told: list[tuple[bytes, str, int]] = []

    def note(call: Call, outcome: Outcome) -> None:
        assert 0.0 <= outcome.seconds <= outcome.elapsed
        assert outcome.failed is (outcome.code != "OK")
        told.append((call.payload, outcome.code, outcome.response_bytes))

    async def answer(call: Call) -> bytes:
        match call.payload:
            case b"late":
                raise DeadlineError("cannot answer in time")
            case b"odd":
                raise ValueError
            case b"long":
                await asyncio.get_running_loop().create_future()
        return call.payload * 2

    observed = Observed(answer, [note, note])
    assert await observed(Call("m", b"now", 0.0)) == b"nownow"
    assert not told
    await asyncio.sleep(0)
    assert told == [(b"now", "OK", 6)] * 2
    for payload, error in ((b"late", DeadlineError), (b"odd", ValueError)):
        with pytest.raises(error):
            await observed(Call("m", payload, 0.0))
    task = asyncio.create_task(observed(Call("m", b"long", 0.0)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    ends = [(payload, code) for payload, code, _ in told[2::2]]
    assert ends == [(b"late", "DEADLINE_EXCEEDED"), (b"odd", "INTERNAL"), (b"long", "CANCELLED")]


async def test_no_stage_takes_longer_than_the_call_that_it_is_part_of() -> None:
    outcomes: list[Outcome] = []

    async def answer(call: Call) -> bytes:
        call.watch.lap("queue")
        return b""

    watch = Stopwatch()
    watch.lap("receive")
    while watch.elapsed < watch.seconds + 0.001:
        pass  # As where others have the processor.
    call = Call("m", b"", 0.0, watch=watch)
    await Observed(answer, [lambda _, outcome: outcomes.append(outcome)])(call)
    await asyncio.sleep(0)
    (outcome,) = outcomes
    assert watch.steps["queue"] <= outcome.seconds
    assert sum(watch.steps.values()) <= outcome.elapsed
