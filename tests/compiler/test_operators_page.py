"""docs/operators.md says what the compiler's rules do."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from compiler.pipeline import make_model, node

from edged.compiler import _place as place
from edged.compiler import survey
from edged.compiler._kernel import Limit
from edged.compiler._place import common_limits, groups, limits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operators.md").read_text()


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("operators", ROOT / "packaging" / "operators.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current() -> None:
    evidence = json.loads((ROOT / "docs" / "evidence" / "operators.json").read_text())
    assert generator().page(evidence) == PAGE, "run `make docs`"


def test_every_limit_is_on_the_page_and_each_rule_names_those_it_checks() -> None:
    modules = [m for name, m in sys.modules.items() if name.startswith(place.__name__)]
    there = {value for m in modules for value in vars(m).values() if isinstance(value, Limit)}
    used = {limit for group in groups() for op in group for limit in limits(op)}
    assert there == used | set(common_limits())
    assert all(limit.wanted in PAGE for limit in there)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("AveragePool", "x", {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}),
        ("ReduceMean", "x", {"axes": [1], "keepdims": 1}),
        ("Concat", "x other", {"axis": 1}),
        ("Pad", "x pads one", {}),
        ("Add", "x other", {}),
    ],
)
def test_a_refusal_is_a_limit_of_its_operator(
    op: str, inputs: str, attributes: dict[str, object]
) -> None:
    """Where the rule refuses, it does so by a limit that the page has for the operator."""
    import numpy as np

    from edged.compiler._fold import fold
    from edged.compiler._import import load_graph
    from edged.compiler._partition import partition

    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=(4, 4, 1, 1)).astype(np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "one": np.float32(1),
        "other": rng.normal(size=(1, 4, 6, 6)).astype(np.float32),
    }
    model = make_model(
        [node("Conv", "x w", "c"), node(op, inputs.replace("x", "c"), "y", **attributes)],
        {"x": ["N", 4, 6, 6]},
        ["y"],
        constants,
    )
    cut = partition(fold(load_graph(model)))
    hosts = [entry for entry in cut.host if entry.node.op == op]
    assert hosts
    for host in hosts:
        assert any(
            re.fullmatch(re.sub(r"\\{\w+\\}", ".*", re.escape(limit.refusal)), host.reason)
            for limit in (*limits(op), *common_limits())
        ), host.reason
    assert survey(model).layers == len(cut.kernels)
