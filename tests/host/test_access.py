"""The access log says of each call what it was, up to a bound, and how many more there were."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from edged.calls import Call, Observed, TraceParent
from edged.errors import OverloadError
from edged.host import AccessLog
from edged.notices import Notice

TRACE = TraceParent("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True)


async def answer(call: Call) -> bytes:
    call.watch.lap("queue")
    call.served_by = "kws 1.0.0"
    call.digest = "sha256:ab"
    if call.payload == b"refused":
        raise OverloadError("cannot take the call")
    return b"12345"


async def ask(log: AccessLog, payload: bytes = b"abc") -> None:
    call = Call(
        "x/Predict",
        payload,
        time.monotonic() + 5,
        client="192.0.2.7",
        request_id="r-1",
        trace=TRACE,
    )
    await Observed(answer, [log.observe])(call)
    await asyncio.sleep(0)


async def test_a_line_has_all_that_is_known_of_a_call_but_its_bytes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "edged.access")
    await ask(AccessLog(10))
    (record,) = caplog.records
    said = dict(part.split("=", 1) for part in record.getMessage().split(" ") if "=" in part)
    assert (said["client"], said["code"], said["request_id"]) == ("192.0.2.7", "OK", "r-1")
    assert (said["request_bytes"], said["response_bytes"]) == ("3", "5")
    assert 'model="kws 1.0.0"' in record.getMessage()
    assert said["stages"].startswith("queue:")
    assert said["trace_id"] == TRACE.trace_id
    # The journal has them as fields.
    assert vars(record)["CLIENT"] == "192.0.2.7"
    assert vars(record)["REQUEST_ID"] == "r-1"
    assert vars(record)["DIGEST"] == "sha256:ab"
    # It went well: there is nothing to explain.
    assert "MESSAGE_ID" not in vars(record)


async def test_a_flood_has_its_bound_and_hides_no_failure(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long they take here, they come within one window; the test says when it is over.
    monkeypatch.setattr("edged.host._access._WINDOW", 3600.0)
    caplog.set_level(logging.INFO, "edged.access")
    log = AccessLog(3)
    for _ in range(20):
        await ask(log)
    for _ in range(5):
        with pytest.raises(OverloadError):
            await ask(log, b"refused")
    await asyncio.sleep(0)  # What was refused is observed now.
    codes = [vars(record)["CODE"] for record in caplog.records]
    assert codes == ["OK"] * 3 + ["RESOURCE_EXHAUSTED"] * 3
    explained = Notice.CALL_FAILED.value.message_id
    kinds = [vars(record).get("MESSAGE_ID") for record in caplog.records]
    assert kinds == [None] * 3 + [explained] * 3
    log._next_window()
    assert "left_out answered=17 failed=2" in caplog.records[-1].getMessage()
    await ask(log)
    assert vars(caplog.records[-1])["CODE"] == "OK"


async def test_none_are_logged_when_none_are_wanted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edged.access")
    await ask(AccessLog(0))
    assert not caplog.records
