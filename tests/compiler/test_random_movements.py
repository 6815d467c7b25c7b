"""Networks of movements and convolutions, drawn at random: executor, reference and float agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from compiler.pipeline import Pipeline, make_model, node, run_float
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.compiler import compile_model

KINDS = [
    "slice",
    "pad",
    "repeat",
    "interpolate",
    "spread",
    "turn",
    "shuffle",
    "join channels",
    "join rows",
    "blocks",
    "split",
    "convolve",
    "pool",
]
_MOST = 4096


class _Network:
    """A network while it grows; its last value is [1, C, H, W].

    Args:
        draw: of hypothesis.
    """

    def __init__(self, data: st.DataObject) -> None:
        self._draw = data.draw
        self.rng = np.random.default_rng(self._draw(st.integers(0, 2**32)))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, npt.NDArray[Any]] = {}
        self.start = tuple(self._draw(st.integers(2, 6)) for _ in range(3))
        self.shape: tuple[int, ...] = self.start
        self.value = "x"
        self.number = 0

    def add(self, op: str, inputs: str, shape: tuple[int, ...], **attributes: Any) -> str:
        self.number += 1
        output = f"v{self.number}"
        made = node(op, inputs.replace("@", self.value), output, **attributes)
        names = ["" if name == "_" else name for name in made.input]
        del made.input[:]
        made.input.extend(names)
        self.nodes.append(made)
        self.value, self.shape = output, shape
        return output

    def constant(self, value: object, dtype: type = np.int64) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.array(value, dtype)
        return name

    def convolve(self, count: int) -> None:
        c, h, w = self.shape
        weights = self.rng.normal(0, 1 / np.sqrt(c), (count, c, 1, 1))
        self.add("Conv", f"@ {self.constant(weights, np.float32)}", (count, h, w))

    def grow(self, kind: str) -> None:
        c, h, w = self.shape
        draw = self._draw
        if 4 * c * h * w > _MOST and kind not in ("slice", "turn", "shuffle", "convolve"):
            return
        match kind:
            case "slice":
                axis = draw(st.integers(0, 2))
                begin = draw(st.integers(0, self.shape[axis] - 1))
                step = draw(st.integers(1, 2))
                after = list(self.shape)
                after[axis] = len(range(begin, after[axis], step))
                numbers = (begin, 1 << 40, axis + 1, step)
                inputs = " ".join(self.constant([number]) for number in numbers)
                self.add("Slice", f"@ {inputs}", tuple(after))
            case "pad":
                mode = draw(st.sampled_from(["constant", "edge"]))
                widths = [draw(st.integers(0, 2)) for _ in range(6)]
                after = tuple(n + widths[i] + widths[i + 3] for i, n in enumerate(self.shape))
                amounts = self.constant([0, *widths[:3], 0, *widths[3:]])
                self.add("Pad", f"@ {amounts}", after, mode=mode)
            case "repeat" | "interpolate":
                down, across = draw(st.integers(1, 3)), draw(st.integers(1, 2))
                scales = self.constant([1, 1, down, across], np.float32)
                mode = "nearest" if kind == "repeat" else "linear"
                self.add("Resize", f"@ _ {scales}", (c, h * down, w * across), mode=mode)
            case "spread":
                stride, size = draw(st.integers(1, 3)), draw(st.integers(1, 4))
                weights = self.rng.normal(0, 0.3, (c, 3, size, size))
                after = (3, stride * (h - 1) + size, stride * (w - 1) + size)
                name = self.constant(weights, np.float32)
                self.add("ConvTranspose", f"@ {name}", after, strides=[stride, stride])
            case "turn":
                axes = draw(st.permutations([1, 2, 3]))
                after = tuple(self.shape[axis - 1] for axis in axes)
                self.add("Transpose", "@", after, perm=[0, *axes])
            case "shuffle":
                groups = draw(st.sampled_from([n for n in range(1, c + 1) if c % n == 0]))
                before = self.shape
                apart = self.constant([1, groups, c // groups, h * w])
                self.add("Reshape", f"@ {apart}", before)
                self.add("Transpose", "@", before, perm=[0, 2, 1, 3])
                self.add("Reshape", f"@ {self.constant([1, *before])}", before)
            case "join channels":
                self.add("Concat", "@ @", (2 * c, h, w), axis=1)
            case "join rows":
                self.add("Concat", "@ @", (c, 2 * h, w), axis=2)
            case "blocks":
                if h % 2 == w % 2 == 0:
                    self.add("SpaceToDepth", "@", (4 * c, h // 2, w // 2), blocksize=2)
                elif c % 4 == 0:
                    self.add("DepthToSpace", "@", (c // 4, 2 * h, 2 * w), blocksize=2)
            case "split" if c % 2 == 0:
                whole = self.value
                self.number += 1
                one, other = f"v{self.number}a", f"v{self.number}b"
                self.nodes.append(node("Split", whole, f"{one} {other}", axis=1))
                self.add("Add", f"{one} {other}", (c // 2, h, w))
            case "convolve":
                self.convolve(draw(st.integers(1, 5)))
            case "pool":
                size = [min(2, h), min(2, w)]
                after = (c, h - size[0] + 1, w - size[1] + 1)
                self.add("MaxPool", "@", after, kernel_shape=size)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_movements(data: st.DataObject) -> None:
    network = _Network(data)
    network.convolve(4)
    for kind in data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6)):
        network.grow(kind)
    network.convolve(3)
    model = make_model(
        network.nodes, {"x": ["N", *network.start]}, [network.value], network.constants
    )
    samples = {"x": network.rng.normal(0, 1, (6, *network.start)).astype(np.float32)}
    compiled = compile_model(model, calibration=samples)
    assert compiled.report.host_macs == 0
    exactly, fast = Pipeline(compiled), Pipeline(compiled, fast=True)
    found, wanted = [], []
    for index in range(6):
        one = {"x": samples["x"][index : index + 1]}
        found.append(exactly(one)[network.value])
        np.testing.assert_array_equal(fast(one)[network.value], found[-1])
        wanted.append(run_float(model, one)[network.value])
    error = np.linalg.norm(np.array(found) - wanted)
    assert error <= 0.15 * np.linalg.norm(wanted) + 1e-3
