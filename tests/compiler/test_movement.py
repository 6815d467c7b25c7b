"""Operators that move elements run on the device, and give what the float model gives.

Behind each movement stands a convolution that changes nothing, so that there is work for the device
which needs the values where they belong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from compiler.pipeline import Pipeline, make_model, node, run_float
from compiler.test_operators import check, exact, ops
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edged.compiler import compile_model
from edged.compiler._fold import fold
from edged.compiler._import import load_graph
from edged.compiler._moves import ZERO, moves, nest
from edged.compiler._partition import partition
from edged.errors import ModelError
from edged.npu import Loop, Op

Constants = dict[str, npt.NDArray[Any]]
Places = npt.NDArray[np.int64]
_INT = np.int64


def ints(**values: Sequence[int]) -> Constants:
    return {name: np.array(value, _INT) for name, value in values.items()}


def behind(
    nodes: Sequence[onnx.NodeProto],
    moved: Mapping[str, int],
    constants: Mapping[str, npt.NDArray[Any]],
    shape: Sequence[int | str] = ("N", 8, 6, 4),
) -> bytes:
    """A model of *nodes* on x, and an identity of so many channels behind each value in *moved*."""
    eyes = [
        node("Conv", f"{name} eye{channels}", f"{name}_out") for name, channels in moved.items()
    ]
    weights = {f"eye{n}": np.eye(n, dtype=np.float32).reshape(n, n, 1, 1) for n in moved.values()}
    return make_model(
        [*nodes, *eyes], {"x": shape}, [f"{name}_out" for name in moved], {**constants, **weights}
    )


SLICE = "x starts ends axes steps"
CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, int], Constants]] = {
    "slice of rows": (
        [node("Slice", SLICE, "m")],
        {"m": 8},
        ints(starts=[1], ends=[-1], axes=[2], steps=[2]),
    ),
    "slice of channels": (
        [node("Slice", "x starts ends axes", "m")],
        {"m": 3},
        ints(starts=[-5], ends=[6], axes=[1]),
    ),
    "slice of all": (
        [node("Slice", SLICE, "m")],
        {"m": 3},
        ints(starts=[1, 0, 1], ends=[2**62, 5, 4], axes=[1, 2, 3], steps=[3, 2, 2]),
    ),
    "split": ([node("Split", "x sizes", "a m b", axis=1)], {"a": 2, "b": 3}, ints(sizes=[2, 3, 3])),
    "focus": (
        [
            node("Slice", "x s00 e axes steps", "a"),
            node("Slice", "x s10 e axes steps", "b"),
            node("Slice", "x s01 e axes steps", "c"),
            node("Slice", "x s11 e axes steps", "d"),
            node("Concat", "a b c d", "m", axis=1),
        ],
        {"m": 32},
        ints(s00=[0, 0], s10=[1, 0], s01=[0, 1], s11=[1, 1], e=[99, 99], axes=[2, 3], steps=[2, 2]),
    ),
    "gather": ([node("Gather", "x i", "m", axis=1)], {"m": 4}, ints(i=[0, 2, 4, 6])),
    "shuffle": (
        [
            node("Reshape", "x apart", "r"),
            node("Transpose", "r", "t", perm=[0, 2, 1, 3, 4]),
            node("Reshape", "t together", "m"),
        ],
        {"m": 8},
        ints(apart=[1, 2, 4, 6, 4], together=[1, 8, 6, 4]),
    ),
    "shuffle and split by gather": (
        [
            node("Reshape", "x apart", "r"),
            node("Transpose", "r", "t", perm=[1, 0, 2]),
            node("Reshape", "t together", "m"),
            node("Gather", "m zero", "a", axis=0),
            node("Gather", "m one", "b", axis=0),
        ],
        {"a": 4, "b": 4},
        ints(apart=[4, 2, 24], together=[2, -1, 4, 6, 4], zero=0, one=1),
    ),
    "depth to space": ([node("DepthToSpace", "x", "m", blocksize=2)], {"m": 2}, {}),
    "depth to space, channels first": (
        [node("DepthToSpace", "x", "m", blocksize=2, mode="CRD")],
        {"m": 2},
        {},
    ),
    "depth to space by transpose": (
        [
            node("Reshape", "x apart", "r"),
            node("Transpose", "r", "t", perm=[0, 1, 4, 2, 5, 3]),
            node("Reshape", "t together", "m"),
        ],
        {"m": 2},
        ints(apart=[1, 2, 2, 2, 6, 4], together=[1, 2, 12, 8]),
    ),
    "space to depth": ([node("SpaceToDepth", "x", "m", blocksize=2)], {"m": 32}, {}),
    "resize": (
        [node("Resize", "x _ scales", "m", mode="nearest")],
        {"m": 8},
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    "resize by 3 and 2, asymmetric": (
        [
            node(
                "Resize",
                "x _ scales",
                "m",
                mode="nearest",
                nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            )
        ],
        {"m": 8},
        {"scales": np.array([1, 1, 3, 2], np.float32)},
    ),
    "resize to half": (
        [node("Resize", "x _ _ sizes", "m", mode="nearest", nearest_mode="floor")],
        {"m": 8},
        ints(sizes=[1, 8, 3, 2]),
    ),
    "concat of rows": ([node("Concat", "x x x", "m", axis=2)], {"m": 8}, {}),
    "concat of columns": ([node("Concat", "x x", "m", axis=-1)], {"m": 8}, {}),
    "tile": ([node("Tile", "x repeats", "m")], {"m": 16}, ints(repeats=[1, 2, 1, 3])),
    "expand": (
        [node("GlobalMaxPool", "x", "p"), node("Expand", "p shape", "m")],
        {"m": 8},
        ints(shape=[1, 8, 3, 5]),
    ),
    "transpose of the image": (
        [node("Transpose", "x", "m", perm=[0, 1, 3, 2])],
        {"m": 8},
        {},
    ),
    "reshape of the image": ([node("Reshape", "x shape", "m")], {"m": 4}, ints(shape=[1, 4, 6, 8])),
    "pad of channels": (
        [node("Pad", "x pads", "m")],
        {"m": 11},
        ints(pads=[0, 1, 0, 0, 0, 2, 0, 0]),
    ),
    "pad of pixels": (
        [node("Pad", "x pads", "m")],
        {"m": 8},
        ints(pads=[0, 0, 2, 1, 0, 0, 0, 3]),
    ),
    "crop": ([node("Pad", "x pads", "m")], {"m": 8}, ints(pads=[0, 0, -1, 0, 0, 0, -2, 1])),
    "edges": (
        [node("Pad", "x pads", "m", mode="edge")],
        {"m": 8},
        ints(pads=[0, 0, 2, 1, 0, 0, 2, 1]),
    ),
    "channels last": (
        [
            node("Transpose", "x", "t", perm=[0, 2, 3, 1]),
            node("Pad", "t pads", "p"),
            node("Slice", "p starts ends axes", "s"),
            node("Concat", "s t", "c", axis=3),
            node("Transpose", "c", "m", perm=[0, 3, 1, 2]),
        ],
        {"m": 13},
        ints(pads=[0, 0, 0, 0, 0, 0, 0, 2], starts=[5], ends=[10], axes=[3]),
    ),
}

FREE = {"shuffle", "transpose of the image"}
"""The convolution behind these takes its channels, and its pixels one by one, in any order."""


@pytest.mark.parametrize("case", CASES)
def test_movement(case: str) -> None:
    nodes, moved, constants = CASES[case]
    rng = np.random.default_rng(11)
    model = behind([node("Relu", "x", "x0"), *_renamed(nodes)], moved, constants)
    compiled = check(model, {"x": exact(rng, (2, 8, 6, 4))})
    assert compiled.report.host == ()
    assert (Op.COPY in ops(compiled)) == (case not in FREE)
    samples = {"x": exact(rng, (1, 8, 6, 4))}
    exactly, fast = Pipeline(compiled)(samples), Pipeline(compiled, fast=True)(samples)
    for name, value in exactly.items():
        np.testing.assert_array_equal(fast[name], value)


def _renamed(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """*nodes* reading x0 instead of x, and nothing instead of _."""
    copies = [onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes]
    for each in copies:
        names = [{"x": "x0", "_": ""}.get(name, name) for name in each.input]
        del each.input[:]
        each.input.extend(names)
    return copies


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_nest_finds_the_loops_that_made_an_order(data: st.DataObject) -> None:
    draw = data.draw
    loops = draw(
        st.lists(
            st.builds(Loop, st.integers(1, 4), st.integers(0, 30), st.integers(1, 30)),
            min_size=1,
            max_size=5,
        )
    )
    sources, targets = _visited(loops, draw(st.integers(0, 5)), 0)
    found = nest(sources, targets)
    assert found is not None
    assert len(found) <= 5
    again = _visited(found, int(sources[0]), 0)
    np.testing.assert_array_equal(again, (sources, targets))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_moves_do_what_the_arrays_say(data: st.DataObject) -> None:
    """Whatever numpy does to an array by slices, pads and transpositions."""
    draw = data.draw
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3))
    places = np.arange(np.prod(shape), dtype=_INT).reshape(shape)
    for _ in range(draw(st.integers(1, 3))):
        axis = draw(st.integers(0, 2))
        match draw(st.sampled_from(["slice", "pad", "transpose", "repeat"])):
            case "slice":
                box = [slice(None)] * 3
                box[axis] = slice(draw(st.integers(0, places.shape[axis] - 1)), None, 2)
                places = places[tuple(box)]
            case "transpose":
                places = places.transpose(draw(st.permutations(range(3))))
            case "repeat":
                places = places.repeat(draw(st.integers(1, 3)), axis)
            case "pad" if (places >= 0).all():
                widths = [draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) for _ in range(3)]
                mode = draw(st.sampled_from(["constant", "edge"]))
                fill = {"constant_values": ZERO} if mode == "constant" else {}
                places = np.pad(places, widths, mode, **fill)  # type: ignore[call-overload]
    targets = np.arange(places.size, dtype=_INT).reshape(places.shape)
    found = moves(0, places, targets)
    assume(found is not None)
    assert found is not None
    written = np.full(places.size, -2)
    for move in found:
        sources, there = _visited(move.loops, move.source_start, move.target_start)
        assert (written[there] == -2).all()
        written[there] = ZERO if move.source is None else sources
    np.testing.assert_array_equal(written.reshape(places.shape), places)


def _visited(loops: Sequence[Loop], source: int, target: int) -> tuple[Places, Places]:
    """The places at which *loops* are, turn by turn."""
    sources, targets = np.array([source]), np.array([target])
    for loop in loops:
        turns = np.arange(loop.count)
        sources = (sources[:, None] + turns * loop.source).reshape(-1)
        targets = (targets[:, None] + turns * loop.target).reshape(-1)
    return sources, targets


def test_what_goes_backwards_stays_on_the_host() -> None:
    nodes = [node("Conv", "x eye8", "x0"), node("Slice", "x0 starts ends axes steps", "m")]
    constants = ints(starts=[-1], ends=[-99], axes=[2], steps=[-1])
    compiled = check(
        behind(nodes, {"m": 8}, constants), {"x": exact(np.random.default_rng(5), (1, 8, 6, 4))}
    )
    assert [row.op for row in compiled.report.host] == ["Slice"]
    assert "loops" in compiled.report.host[0].reason


def test_an_order_without_pattern_is_no_movement() -> None:
    places = np.random.default_rng(8).permutation(100)
    assert moves(0, places, np.arange(100)) is None


def test_a_wide_window_wants_its_pixels_in_order_but_takes_channels_in_any() -> None:
    rng = np.random.default_rng(12)
    shuffle, _, sizes = CASES["shuffle"]
    turned, _, _ = CASES["transpose of the image"]
    for nodes, copies in ((shuffle, 0), (turned, 1)):
        model = make_model(
            [
                node("Relu", "x", "x0"),
                *_renamed(nodes),
                node("Conv", "m w", "y", pads=[1, 1, 1, 1]),
            ],
            {"x": ["N", 8, 6, 4]},
            ["y"],
            {"w": exact(rng, (3, 8, 3, 3)), **(sizes if nodes is shuffle else {})},
        )
        compiled = check(model, {"x": exact(rng, (1, 8, 6, 4))})
        assert ops(compiled).count(Op.COPY) == copies
        assert compiled.report.host == ()


def test_what_is_moved_last_is_moved_by_the_host() -> None:
    """Two heads of different sizes in one output: each leaves with steps of its own."""
    rng = np.random.default_rng(6)
    model = make_model(
        [
            node("Conv", "x w", "a"),
            node("Conv", "x v", "b"),
            node("Concat", "a b", "c", axis=2),
            node("Transpose", "c", "y", perm=[0, 2, 3, 1]),
        ],
        {"x": ["N", 4, 5, 5]},
        ["y"],
        {"w": exact(rng, (3, 4, 1, 1)), "v": exact(rng, (3, 4, 1, 1)) / 1024},
    )
    compiled = compile_model(model, calibration={"x": exact(rng, (2, 4, 5, 5))})
    assert ops(compiled) == [Op.CONV, Op.CONV]
    assert [row.op for row in compiled.report.host] == ["Concat", "Transpose"]


def test_a_part_that_is_read_late_is_not_overwritten() -> None:
    """Parts of one tensor share its place in DRAM from the first to the last of them."""
    rng = np.random.default_rng(7)
    nodes = [node("Relu", "x", "r0")]
    for turn in range(3):
        nodes += [
            node("Conv", f"r{turn} w", f"c{turn}", pads=[1, 1, 1, 1]),
            node("Pad", f"c{turn} pads", f"p{turn}"),
            node("Concat", f"p{turn} r{turn}", f"r{turn + 1}", axis=2),
        ]
        nodes[-1].input[1] = f"p{turn}"
    model = behind(
        nodes,
        {"r3": 4},
        {"w": exact(rng, (4, 4, 3, 3)) / 8, **ints(pads=[0, 0, 1, 0, 0, 0, 0, 1])},
        ("N", 4, 5, 5),
    )
    samples = {"x": exact(rng, (1, 4, 5, 5))}
    compiled = compile_model(model, calibration=samples)
    assert compiled.report.host == ()
    wanted, found = run_float(model, samples)["r3_out"], Pipeline(compiled)(samples)["r3_out"]
    assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)


def test_channels_of_different_sizes_are_mixed_behind_a_copy_and_a_pool() -> None:
    """The copy and the pool hand on the exponents of what they read: one for all channels then."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(0, 0.7, (4, 2, 1, 1)).astype(np.float32),
        "v": rng.normal(0, 1, (3, 1, 1, 1)).astype(np.float32),
    }
    model = make_model(
        [
            node("Conv", "x w", "c"),
            node("Slice", "c start end axis", "s"),
            node("MaxPool", "s", "p", kernel_shape=[2, 2]),
            node("Transpose", "p", "t", perm=[0, 2, 1, 3]),
            node("Conv", "t v", "y"),
        ],
        {"x": ["N", 2, 2, 2]},
        ["y"],
        {**constants, **ints(start=[0], end=[9], axis=[1])},
    )
    samples = {"x": rng.normal(0, 1, (6, 2, 2, 2)).astype(np.float32)}
    run = Pipeline(compile_model(model, calibration=samples))
    for index in range(6):
        one = {"x": samples["x"][index : index + 1]}
        wanted, found = run_float(model, one)["y"], run(one)["y"]
        assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("op", "inputs", "constants", "attributes"),
    [
        ("Gather", "i", ints(i=[0, 9]), {"axis": 1}),
        ("Slice", "starts ends axes", ints(starts=[7], ends=[9], axes=[1]), {}),
        ("SpaceToDepth", "", {}, {"blocksize": 5}),
        ("DepthToSpace", "", {}, {"blocksize": 3}),
        ("Tile", "repeats", ints(repeats=[1, 1, 1 << 18, 1 << 18]), {}),
        ("Tile", "repeats", ints(repeats=[1, 1, -1, 1]), {}),
        ("Pad", "pads", ints(pads=[0, 0, -4, 0, 0, 0, -4, 0]), {}),
        ("Pad", "pads", ints(pads=[0, 0, 1 << 20, 0, 0, 0, 1 << 20, 0]), {}),
        ("Resize", "_ scales", {"scales": np.array([1, 1, np.nan, 2], np.float32)}, {}),
        ("Resize", "_ scales", {"scales": np.array([1, 1, 1e6, 1e6], np.float32)}, {}),
        (
            "ConvTranspose",
            "k",
            {"k": np.ones((4, 4, 2, 2), np.float32)},
            {"dilations": [100_000, 100_000]},
        ),
        (
            "ConvTranspose",
            "k",
            {"k": np.ones((4, 4, 2, 2), np.float32)},
            {"pads": [9, 9, 9, 9], "strides": [2, 2]},
        ),
    ],
)
def test_what_cannot_be_is_refused_or_left_to_the_host(
    op: str, inputs: str, constants: Constants, attributes: dict[str, Any]
) -> None:
    """A hostile model costs neither memory nor another error than the compiler's own."""
    (moved,) = _renamed([node(op, f"x {inputs}", "m", **attributes)])
    model = make_model(
        [
            node("Conv", "x eye4", "x0"),
            moved,
            node("Relu", "m", "r"),
            node("GlobalMaxPool", "r", "y"),
        ],
        {"x": ["N", 4, 6, 6]},
        ["y"],
        {**constants, "eye4": np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)},
    )
    try:
        cut = partition(fold(load_graph(model)))
    except ModelError:
        return
    assert op in [entry.node.op for entry in cut.host]
