"""Whole networks as they are scheduled: the bytes of the integer reference, in the model's time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edged.compiler import compile_model
from edged.npu import Target, numerics
from edged.scheduler import scheduled
from edged.scheduler.timing import measure
from firmware.tests.machine import Machine, Program

_DATA = Path(__file__).parents[2] / "tests/data"
_NETWORKS = (
    "models/kws_dscnn",
    pytest.param("networks/oww_embedding", marks=pytest.mark.slow),
)


@pytest.mark.parametrize("network", _NETWORKS)
def test_a_network_leaves_what_its_layers_say_in_the_time_of_the_model(
    machine: Machine, network: str
) -> None:
    parameters = machine.parameters
    compiled = compile_model(
        (_DATA / f"{network}.onnx").read_bytes(), target=Target(parameters.array)
    )
    found = scheduled(compiled.image, parameters.activation_buffer, parameters.weight_buffer)
    image, rng = found.image, np.random.default_rng(0)
    dram = rng.integers(0, 256, -(-image.dram_bytes // 64) * 64, np.uint8)
    (source,), (result,) = image.input_tensors, image.output_tensors
    x = rng.integers(source.dtype.lowest, source.dtype.highest + 1, source.shape)
    x = x.astype(source.dtype.numpy)
    dram[source.address : source.address + source.nbytes] = x.reshape(-1).view(np.uint8)
    outcome = machine.run(Program(image.code, dram, image.packed, cycles=20_000_000))
    assert outcome.fault is None and outcome.ended and outcome.guards
    (wanted,) = numerics.run(image, [x])
    left = outcome.dram[result.address : result.address + result.nbytes]
    np.testing.assert_array_equal(left, wanted.reshape(-1).view(np.uint8))
    cycles = measure(image, found.layers)
    assert sum(layer.array for layer in cycles) == outcome.array
    assert sum(layer.written for layer in cycles) == 64 * outcome.written
    assert sum(layer.cycles for layer in cycles) == pytest.approx(outcome.cycles, rel=0.03)
