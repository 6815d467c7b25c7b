"""What a run that measures leaves behind: a list of aims as JSON, and a page beside it.

A page is never edited by hand between its marks; what stands around them is kept.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["END", "Aim", "begin", "cell", "versions", "write_evidence", "write_page"]

END = "<!-- end -->"
_MOST_CHARACTERS = 240


@dataclass(frozen=True)
class Aim:
    """One thing that was aimed at.

    Attributes:
        what: it is about.
        aim: in words.
        found: in this run.
        met: whether what was found is what was aimed at.
    """

    what: str
    aim: str
    found: str
    met: bool


def begin(command: str) -> str:
    """The mark behind which a page has what *command* wrote, up to `END`."""
    return f"<!-- made by `{command}`: begin -->"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of *packages* as they are installed."""
    return {package: version(package) for package in packages}


def write_evidence(
    file: Path, aims: Sequence[Aim], packages: Mapping[str, str], **facts: Any
) -> None:
    """Write *aims* and *facts* as JSON, with the machine and the versions of *packages*.

    The file is there as it was or as it shall be, whenever the run is interrupted.
    """
    document = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "versions": dict(packages),
        "aims": [asdict(aim) for aim in aims],
        **facts,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    _replace(file, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def write_page(page: Path, command: str, made: str) -> None:
    """Put *made* between the marks of *page*.

    Raises:
        ValueError: the page has no marks of *command*.
    """
    before, mark, rest = page.read_text().partition(begin(command))
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"cannot write {page}: wanted {begin(command)} and {END} in it")
    _replace(page, f"{before}{mark}\n{made}\n{end}{after}")


def cell(text: str) -> str:
    """*text* in a table: one line, not too long, and nothing that Markdown reads."""
    text = " ".join(text.replace("`", "'").split())
    if len(text) > _MOST_CHARACTERS:
        text = f"{text[:_MOST_CHARACTERS]}…"
    for special in "\\|<>*_":
        text = text.replace(special, f"\\{special}")
    return text


def _replace(file: Path, text: str) -> None:
    new = file.with_name(f".{file.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(file)
