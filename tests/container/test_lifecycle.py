"""Containers that start, die, are killed, lose their device, and are started wrongly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE, until

from edged import wire
from edged.container import (
    Container,
    ContainerLimits,
    Launcher,
    ProcessLauncher,
    SystemdLauncher,
)
from edged.container._launcher import _channel
from edged.container._process import Child
from edged.device import vfio_user
from edged.errors import (
    ContainerError,
    DeviceError,
    EdgedError,
    LimitError,
    UnavailableError,
)

Emulate = Callable[[Path], AbstractContextManager[Any]]
Launch = Callable[..., Launcher]


def request(count: int = 1) -> bytes:
    message = wire.PredictRequest()
    value = np.zeros((count, 16, 16, 3), np.uint8)
    message.inputs["input"].CopyFrom(wire.from_array(value, content=True))
    return message.SerializeToString()


def worker_of(container: Container) -> int:
    """The process that holds the model, which bubblewrap may have started two levels down."""
    pid = container.pid
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("way", ["auto", "landlock"])
async def test_a_container_starts_serves_and_stops(sample: Any, emulator: Any, way: str) -> None:
    container = await ProcessLauncher(bubblewrap=way).start(sample.folder)
    worker = worker_of(container)
    with pytest.raises(UnavailableError, match="no device"):
        await container.call(wire.PREDICT, request(), PATIENCE)
    await container.attach(vfio_user.connect(emulator.socket))
    await container.self_test()
    assert await container.call(wire.PREDICT, request(), PATIENCE)
    await container.detach()
    with pytest.raises(UnavailableError, match="no device"):
        await container.call(wire.PREDICT, request(), PATIENCE)
    await container.stop()
    assert container.lost and str(await container.closed) == "it was stopped"
    assert not alive(worker)
    with pytest.raises(ContainerError):
        await container.call(wire.PREDICT, request(), PATIENCE)
    await container.stop()


async def test_killing_the_worker_fails_every_call_at_once(
    sample: Any, launch: Launch, emulator: Any
) -> None:
    container = await launch().start(sample.folder)
    try:
        await container.attach(vfio_user.connect(emulator.socket))
        calls = [asyncio.create_task(container.call(wire.PREDICT, request(200), 60)) for _ in "123"]
        await container.call(wire.GET_MODEL_METADATA, b"", PATIENCE)
        os.kill(worker_of(container), signal.SIGKILL)
        for call in calls:
            with pytest.raises(ContainerError, match="container is gone"):
                await asyncio.wait_for(call, PATIENCE)
        reason = str(await asyncio.wait_for(container.closed, PATIENCE))
        assert "SIGKILL" in reason and container.lost
    finally:
        await container.stop()


async def test_of_one_that_is_killed_while_it_starts_it_is_said(sample: Any) -> None:
    def workers() -> set[str]:
        """Not what the sandbox tries out before."""
        pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        found = set()
        for pid in pids:
            with contextlib.suppress(OSError):  # it is over already
                if b"edged.container.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.add(pid)
        return found

    others = workers()
    # Without a wrapper, which may die before it has told the kernel to take the worker along.
    launcher = ProcessLauncher(bubblewrap="landlock")
    starting = asyncio.create_task(launcher.start(sample.folder))
    await until(lambda: bool(workers() - others))
    (child,) = workers() - others
    os.kill(int(child), signal.SIGKILL)
    with pytest.raises(ContainerError, match=r"cannot start the container: it was killed \(SIGK"):
        await starting


async def test_killing_what_started_it_takes_the_worker_along(sample: Any, launch: Launch) -> None:
    container = await launch().start(sample.folder)
    worker = worker_of(container)
    os.kill(container.pid, signal.SIGKILL)
    await asyncio.wait_for(container.closed, PATIENCE)
    await until(lambda: not alive(worker))
    await container.stop()


async def test_without_its_device_calls_fail_at_once_and_another_is_taken(
    sample: Any, launch: Launch, emulator: Any, emulate: Emulate, tmp_path: Path
) -> None:
    container = await launch().start(sample.folder)
    try:
        with emulate(tmp_path) as doomed:
            await container.attach(vfio_user.connect(doomed.socket))
            calls = [
                asyncio.create_task(container.call(wire.PREDICT, request(200), 60)) for _ in "123"
            ]
            await container.call(wire.GET_MODEL_METADATA, b"", PATIENCE)
            doomed.process.kill()
            for call in calls:
                with pytest.raises(UnavailableError):
                    await asyncio.wait_for(call, PATIENCE)
        with pytest.raises(UnavailableError):
            await container.call(wire.PREDICT, request(), PATIENCE)
        assert not container.lost
        await container.attach(vfio_user.connect(emulator.socket))
        await container.self_test()
        assert await container.call(wire.PREDICT, request(), PATIENCE)
    finally:
        await container.stop()


async def test_a_device_that_is_gone_before_it_is_attached(
    sample: Any, emulate: Emulate, tmp_path: Path
) -> None:
    container = await ProcessLauncher().start(sample.folder)
    try:
        with emulate(tmp_path) as doomed:
            connection = vfio_user.connect(doomed.socket)
        doomed.process.wait()
        with pytest.raises(UnavailableError):
            await container.attach(connection)
        assert not container.lost
    finally:
        await container.stop()


async def test_a_wrong_device_fails_the_self_test(
    sample: Any, emulator: Any, tmp_path: Path
) -> None:
    """The vectors expect something else: as if the device computed wrongly."""
    folder = tmp_path / "folder"
    shutil.copytree(sample.folder, folder)
    with np.load(folder / "selftest.npz") as file:
        vectors = {name: file[name] for name in file.files}
    vectors["out:scores:0"] = np.roll(vectors["out:scores:0"], 1, axis=1)
    np.savez(folder / "selftest.npz", **vectors)
    container = await ProcessLauncher().start(folder)
    try:
        await container.attach(vfio_user.connect(emulator.socket))
        with pytest.raises(
            DeviceError, match=r"'scores:0' is off by .*the tolerance is.* as the integer reference"
        ):
            await container.self_test()
    finally:
        await container.stop()


async def test_labels_and_masks_are_judged_by_how_many_differ(
    sample: Any, emulator: Any, tmp_path: Path
) -> None:
    """Integers among the vectors stand for such an output."""
    folder = tmp_path / "folder"
    shutil.copytree(sample.folder, folder)
    with np.load(folder / "selftest.npz") as file:
        vectors = {name: file[name] for name in file.files}
    labels = np.rint(vectors["out:scores:0"]).astype(np.int64)
    labels[0, 0] += 1  # One element differs.
    for change, passes in ((0, True), (1, False)):
        np.savez(folder / "selftest.npz", **{**vectors, "out:scores:0": labels + change})
        container = await ProcessLauncher().start(folder)
        try:
            await container.attach(vfio_user.connect(emulator.socket))
            if passes:
                await container.self_test()
            else:
                with pytest.raises(DeviceError, match=r"'scores:0' differ.*--calibration"):
                    await container.self_test()
        finally:
            await container.stop()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("program.img", b"EDGEIMG", "program image"),
        ("host-0.onnx", b"\x08\x07junk", "cannot load the model"),
        ("host-1.onnx", None, r"host-1\.onnx: No such file"),
        ("manifest.json", b"{}", r"cannot read manifest\.json"),
        ("selftest.npz", b"PK", r"selftest\.npz"),
    ],
)
async def test_a_model_that_cannot_be_loaded_says_why(
    sample: Any, launch: Launch, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(sample.folder, folder)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(EdgedError, match=said):
        await launch().start(folder)


async def test_parts_that_do_not_fit_are_refused(sample: Any, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(sample.folder, folder)
    (folder / "host-0.onnx").write_bytes((folder / "host-1.onnx").read_bytes())
    with pytest.raises(EdgedError, match="wants tensor"):
        await ProcessLauncher().start(folder)


async def test_a_start_has_a_bound_on_time(
    sample: Any, launch: Launch, open_descriptors: Callable[[], int]
) -> None:
    before = open_descriptors()
    with pytest.raises(ContainerError, match=r"not ready after 0\.001 s"):
        await launch(limits=ContainerLimits(start_seconds=0.001)).start(sample.folder)
    assert open_descriptors() <= before


async def test_a_model_that_fits_into_no_memory_says_so(sample: Any) -> None:
    with pytest.raises(EdgedError, match=r"more memory than the limit of container\.memory_bytes"):
        await ProcessLauncher(ContainerLimits(memory_bytes=48 << 20)).start(sample.folder)


async def test_memory_has_a_bound_and_the_container_survives_it(
    sample: Any, emulator: Any, photo: Callable[..., bytes]
) -> None:
    container = await ProcessLauncher(ContainerLimits(memory_bytes=192 << 20)).start(sample.folder)
    try:
        await container.attach(vfio_user.connect(emulator.socket))
        message = wire.PredictRequest()
        message.inputs["input"].dtype = wire.DataType.DT_UINT8
        message.inputs["input"].tensor_content = bytes(120 << 20)
        with pytest.raises(LimitError, match="needs more memory"):
            await container.call(wire.PREDICT, message.SerializeToString(), 60)
        assert await container.call(wire.PREDICT, request(), PATIENCE)
    finally:
        await container.stop()


async def test_descriptors_and_memory_stay_as_they_are_over_1000_calls(
    sample: Any, emulator: Any, open_descriptors: Callable[[], int]
) -> None:
    before_all = open_descriptors()
    container = await ProcessLauncher().start(sample.folder)
    worker = Path(f"/proc/{worker_of(container)}")
    await container.attach(vfio_user.connect(emulator.socket))
    await container.call(wire.PREDICT, request(60), PATIENCE)
    ours, theirs = open_descriptors(), len(list((worker / "fd").iterdir()))
    for _ in range(50):
        small = [container.call(wire.PREDICT, request(), 60) for _ in range(18)]
        large = [container.call(wire.PREDICT, request(60), 0.001) for _ in range(2)]
        await asyncio.gather(*small)
        await asyncio.gather(*large, return_exceptions=True)
    assert open_descriptors() == ours
    assert len(list((worker / "fd").iterdir())) == theirs
    await until(lambda: container._channel.calls == 0)
    assert container._channel.bytes_in_use == 0
    await container.stop()
    await until(lambda: open_descriptors() <= before_all)


@pytest.mark.parametrize("listens", [False, True], ids=["nobody listens", "no unit"])
async def test_where_systemd_does_not_a_child_does(
    sample: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, listens: bool
) -> None:
    place = tmp_path / "container.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        if listens:  # and hangs up, as systemd does when it cannot set up the unit
            server.bind(str(place))
            server.listen()
            server.setblocking(False)

            def hang_up() -> None:
                server.accept()[0].close()

            asyncio.get_running_loop().add_reader(server, hang_up)
        with pytest.raises(ContainerError, match="cannot start a container by systemd"):
            await SystemdLauncher(place).start(sample.folder)
        container = await SystemdLauncher(place, ProcessLauncher()).start(sample.folder)
        await container.stop()
        if listens:
            asyncio.get_running_loop().remove_reader(server)
    assert not container.unit and "starting it without" in caplog.text


async def test_a_flood_on_standard_error_is_read_and_mostly_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    code = "import sys\nfor _ in range(1000): sys.stderr.write('x' * 9999 + '\\n')\nsys.exit(3)"
    caplog.set_level("INFO")
    with _channel(1 << 16) as ends:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE
        )
        container = Container(Child(process), ends.front, ends.requests, ends.responses)
    with pytest.raises(ContainerError):
        await container.ready()
    reason = str(await asyncio.wait_for(container.closed, PATIENCE))
    assert reason.startswith("it ended with status 3: …xxx") and len(reason) < 1600
    lines = [record for record in caplog.records if "xxx" in record.getMessage()]
    assert len(lines) == 200 and max(len(record.getMessage()) for record in lines) < 1100
    await container.stop()
