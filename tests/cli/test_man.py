"""The manual pages, as the package has them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "packaging" / "man.py"


@pytest.mark.parametrize(
    ("name", "section", "says"),
    [
        ("edgectl", "1", ("edgectl rollback", "--json", "66 not found")),
        ("edged", "8", ("--print-config", "edgectl(1)")),
        ("edged.toml", "5", ("[serving]", "settle_seconds", "HOST:PORT")),
    ],
)
def test_page(name: str, section: str, says: tuple[str, ...], tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, SCRIPT, name, section, "1.2.3", tmp_path],
        env=os.environ | {"SOURCE_DATE_EPOCH": "1790000000"},
        check=True,
    )
    page = tmp_path / f"{name}.{section}"
    assert f'.TH {name.upper()} {section} "2026-09-21" "edged 1.2.3"' in page.read_text()
    if shutil.which("man") is None:
        pytest.skip("man is not installed (Debian: man-db)")
    shown = subprocess.run(
        ["man", "--warnings", "--local-file", page],
        env=os.environ | {"MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    for words in says:
        assert words in shown.stdout
