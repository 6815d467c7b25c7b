"""What a run that measures writes, and that it can be interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evidence import END, Aim, begin, cell, write_evidence, write_page


def test_the_page_keeps_what_is_around_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{begin('make it')}\nof last time\n{END}\nafter\n")
    write_page(page, "make it", "new")
    assert page.read_text() == f"before\n{begin('make it')}\nnew\n{END}\nafter\n"


@pytest.mark.parametrize("text", ["", f"{begin('make it')}\n", f"{begin('make that')}\n{END}\n"])
def test_a_page_without_its_marks_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=r"cannot write .*page\.md: wanted <!-- made by `make it`"):
        write_page(page, "make it", "new")
    assert page.read_text() == text


def test_evidence_has_the_aims_and_what_they_were_found_with(tmp_path: Path) -> None:
    file = tmp_path / "evidence" / "it.json"
    aims = [Aim("speed", "at least 1.2 times", "1.3 times", True), Aim("é", "x", "y", False)]
    write_evidence(file, aims, {"onnx": "1"}, rows=[{"name": "a"}])
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["aims"] == [
        {"what": "speed", "aim": "at least 1.2 times", "found": "1.3 times", "met": True},
        {"what": "é", "aim": "x", "found": "y", "met": False},
    ]
    assert written["versions"] == {"onnx": "1"}
    assert written["machine"]["cpus"] >= 1
    assert written["rows"] == [{"name": "a"}]
    assert [each.name for each in file.parent.iterdir()] == ["it.json"]


def test_a_cell_is_one_line_that_markdown_leaves_alone() -> None:
    assert cell("cannot | take\n<it> `a_b`") == "cannot \\| take \\<it\\> 'a\\_b'"
    assert len(cell("x" * 1000)) == 241
