"""docs/operators.md, made from the compiler's tables and docs/evidence/operators.json.

python packaging/operators.py docs/operators.md: ``make docs`` does it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from edged.compiler._fold import rewrites
from edged.compiler._macs import COUNTED
from edged.compiler._place import common_limits, groups, limits

__all__ = ["page"]

_EVIDENCE: Final = Path(__file__).parent.parent / "docs" / "evidence" / "operators.json"
_HEAD: Final = """\
# What runs on the device

Made by `make docs` from the compiler's own tables; `make operators` measures the networks.

The device runs its part of a model in 8 bits. What it cannot run, the host runs in float, before
the device, behind it, or between two of its runs; and with it what is not worth the way to the
device and back, by the time that host, device and crossings take. `edgectl compile FILE --report`
says for each operator where it runs and why; `edgectl inspect FILE` says how much of the work stays
on the host, and which kinds of operators keep it there.
"""


def page(evidence: dict[str, Any]) -> str:
    """The whole page.

    Args:
        evidence: what `bench/operators.py` wrote.
    """
    parts = (_HEAD, _operators(), _rewrites(), _counting(), _networks(evidence))
    return "\n".join(parts)


def _operators() -> str:
    rows = [
        f"| {_names(ops)} | {' '.join(limit.wanted for limit in limits(ops[0])) or '–'} |"
        for ops in groups()
    ]
    table = "\n".join(rows)
    common = "\n".join(f"- {limit.wanted}" for limit in common_limits())
    return f"""\
## Operators

Each of them, but for those of the last row, which only change how a value is read:

{common}

| operators | and |
|---|---|
{table}
"""


def _rewrites() -> str:
    listed = "\n".join(f"- {sentence}" for sentence in rewrites())
    return f"""\
## Operators that vanish

Before operators are placed, the graph is rewritten, and computes the same afterwards. What depends
on no input is computed once. Then the compiler does, in this order:

{listed}
"""


def _counting() -> str:
    return f"""\
## What is counted

Shares are of multiply-accumulates: products that are summed up, as in
{_names(sorted(COUNTED))}.
Products element by element, pools, norms, activations and interpolation count as nothing, as is
usual where MACs of networks are compared; what is counted is the graph behind the rewrites. Where
a number is not known, that is said: for operators that edged does not know, for a Fourier
transform, for branches and loops with work in them, and where a shape is not known before the run.
"""


def _networks(evidence: dict[str, Any]) -> str:
    rows = "\n".join(_row(network) for network in evidence["networks"])
    return f"""\
## Networks that were tried

With onnx {evidence["onnx"]}, compiler {evidence["compiler"]}. A network that is refused says why.

| network | million MACs | on the device | what keeps the rest on the host |
|---|---|---|---|
{rows}
"""


def _row(network: dict[str, Any]) -> str:
    name = f"{network['name']}: {network['what']}" if network["what"] else network["name"]
    if network["refused"]:
        return f"| {name} | – | – | refused: {_cell(network['refused'])} |"
    total = network["macs"] + network["host_macs"]
    share = network["macs"] / total if total else 1.0
    shown = "100 %" if share == 1 else f"{min(share, 0.999):.1%}".replace("%", " %")
    said = "" if share == 1 else _cell("; ".join(network["remarks"]))
    return f"| {name} | {total / 1e6:,.1f} | {shown} | {said} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _names(operators: Iterable[str]) -> str:
    return ", ".join(_quoted(operators))


def _quoted(names: Iterable[str]) -> Iterator[str]:
    return (f"`{name}`" for name in names)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(json.loads(_EVIDENCE.read_text())))
