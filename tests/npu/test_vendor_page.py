"""docs/board-vendors.md and docs/npu.md say what the contract's code says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from edged.npu.instructions import CHANNEL, INSTRUCTIONS
from edged.npu.regmap import BLOCKS, RECORDS, Bits, Code, Inject, Injection, Timing

ROOT = Path(__file__).parents[2]
PAGES = [(ROOT / "docs" / name).read_text() for name in ("board-vendors.md", "npu.md")]
PAGE = "\n".join(PAGES)
OF_THE_EMULATOR = (Inject, Injection)


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "board_vendors", ROOT / "packaging" / "board_vendors.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_code(generator: ModuleType) -> None:
    for page in PAGES:
        assert generator.remade(page) == page, "run `make docs`"


def test_everything_of_the_contract_is_there_and_explained() -> None:
    missing = [
        f"{kind.__name__}.{member.name}"
        for kind in (*BLOCKS, *Code.__subclasses__(), *Bits.__subclasses__())
        if kind not in OF_THE_EMULATOR
        for member in kind
        if not re.search(rf"^\| `(0x)?[0-9a-f]+` \| `{member.name}` \| ", PAGE, re.MULTILINE)
    ]
    assert missing == []
    records = (*RECORDS, *INSTRUCTIONS.values(), CHANNEL)
    fields = [item.name for record in records for item in record.items]
    assert [name for name in fields if f"| `{name}` |" not in PAGE] == []
    assert [bound.name for bound in Timing if f"| {bound.text} | " not in PAGE] == []
    unexplained = re.findall(r"^\| `(?:0x)?[0-9a-f]+` \| `(\w+)` \|.* \|  \|$", PAGE, re.MULTILINE)
    unexplained += re.findall(r"^\| `(?:0x)?[0-9a-f]+` \| `(\w+)` \|  \|$", PAGE, re.MULTILINE)
    assert set(unexplained) <= {"OK", "NONE", "POWER_ON", "U8", "S8"}, "they need a text"


def test_what_it_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
