"""The table of what was tried and what was seen, for people."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Row", "Table"]

_BEGIN, _END = "<!-- tried -->", "<!-- seen -->"


@dataclass(frozen=True)
class Row:
    """One thing that was tried."""

    case: str
    done: str
    seen: str
    seconds: float


@dataclass
class Table:
    rows: list[Row] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For a terminal: what was seen under what was done."""
        width = max(len(row.case) for row in self.rows)
        lines = []
        for row in self.rows:
            lines.append(f"{row.case:{width}}  {row.seconds:6.1f} s  {row.done}")
            lines.append(f"{'':{width}}  {'':8}  → {row.seen}")
        return lines

    def write(self, page: Path) -> None:
        """Put it in place of the table that *page* has."""
        table = ["| case | done | seen | s |", "|---|---|---|---:|"]
        table += [
            f"| {row.case} | {row.done} | {row.seen} | {row.seconds:.1f} |" for row in self.rows
        ]
        text = page.read_text()
        new = "\n".join((_BEGIN, "", *table, "", _END))
        page.write_text(re.sub(f"{_BEGIN}.*{_END}", lambda _: new, text, flags=re.DOTALL))
