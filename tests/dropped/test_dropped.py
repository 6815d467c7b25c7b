"""Some of what people drop, against the whole appliance; `make dropped` tries all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from dropped.cases import cases
from dropped.measure import Found, measure
from dropped.run import tables
from integration.appliance import Appliance
from patience import eventually

CASES = {case.name: case for case in cases()}
CHOSEN = (
    *("two-files-model-first", "two-files-in-a-folder"),
    *("triton-repository", "name-without-latin-letters"),
    *("tensorflow-saved-model", "git-lfs-pointer", "web-page", "symbolic-link", "pytorch"),
    *("openvino", "labels"),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """One appliance for all of them."""
    appliance = Appliance(tmp_path_factory.mktemp("d"))
    try:
        appliance.start_emulator()
        appliance.start_daemon()
        yield appliance
    finally:
        appliance.close()


@pytest.mark.parametrize("name", CHOSEN)
def test_what_is_dropped_is_served_or_named(shared: Appliance, tmp_path: Path, name: str) -> None:
    found = measure(shared, CASES[name], tmp_path)
    assert found.met, found.text
    if found.serves and name.startswith("two-files-model"):
        # Nothing of the pair stays.
        left = f"{name}.onnx.data"
        eventually(lambda: not (shared.drop / left).exists(), f"{left} to go")


def test_messages_name_the_file_that_was_dropped(shared: Appliance, tmp_path: Path) -> None:
    model = CASES["head-nms-rows"].model
    assert model is not None
    broken = model()
    broken.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.STRING
    (tmp_path / "words.onnx").write_bytes(broken.SerializeToString())
    said = shared.put(tmp_path / "words.onnx")
    assert said.startswith("rejected: cannot ")
    assert "words.onnx" in said
    assert "model.onnx" not in said


def test_every_case_can_be_made_and_has_a_name_of_its_own() -> None:
    names = [case.name for case in cases()]
    assert len(names) == len(set(names))
    for case in cases():
        if case.model is not None and case.kind != "quantised before":
            onnx.checker.check_model(case.model())


def test_the_table_counts_what_is_as_wanted() -> None:
    good, bad = CASES["opset-21"], CASES["web-page"]
    found = [
        Found(good, True, "serving since", 0.01, 1.0),
        Found(good, True, "serving since", 0.5, 1.0),
        Found(good, False, "rejected: cannot | take <it>"),
        Found(bad, False, "rejected: it is a web page"),
        Found(bad, False, "ignored"),
    ]
    assert [each.met for each in found] == [True, False, False, True, False]
    text = tables(found, [("a body", "answered", "200: {}", True)], {"onnx": "1"})
    assert "3 of 6 are as wanted, with onnx 1." in text
    assert "rejected: cannot \\| take \\<it\\>" in text


def test_the_evidence_is_that_of_the_page() -> None:
    docs = Path(__file__).parents[2] / "docs"
    aims = json.loads((docs / "evidence" / "dropped.json").read_text())["aims"]
    met = sum(each["met"] for each in aims)
    assert f"{met} of {len(aims)} are as wanted" in (docs / "dropped.md").read_text()
