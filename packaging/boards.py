"""Write what the gateware takes on each part: docs/evidence/boards.json, and a page's table.

``PYTHONPATH=tests python packaging/boards.py EVIDENCE PAGE REPORT …``, of the reports that
``firmware/boards/build.py`` writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from evidence import Aim, write_evidence, write_page

_MOST = {"DSP": 0.90, "LUT": 0.70, "block RAM": 0.80}
"""Of a part at most, on those that cannot be routed here."""
_MHZ = 80


def _aims(reports: list[dict[str, Any]]) -> list[Aim]:
    aims = []
    for report in reports:
        shares = {kind: found["taken"] / found["of"] for kind, found in report["resources"].items()}
        said = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
        what = f"{report['array']} on {report['part']}"
        if "nextpnr" in report:
            fmax = report.get("fmax MHz")
            aims.append(
                Aim(
                    f"8x8x2 on {report['part']}",
                    f"routed with its shell up to the AXI ports, a bitstream; {_MHZ} MHz",
                    f"{report['array']}: {said}; {report['nextpnr']}",
                    bool(fmax and fmax >= _MHZ and report["array"] == "8x8x2"),
                )
            )
        else:
            aims.append(
                Aim(
                    what,
                    ", ".join(f"{kind} ≤ {most:.0%}" for kind, most in _MOST.items()),
                    f"{said}; {report['yosys']}" if "yosys" in report else said,
                    all(kind in shares and shares[kind] <= most for kind, most in _MOST.items()),
                )
            )
    return aims


def _table(reports: list[dict[str, Any]]) -> str:
    kinds = ("LUT", "FF", "block RAM", "URAM", "DSP")
    lines = [
        "| part | array | " + " | ".join(kinds) + " |",
        "|---|---|" + "---|" * len(kinds),
    ]
    for report in reports:
        cells = []
        for kind in kinds:
            found = report["resources"].get(kind)
            cells.append(
                f"{found['taken']:,g} ({found['taken'] / found['of']:.0%})" if found else ""
            )
        lines.append(f"| {report['part']} | {report['array']} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "By yosys's count after synthesis, with "
        + ", ".join(f"{tool} {version}" for tool, version in reports[0]["versions"].items())
        + ". Not run on hardware.",
    ]
    return "\n".join(lines)


def main() -> None:
    evidence, page, *files = map(Path, sys.argv[1:])
    reports = [json.loads(file.read_text()) for file in files]
    write_evidence(evidence, _aims(reports), reports[0]["versions"], boards=reports)
    write_page(page, "make boards", _table(reports))


if __name__ == "__main__":
    main()
