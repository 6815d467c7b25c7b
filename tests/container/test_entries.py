"""A model whose program has two entries: the container runs a part of the host between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE

from edged import wire
from edged.container._files import Files
from edged.container._messages import STAGES, Stage
from edged.container.worker import _runner
from edged.container.worker._model import Model
from edged.container.worker._recall import Recall
from edged.container.worker._service import ModelService
from edged.container.worker._stages import Stages
from edged.device import vfio_user
from edged.errors import DeadlineError, DeviceError
from edged.npu import numerics, parse_image

PIXELS = np.random.default_rng(9).integers(0, 256, (3, 16, 16, 3), np.uint8)


def request() -> bytes:
    message = wire.PredictRequest()
    message.inputs["input"].CopyFrom(wire.from_array(PIXELS))
    return message.SerializeToString()


async def test_a_call_goes_through_both_and_gives_what_the_reference_gives(
    sample_in_two: Any, emulate: Any, launch: Callable[..., Any], tmp_path: Path
) -> None:
    image = parse_image((sample_in_two.folder / "program.img").read_bytes())
    assert [len(entry.layers) for entry in image.entries] == [1, 3]
    container = await launch().start(sample_in_two.folder)
    try:
        with emulate(tmp_path, sample_in_two.folder) as emulator:
            await container.attach(vfio_user.connect(emulator.socket))
            await container.self_test()
            answer = await container.call(wire.PREDICT, request(), PATIENCE)
    finally:
        await container.stop()
    found = wire.PredictResponse.FromString(answer).outputs
    for name, values in (
        (name, [sample_in_two.reference(each[None])[name] for each in PIXELS])
        for name in ("scores:0", "features:0")
    ):
        np.testing.assert_array_equal(wire.to_array(found[name]), np.concatenate(values))


class Device:
    """The reference, which computes the entries in *broken* wrongly."""

    attached = True

    def __init__(self, model: Model, broken: Sequence[int] = ()) -> None:
        self._image = model.image
        self._broken = broken
        self.runs: list[int] = []

    def run(self, entry: int, inputs: Any, on_turn: Callable[[], None]) -> list[Any]:
        on_turn()
        self.runs.append(entry)
        found = [out[None] for out in numerics.run(self._image, [x[0] for x in inputs], entry)]
        return [np.roll(out, 1, axis=-1) for out in found] if entry in self._broken else found


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ([1], r"; from the integer reference differs entry 1 in \d+ of \d+ elements"),
        ([0, 1], r"; from the integer reference differs entry 0 in .*, entry 1 in"),
    ],
)
def test_the_self_test_says_which_entry_is_broken(
    sample_in_two: Any, broken: list[int], said: str
) -> None:
    model = Model.load(Files(sample_in_two.folder, {}))
    ModelService(model, Device(model), Stages(), Recall()).self_test(PATIENCE)  # type: ignore[arg-type]
    service = ModelService(model, Device(model, broken), Stages(), Recall())  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match=said):
        service.self_test(PATIENCE)


def test_a_call_whose_time_is_over_does_not_go_to_the_device_again(
    sample_in_two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model.load(Files(sample_in_two.folder, {}))
    device = Device(model)
    service = ModelService(model, device, Stages(), Recall())  # type: ignore[arg-type]
    clock = SimpleNamespace(monotonic=lambda: float(len(device.runs)))
    monkeypatch.setattr(_runner, "time", clock)
    with pytest.raises(DeadlineError, match=r"after 1 of 2 runs of the device for a sample"):
        service.answer(wire.PREDICT, request(), 0.5)
    assert device.runs == [0]


def test_the_time_of_every_part_is_in_one_of_the_stages(sample_in_two: Any) -> None:
    model = Model.load(Files(sample_in_two.folder, {}))
    device, stages = Device(model), Stages()
    service = ModelService(model, device, stages, Recall())  # type: ignore[arg-type]
    stages.begin()
    service.answer(wire.PREDICT, request(), float("inf"))
    taken = dict(zip(STAGES, stages.end(0.0), strict=True))
    assert device.runs == [0, 1] * len(PIXELS)
    assert all(taken[stage] > 0 for stage in (Stage.DECODE, Stage.DEVICE, Stage.EPILOGUE))
