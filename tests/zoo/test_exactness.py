"""Whole classic networks: what the compiler makes of them, and that both executors agree on it.

ResNet-50 and DenseNet-121 take seconds and run always; the rest with ``make test-slow``.
"""

from __future__ import annotations

import numpy as np
import pytest

from edged import zoo
from edged._onnxruntime import session
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
    prologue = session(compiled.model.prologue)
    sample = {name: array[:1] for name, array in compiled.samples.items()}
    names = [output.name for output in prologue.get_outputs()]
    entering = dict(zip(names, prologue.run(names, sample), strict=True))
    rng = np.random.default_rng(1)
    cases = [
        # A picture, and noise from end to end of the range, which saturates wherever it can.
        [entering[tensor.name][0] for tensor in image.input_tensors],
        [
            rng.integers(t.dtype.lowest, t.dtype.highest + 1, t.shape).astype(t.dtype.numpy)
            for t in image.input_tensors
        ],
    ]
    executor = Executor(image, weights=exact_weight_encodings(), expose_all=True)
    for inputs in cases:
        wanted, found = numerics.run_all(image, inputs), executor.run_all(inputs)
        assert wanted.keys() == found.keys() == set(range(len(image.tensors)))
        for index, tensor in enumerate(image.tensors):
            np.testing.assert_array_equal(found[index], wanted[index], err_msg=tensor.name)


def test_all_but_a_few_macs_are_on_the_device(compiled: Compiled) -> None:
    host = compiled.skeleton.macs - compiled.model.report.macs
    # The classifier where there is one; conv4_3's two heads behind the L2 norm in SSD.
    assert host <= 0.021 * compiled.skeleton.macs
    for row in compiled.model.report.host:
        assert row.reason
