"""How much of known networks the device would run: docs/evidence/operators.json.

python bench/operators.py [--write FILE] FOLDER_OR_FILE…

Places the operators of every ``.onnx`` file, without compiling it. What a table in the README.md of
the file's folder, or of the one above it, says of the file is kept. The networks of
:mod:`edged.zoo` are made with random weights, which change nothing about where operators run.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from edged import zoo
from edged._onnxfile import read_onnx_bytes
from edged.compiler import COMPILER_VERSION, survey
from edged.errors import EdgedError


@dataclass(frozen=True, slots=True)
class Network:
    """One network.

    Attributes:
        what: it is, in some words.
        refused: why it is not compiled, or empty.
        macs, host_macs: multiply-accumulates of the device and of the host, in one run.
        remarks: on the host's share.
    """

    name: str
    what: str
    refused: str
    macs: int = 0
    host_macs: int = 0
    remarks: tuple[str, ...] = ()


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    networks = []
    for name, what, content in _models(options.paths):
        networks.append(_measured(name, what, content))
        sys.stdout.write(f"{networks[-1]}\n")
    if options.write is None:
        return
    whole = [n for n in networks if not any("not known" in said for said in n.remarks)]
    facts: dict[str, Any] = {
        "onnx": onnx.__version__,
        "compiler": COMPILER_VERSION,
        "aims": [
            {
                "what": "networks of which the whole work is counted",
                "aim": len(networks),
                "found": len(whole),
                "met": len(whole) == len(networks),
            }
        ],
        "networks": [asdict(network) for network in networks],
    }
    options.write.parent.mkdir(parents=True, exist_ok=True)
    options.write.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def _models(paths: list[Path]) -> Iterator[tuple[str, str, bytes]]:
    for name in zoo.NETWORKS:
        yield name, "built in", zoo.build(name, seed=7).onnx()
    for path in paths:
        for file in sorted(path.glob("*.onnx")) if path.is_dir() else [path]:
            yield file.name, _described(file), read_onnx_bytes(file)


def _described(file: Path) -> str:
    """The beginning of the second cell of the row about *file*, where there is such a table."""
    pages = (folder / "README.md" for folder in (file.parent, file.parent.parent))
    text = "\n".join(page.read_text() for page in pages if page.exists())
    name = rf"`(?:[^`]*/)?{re.escape(file.name)}`"
    row = re.search(rf"^\|[^|\n]*{name}[^|\n]*\|([^|\n]*)\|", text, re.MULTILINE)
    return row[1].strip().partition(". ")[0].rstrip(".") if row else ""


def _measured(name: str, what: str, content: bytes) -> Network:
    try:
        found = survey(content)
    except EdgedError as error:
        return Network(name, what, str(error).partition(". ")[0][:200])
    said = tuple(str(remark) for remark in found.remarks)
    return Network(name, what, "", found.macs, found.host_macs, said)


if __name__ == "__main__":
    main()
