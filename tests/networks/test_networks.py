"""What `make networks` measures: readers, judges, aims, and one network from end to end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evidence import END, begin
from networks import judges
from networks.measure import Row, measure
from networks.network import Network, float_run
from networks.run import COMMAND, aims, in_a_process, run, tables
from networks.table import NETWORKS

DATA = Path(__file__).parents[1] / "data"
BY_NAME = {network.name: network for network in NETWORKS}
UNDECIDED = {"movenet_lightning_qdq": {"couple.png"}}
"""Cases that are not judged, because float does not answer the same on every processor."""
TODAY = [network for network in NETWORKS if network.today]


def test_there_are_fourteen_of_today_and_seven_of_before() -> None:
    assert len(BY_NAME) == len(NETWORKS) == 21
    assert len(TODAY) == 14


@pytest.mark.parametrize("network", TODAY, ids=lambda network: network.name)
def test_float_answers_are_read_as_its_authors_do(network: Network) -> None:
    file = DATA / "networks" / "expected" / f"{network.name}.json"
    expected = json.loads(file.read_text())["answers"]
    cases = network.cases()
    if not network.state:
        cases = {name: inputs for name, inputs in cases.items() if name in expected}
    found = network.read(network.outputs(float_run(network.model()), cases))
    assert expected.keys() - found.keys() == UNDECIDED.get(network.name, set())
    for case, answer in found.items():
        # Of two ways up, the better one is written without a list around it.
        written = [expected[case]] if network.name == "ppocr_cls" else expected[case]
        assert_as_written(answer, written, case)


def assert_as_written(found: Any, written: Any, place: str) -> None:
    """*written* is *found*, rounded to as many digits; the last may be off by one."""
    if isinstance(written, Mapping):
        assert found.keys() == written.keys(), place
        for name, value in written.items():
            assert_as_written(found[name], value, f"{place} {name}")
    elif isinstance(written, Sequence) and not isinstance(written, str):
        assert len(found) == len(written), place
        for index, value in enumerate(written):
            assert_as_written(found[index], value, f"{place} {index}")
    elif isinstance(written, float):
        digits = len(repr(written).partition(".")[2])
        assert found == pytest.approx(written, abs=1.5 * 10**-digits), place
    else:
        assert found == written, place


def test_calibration_is_none_of_what_is_judged() -> None:
    for network in TODAY:
        if "judged" in network.calibrated_with:
            continue
        samples = network.calibration()
        used = {name: {each.tobytes() for each in values} for name, values in samples.items()}
        for case, inputs in network.cases().items():
            for name, value in inputs.items():
                assert value.dtype == samples[name].dtype, network.name
                assert value.shape[1:] == samples[name].shape[1:], network.name
                assert value.tobytes() not in used[name], f"{network.name}: {case}"


def test_a_network_from_end_to_end() -> None:
    row = measure(BY_NAME["yunet"], seconds=0.1)
    assert row.refused == ""
    assert row.macs > 0
    assert row.met, row.found
    assert row.found == "5 of 5, 0 false"
    assert row.cosine is not None and 0.9 < row.cosine < 1
    assert row.image_bytes is not None and row.image_bytes > 10_000
    assert row.speed is not None and row.speed > 0


def test_a_network_that_cannot_be_compiled_is_a_row() -> None:
    row = measure(replace(BY_NAME["yunet"], shapes={"x": (1, 2)}))
    assert row.refused.startswith("cannot ")
    assert (row.share, row.speed) == (0.0, None)
    found = aims([BY_NAME["yunet"]], {"yunet": row})
    assert [aim.met for aim in found] == [False] * 4
    assert found[2].found == row.refused


def test_boxes_are_the_same_where_class_and_place_are() -> None:
    here, there = (0.0, 0.0, 10.0, 10.0), (100.0, 0.0, 110.0, 10.0)
    float_ = {"a": [("dog", 0.9, here), ("cat", 0.8, there)], "b": []}
    same = {"a": [("cat", 0.7, (101.0, 0.0, 111.0, 10.0)), ("dog", 0.5, here)], "b": []}
    assert judges.boxes(float_, same) == judges.Judged("2 of 2, 0 false", True)
    other = {"a": [("cat", 0.7, here), ("cat", 0.6, there)], "b": []}
    assert judges.boxes(float_, other) == judges.Judged(
        "1 of 2, 1 false; no dog 0.90 in a; false cat 0.70 in a", False
    )
    twice = {"a": [*same["a"], ("dog", 0.4, here)], "b": []}
    assert not judges.boxes(float_, twice).met


def test_numbers_are_near_or_not_and_nothing_else() -> None:
    float_ = {"a": {"nose": [1.0, 2.0]}}
    assert judges.numbers(0.1)(float_, {"a": {"nose": [1.0, 2.05]}}).met
    far = judges.numbers(0.1)(float_, {"a": {"nose": [1.2, 2.0]}})
    assert far == judges.Judged("at most 0.2 apart (nose 0 of a)", False)
    assert not judges.numbers(0.1)(float_, {"a": {"nose": [float("nan"), 2.0]}}).met
    assert judges.numbers(0.1, share=True)(float_, {"a": {"nose": [1.2, 2.0]}}).met
    pose = {"a": {"nose": [0.5, 0.5, 0.9]}}
    assert judges.places(0.01)(pose, {"a": {"nose": [0.505, 0.5, 0.1]}}).met


def test_classes_are_the_first_label_and_how_likely_it_is() -> None:
    float_ = {"a": [["dog", 0.9], ["cat", 0.1]]}
    assert judges.classes(0.12)(float_, {"a": [["dog", 0.8]]}).met
    assert not judges.classes(0.12)(float_, {"a": [["dog", 0.7]]}).met
    assert not judges.classes(0.12)(float_, {"a": [["cat", 0.9]]}).met
    assert not judges.classes(0.12, mean=0.05)(float_, {"a": [["dog", 0.8]]}).met


def test_the_cosine_is_that_of_the_worst_output() -> None:
    float_ = {"a": {"x": np.float32([1, 0]), "y": np.float32([1, 0])}}
    device = {"a": {"x": np.float32([2, 0]), "y": np.float32([0, 1])}}
    assert judges.cosine(float_, device) == (0.0, "y")
    assert judges.alike(0.9)(float_, float_).met
    assert not judges.alike(0.9)(float_, device).met


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    page, evidence = tmp_path / "networks.md", tmp_path / "networks.json"
    page.write_text(f"{begin(COMMAND)}\n{END}\n")
    seen: list[str] = []

    def interrupted(name: str) -> Row:
        seen.append(name)
        if len(seen) == 4:
            raise KeyboardInterrupt
        if len(seen) == 2:
            return Row(name, "9", refused="its process ended", failed=True)
        return row(name, 1.0, 1.3)

    with pytest.raises(KeyboardInterrupt):
        run(page, evidence, (), interrupted)
    names = [network.name for network in NETWORKS]
    assert seen == names[:4]
    assert "| its process ended |" in page.read_text()
    seen = [""] * 10
    assert run(page, evidence, (), interrupted) == 0
    # What failed is tried again, what was found stays.
    assert seen[10:] == [names[1], *names[3:]]
    assert all(each["met"] for each in json.loads(evidence.read_text())["aims"])
    assert run(page, evidence, ["yunet"], interrupted) == 0
    assert seen[-1] == "yunet"


def test_a_network_whose_process_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(DATA.parent))
    found = in_a_process("unheard-of")
    assert found.failed
    assert found.refused.startswith("its process ended with status 1: ValueError")


def row(name: str, share: float, speed: float) -> Row:
    return Row(
        name,
        "9",
        macs=round(1000 * share),
        host_macs=1000 - round(1000 * share),
        host={"Resize": 2},
        found="all | of them",
        met=True,
        cosine=0.999,
        compile_seconds=1.5,
        image_bytes=10**6,
        float_seconds=speed,
        device_seconds=1.0,
    )


def test_aims_are_met_by_all_or_not_at_all() -> None:
    rows = {network.name: row(network.name, 1.0, 1.3) for network in NETWORKS}
    found = aims(NETWORKS, rows)
    assert len(found) == 2 + 2 * 21
    assert all(aim.met for aim in found)
    assert "44 of 44 aims are met" in tables(NETWORKS, rows, found, {"onnx": "1"})
    rows["yunet"] = row("yunet", 0.2, 1.1)
    missed = [aim.what for aim in aims(NETWORKS, rows) if not aim.met]
    assert missed == [
        "mean share of the multiply-accumulates on the device, networks of today",
        "yunet: speed of the emulator over float32",
    ]
    del rows["yunet"]
    found = aims(NETWORKS, rows)
    assert found[0].found == "100 %, 13 of 14 tried"
    assert [aim.found for aim in found if "yunet" in aim.what] == ["not tried here"] * 2
    assert "| yunet | – | not tried here |" in tables(NETWORKS, rows, found, {"onnx": "1"})


def test_the_evidence_is_that_of_the_page() -> None:
    docs = Path(__file__).parents[2] / "docs"
    found = json.loads((docs / "evidence" / "networks.json").read_text())["aims"]
    met = sum(each["met"] for each in found)
    assert f"{met} of {len(found)} aims are met" in (docs / "networks.md").read_text()
