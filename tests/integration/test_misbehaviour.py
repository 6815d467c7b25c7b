"""Containers that hang, crash or want too much: a clear answer, another container, nothing lost."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from integration.appliance import DATA, Appliance, eventually, keywords
from patience import PATIENCE
from PIL import Image

from edged import wire

PHOTO = (DATA / "images" / "schoolbus.jpg").read_bytes()
CALL_SECONDS = 2.0


def worker_of(appliance: Appliance) -> int:
    """The process that holds the model that serves, None of those around it."""
    (pid,) = _workers(appliance)
    return pid


def _workers(appliance: Appliance) -> set[int]:
    found = set()
    state = str(appliance.folder / "state").encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            leaf = not (process / "task" / process.name / "children").read_text()
        except OSError:
            continue
        if leaf and b"edged.container.worker" in words and any(state in word for word in words):
            found.add(int(process.name))
    return found


def holdings(appliance: Appliance) -> tuple[int, int]:
    """Descriptors and threads of the daemon."""
    assert appliance.daemon is not None
    process = Path("/proc", str(appliance.daemon.pid))
    return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))


def serves_again(appliance: Appliance, than: int) -> list[grpc.StatusCode]:
    """Call until there is an answer of another process; the codes of what failed before."""
    codes: list[grpc.StatusCode] = []

    def answered() -> bool:
        try:
            appliance.score_images(PHOTO)
        except grpc.RpcError as error:
            codes.append(error.code())
            return False
        return _workers(appliance) not in (set(), {than})

    eventually(answered, f"an answer from another container\n{appliance.log.read_text()[-3000:]}")
    return codes


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, mobilenet: Path) -> Iterator[Appliance]:
    """MobileNetV2, in containers that may be lost as often as a test likes."""
    appliance = Appliance(tmp_path_factory.mktemp("m"))
    with appliance.config.open("a") as config:
        config.write(f"[container]\ncall_seconds = {CALL_SECONDS}\nmemory_bytes = {176 << 20}\n")
        config.write("[slot]\nfailures = 100\n")
    try:
        appliance.start_emulator()
        appliance.start_daemon()
        assert appliance.put(mobilenet).startswith("serving since")
        appliance.score_images(PHOTO)
        yield appliance
    finally:
        appliance.close()


class Clients:
    """Four that call without pause, and note what they are answered."""

    def __init__(self, appliance: Appliance) -> None:
        self._appliance = appliance
        self._stop = threading.Event()
        self.failures: list[grpc.RpcError] = []
        self.answered = 0
        self._threads = [threading.Thread(target=self._call) for _ in range(4)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        while not self._stop.is_set():
            try:
                self._appliance.score_images(PHOTO)
                self.answered += 1
            except grpc.RpcError as error:
                self.failures.append(error)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, "SIGKILL"),
        (signal.SIGSEGV, "SIGSEGV"),
        (signal.SIGABRT, "SIGABRT"),
        (signal.SIGSTOP, "it worked for more than 2 s on one call"),
    ],
)
def test_a_container_that_fails_under_load_is_replaced(
    serving: Appliance, number: signal.Signals, reason: str
) -> None:
    lost = worker_of(serving)
    with Clients(serving) as clients:
        eventually(lambda: clients.answered > 4, "some answers")
        said = len(serving.log.read_text())
        os.kill(lost, number)
        eventually(lambda: _workers(serving) not in (set(), {lost}), "another container")
        answered = clients.answered
        eventually(lambda: clients.answered > answered + 8, "answers of it")
    assert {error.code() for error in clients.failures} <= {grpc.StatusCode.UNAVAILABLE}
    assert len(clients.failures) <= 8, "no more than were inside, and what came before it was seen"
    assert all("try again" in (error.details() or "") for error in clients.failures)
    assert reason in serving.log.read_text()[said:]


def test_lost_containers_leave_nothing_behind_in_the_daemon(serving: Appliance) -> None:
    losses = 8
    before = holdings(serving)
    for _ in range(losses):
        lost = worker_of(serving)
        os.kill(lost, signal.SIGKILL)
        serves_again(serving, than=lost)
    # The pools may still have grown by a thread; what leaks, leaks with each.
    eventually(
        lambda: all(
            now < then + losses // 2 for now, then in zip(holdings(serving), before, strict=True)
        ),
        f"descriptors and threads to be about {before} again",
    )


def test_a_container_that_hangs_is_replaced_although_every_client_gave_up(
    serving: Appliance,
) -> None:
    lost = worker_of(serving)
    os.kill(lost, signal.SIGSTOP)
    tensor = wire.TensorProto(
        dtype=wire.DataType.DT_STRING,
        tensor_shape=wire.TensorShapeProto(dim=[{"size": 1}]),
        string_val=[PHOTO],
    )
    request = wire.PredictRequest(inputs={"images": tensor}).SerializeToString()
    predict = serving.channel.unary_unary(f"/{wire.PREDICT}")
    # All at once: the first of them may be noticed after CALL_SECONDS.
    for call in [predict.future(request, timeout=0.2) for _ in range(3)]:
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: _workers(serving) not in (set(), {lost}), "another container")
    assert set(serves_again(serving, than=lost)) <= {grpc.StatusCode.UNAVAILABLE}


def test_memory_over_the_limit_costs_the_call_alone(serving: Appliance) -> None:
    holder = worker_of(serving)
    batch = wire.from_array(np.zeros((256, 224, 224, 3), np.uint8), content=True)
    with pytest.raises(grpc.RpcError) as caught:
        serving.predict({"input": batch}, timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "more memory than the model's container may take" in (caught.value.details() or "")
    assert serving.score_images(PHOTO).shape == (1, 1001)
    assert worker_of(serving) == holder


def test_a_batch_that_takes_too_long_costs_the_call_alone(serving: Appliance) -> None:
    holder = worker_of(serving)
    # Large ones with nothing on them: few bytes to send, and long to decode on any machine.
    large = io.BytesIO()
    Image.new("RGB", (640, 480)).save(large, "JPEG")
    with pytest.raises(grpc.RpcError) as caught:
        serving.score_images(*[large.getvalue()] * 256)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "of 256 samples" in (caught.value.details() or "")
    assert serving.score_images(PHOTO).shape == (1, 1001)
    assert worker_of(serving) == holder


def lose_five(appliance: Appliance, number: signal.Signals) -> None:
    """Have five containers end by *number*, one after the other, each after it has answered."""
    for _ in range(5):
        eventually(lambda: _answers(appliance), "an answer")
        lost = worker_of(appliance)
        os.kill(lost, number)
        eventually(lambda lost=lost: lost not in _workers(appliance), "its end")


def _answers(appliance: Appliance) -> bool:
    try:
        appliance.score_images(PHOTO)
    except grpc.RpcError:
        return False
    return len(_workers(appliance)) == 1


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Appliance]:
    """One that counts all the losses of a test, however long that takes."""
    appliance = Appliance(tmp_path)
    with appliance.config.open("a") as config:
        config.write("[slot]\nfailure_window_seconds = 3600.0\n")
    try:
        appliance.start_emulator()
        appliance.start_daemon()
        yield appliance
    finally:
        appliance.close()


def test_a_model_whose_containers_keep_dying_gives_way_to_the_last_good_one(
    patient: Appliance, kws: Path, mobilenet: Path
) -> None:
    assert patient.put(kws).startswith("serving since")
    assert patient.put(mobilenet).startswith("serving since")
    x, _ = keywords()
    lose_five(patient, signal.SIGSEGV)

    def keywords_are_spotted() -> bool:
        try:
            answer = patient.predict({"input_1": wire.from_array(x[:1])}, timeout=PATIENCE)
        except grpc.RpcError:
            return False
        return list(answer.outputs) == ["Identity"]

    eventually(keywords_are_spotted, "the model before to serve again")
    log = patient.log.read_text()
    assert "is set aside: cannot keep it running: its container ended 5 times within 3600 s" in log
    shown = patient.edgectl("models", "--json").stdout
    assert "its container ended 5 times within 3600 s" in shown and "SIGSEGV" in shown


@pytest.mark.parametrize(
    ("number", "aside"), [(signal.SIGKILL, False), (signal.SIGSEGV, True)], ids=["killed", "dies"]
)
def test_the_only_model_comes_back_however_often_its_containers_end(
    patient: Appliance, mobilenet: Path, number: signal.Signals, aside: bool
) -> None:
    assert patient.put(mobilenet).startswith("serving since")
    lose_five(patient, number)
    eventually(lambda: _answers(patient), "the model to serve again")
    (model,) = json.loads(patient.edgectl("models", "--json").stdout)["models"]
    # One that dies by itself stays set aside until it has served for the whole window.
    assert (model["set_aside"] is not None) is aside and model["loaded"]
    assert "a run hangs" not in patient.log.read_text()
