"""The management API as its clients see it, over a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from console.conftest import Running
from patience import PATIENCE

from edged.console import Console
from edged.errors import ConfigError, DeviceLostError, LimitError, ModelError

WHO = f"uid {os.getuid()}"


async def lines_of(running: Running, path: str, body: object = None) -> list[Any]:
    async with running.client.post(path, json=body) as response:
        assert response.status == 200
        assert response.content_type == "application/x-ndjson"
        return [json.loads(line) for line in (await response.read()).splitlines()]


async def refusal(running: Running, method: str, path: str, **how: Any) -> tuple[int, str, str]:
    async with running.client.request(method, path, **how) as response:
        answer = await response.json()
        assert sorted(answer) == ["error", "status"]
        return response.status, answer["status"], answer["error"]


async def test_status(running: Running) -> None:
    async with running.client.get("/v1/status") as response:
        found = await response.json()
    assert found["state"] == "serving"
    assert (found["model"]["name"], found["model"]["loaded"]) == ("b", True)
    assert (found["since"], found["problem"], found["pinned"]) == (999.0, "", False)
    assert found["store_problems"] == []


async def test_models(running: Running) -> None:
    async with running.client.get("/v1/models") as response:
        a, b = await response.json()
    assert (a["name"], a["version"], a["serial"], a["size"]) == ("a", "1.0.0", 1, 11)
    assert (a["loaded"], a["committed"], a["last_good"]) == (False, False, False)
    assert a["set_aside"] == "it broke" and a["set_aside_at"] > 0
    assert (b["loaded"], b["committed"], b["set_aside"]) == (True, True, None)


async def test_history(running: Running) -> None:
    async with running.client.get("/v1/history") as response:
        newest, oldest = await response.json()
    assert (newest["model"], newest["cause"], newest["gate_closed_seconds"]) == (
        "b 1.0.0",
        "",
        None,
    )
    assert oldest["cause"] == "drop of a.edgemodel"
    assert oldest["gate_closed_seconds"] == 0.5
    async with running.client.get("/v1/history?limit=1") as response:
        assert await response.json() == [newest]
    for limit in ("0", "x", "10001", "9" * 50, "-1"):
        status, code, said = await refusal(running, "GET", f"/v1/history?limit={limit}")
        assert (status, code) == (400, "INVALID_ARGUMENT")
        assert "wanted a number from 1 to 10000" in said


async def test_activate_tells_how_far_it_is(running: Running) -> None:
    assert await lines_of(running, "/v1/activate", {"name": "a", "version": "1.0.0"}) == [
        {"text": "compiling", "fraction": 0.5},
        {"text": "loading"},
        {
            "done": {
                "model": "a 1.0.0",
                "since": 1000.5,
                "already": False,
                "gate_closed_seconds": 0.025,
            }
        },
    ]
    assert (await lines_of(running, "/v1/activate", {"name": "b"}))[-1]["done"][
        "model"
    ] == "b 1.0.0"
    assert running.control.asked == [
        ("activate", "a", "1.0.0", f"edgectl activate by {WHO}"),
        ("activate", "b", None, f"edgectl activate by {WHO}"),
    ]


async def test_rollback(running: Running) -> None:
    assert (await lines_of(running, "/v1/rollback"))[-1]["done"]["model"] == "a 1.0.0"
    assert running.control.asked == [("rollback", f"edgectl rollback by {WHO}")]


async def test_what_fails_at_once_has_a_status_of_its_own(running: Running) -> None:
    found = await refusal(running, "POST", "/v1/activate", json={"name": "c"})
    assert found[:2] == (404, "NOT_FOUND")
    assert "in the store: a 1.0.0, b 1.0.0" in found[2]
    running.control.steps = ()
    running.control.fails = DeviceLostError("cannot activate: the device is gone")
    found = await refusal(running, "POST", "/v1/rollback")
    assert found == (503, "UNAVAILABLE", "cannot activate: the device is gone")


async def test_what_fails_later_is_the_last_line(running: Running) -> None:
    running.control.fails = ModelError("cannot compile: no such operator")
    assert (await lines_of(running, "/v1/activate", {"name": "a"}))[-1] == {
        "error": "cannot compile: no such operator",
        "status": "INVALID_ARGUMENT",
    }


async def test_an_error_inside_edged_is_logged_and_not_shown(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    running.control.fails = ZeroDivisionError("secret")
    (*_, last) = await lines_of(running, "/v1/activate", {"name": "a"})
    assert last == {
        "error": "cannot change models: an error inside edged; see its log",
        "status": "INTERNAL",
    }
    found = await refusal(running, "DELETE", "/v1/models/a@1.0.0")
    assert found == (500, "INTERNAL", "cannot answer: an error inside edged; see its log")
    assert caplog.text.count("ZeroDivisionError: secret") == 2


async def test_pin(running: Running) -> None:
    for pinned in (True, False):
        async with running.client.post("/v1/pin", json={"pinned": pinned}) as response:
            assert await response.json() == {"pinned": pinned}
        async with running.client.get("/v1/status") as response:
            assert (await response.json())["pinned"] is pinned


async def test_remove(running: Running) -> None:
    async with running.client.delete("/v1/models/a@1.0.0+b") as response:
        assert response.status == 204
    assert running.control.asked == [("remove", "a", "1.0.0+b")]
    running.control.fails = LimitError("cannot")
    assert (await refusal(running, "DELETE", "/v1/models/a@1.0.0"))[:2] == (
        413,
        "RESOURCE_EXHAUSTED",
    )
    for name in ("a", "a@", "@1"):
        found = await refusal(running, "DELETE", f"/v1/models/{name}")
        assert found[0] == 400 and "wanted NAME@VERSION" in found[2]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"name": ""}',
        b'{"name": 1}',
        b'{"name": "a", "versoin": "1.0.0"}',
        b'{"name": "' + b"a" * 201 + b'"}',
        b"[" * 65,
    ],
)
async def test_bodies_are_strict(running: Running, body: bytes) -> None:
    status, code, said = await refusal(running, "POST", "/v1/activate", data=body)
    assert (status, code) == (400, "INVALID_ARGUMENT")
    assert said.startswith("cannot use the body of /v1/activate: ")
    assert running.control.asked == []


async def test_bodies_are_bounded(running: Running) -> None:
    body = b'{"name": "' + b"a" * (1 << 17) + b'"}'
    found = await refusal(running, "POST", "/v1/activate", data=body)
    assert found[:2] == (413, "RESOURCE_EXHAUSTED")


async def test_what_there_is_not(running: Running) -> None:
    assert (await refusal(running, "GET", "/v2"))[:2] == (404, "NOT_FOUND")
    assert (await refusal(running, "GET", "/v1/activate"))[:2] == (405, "UNIMPLEMENTED")


async def test_a_change_goes_on_when_its_caller_hangs_up(running: Running) -> None:
    running.control.hold.clear()
    async with running.client.post("/v1/activate", json={"name": "a"}) as response:
        assert b"compiling" in await response.content.readline()
        response.close()
    running.control.hold.set()
    await asyncio.wait_for(running.control.done.wait(), PATIENCE)
    async with running.client.get("/v1/status") as response:
        assert response.status == 200


async def test_changes_under_way_are_bounded_and_end_with_the_console(running: Running) -> None:
    running.control.hold.clear()
    responses = []
    for _ in range(8):
        response = await running.client.post("/v1/activate", json={"name": "a"})
        assert b"compiling" in await response.content.readline()
        responses.append(response)
    found = await refusal(running, "POST", "/v1/rollback")
    assert found[0] == 413 and "8 changes are under way" in found[2]
    _, ends = await asyncio.gather(
        running.console.stop(), asyncio.gather(*(response.read() for response in responses))
    )
    for end in ends:
        assert json.loads(end.splitlines()[-1])["status"] == "UNAVAILABLE"
    assert not running.control.done.is_set()


async def test_the_socket_has_its_mode(running: Running) -> None:
    assert running.path.stat().st_mode & 0o777 == 0o640


async def test_signals_stay_with_the_daemon(running: Running) -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_a_socket_that_was_left_behind_is_replaced(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    console = Console(running.store, lambda: running.status, running.control, path)
    await console.start()
    assert path.stat().st_mode & 0o777 == 0o660
    await console.stop()


async def test_a_socket_that_is_in_use_is_not(running: Running) -> None:
    console = Console(running.store, lambda: running.status, running.control, running.path)
    with pytest.raises(ConfigError, match=r"cannot listen on .*: another edged is listening there"):
        await console.start()
    async with running.client.get("/v1/status") as response:
        assert response.status == 200


async def test_a_file_in_its_place_is_not_removed(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    console = Console(running.store, lambda: running.status, running.control, path)
    with pytest.raises(ConfigError, match=r"see console\.socket in the configuration"):
        await console.start()
    assert path.read_text() == "precious"
