"""Whole classic networks: what the compiler makes of them, and that both executors agree on it.

ResNet-50 and DenseNet-121 take seconds and run always; the rest with ``make test-slow``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edged import zoo
from edged._pipeline import Pipeline
from edged.compiler import CompiledModel, compile_model
from edged.emulator import Executor, exact_weight_encodings
from edged.npu import numerics

SLOW = ("resnet-152", "vgg-16", "ssd-vgg-300")


class Compiled:
    """A network, compiled with two samples, and these."""

    def __init__(self, name: str) -> None:
        model = zoo.build(name, seed=5)
        self.skeleton = model.skeleton
        self.samples = model.samples(2)
        source = model.onnx()
        del model
        self.model: CompiledModel = compile_model(source, calibration=self.samples)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
        for name in zoo.NETWORKS
    ],
)
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return Compiled(request.param)


def test_the_fast_executor_equals_the_reference_in_every_element(compiled: Compiled) -> None:
    image = compiled.model.image
    sample = {name: array[:1] for name, array in compiled.samples.items()}
    rng = np.random.default_rng(1)
    compared: set[int] = set()

    def both(entry: int, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        executor = Executor(image, entry, weights=exact_weight_encodings(), expose_all=True)
        tensors = image.chosen(image.entries[entry].inputs)
        noise = [
            rng.integers(t.dtype.lowest, t.dtype.highest + 1, t.shape).astype(t.dtype.numpy)
            for t in tensors
        ]
        # Noise from end to end of the range, which saturates wherever it can, and a picture.
        for given in (noise, [value[0] for value in inputs]):
            wanted, found = numerics.run_all(image, given, entry), executor.run_all(given)
            assert wanted.keys() == found.keys()
            for index, value in wanted.items():
                name = image.tensors[index].name
                np.testing.assert_array_equal(found[index], value, err_msg=name)
            compared.update(wanted)
        return [wanted[index][None] for index in image.entries[entry].outputs]

    Pipeline(image, compiled.model.host).run(sample, both)
    assert compared == set(range(len(image.tensors)))


def test_all_but_a_few_macs_are_on_the_device(compiled: Compiled) -> None:
    host = compiled.skeleton.macs - compiled.model.report.macs
    # The classifier where there is one; SSD's two heads behind an L2 norm are an entry.
    assert host <= 0.001 * compiled.skeleton.macs
    for row in compiled.model.report.host:
        assert row.reason
