"""What networks of today and before do on the device: docs/networks.md and its evidence.

``python -m networks.run PAGE EVIDENCE [--only NAME …]``. Each network is tried in a process of its
own, one after the other, because they are timed. The evidence is written after each; a run that was
interrupted goes on where it was, unless the code that matters has changed. Ends with status 0 when
all could be tried, whether the aims are met or not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from evidence import Aim, cell, versions, write_evidence, write_page
from networks.measure import Row
from networks.network import Network
from networks.table import NETWORKS

from edged.compiler import COMPILER_VERSION

COMMAND = "make networks"
PACKAGES = ("onnx", "onnxruntime", "numpy")
_PROJECT = Path(__file__).parents[2]
_CODE = ("edged/compiler", "edged/npu", "edged/emulator", "edged/_*.py", "tests/networks")
_MEAN_SHARE, _SHARE, _OF_FOURTEEN, _SPEED = 0.95, 0.98, 12, 1.2


def main() -> int:
    """Try networks, and write what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("evidence", type=Path)
    names = [network.name for network in NETWORKS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="try these anew")
    options = parser.parse_args()
    return run(options.page, options.evidence, options.only or ())


def run(
    page: Path, evidence: Path, only: Sequence[str], tried: Callable[[str], Row] | None = None
) -> int:
    """Try the networks that are named in *only*, or else all that are not up to date.

    Args:
        tried: tries the one that it is given; in a process of its own, where nothing is said.

    Returns:
        0, or 1 where a network could not be tried; it will be again next time.
    """
    code = digest()
    rows, made_with = _kept(evidence)
    names = [network.name for network in NETWORKS]
    todo = only or [name for name in names if made_with.get(name) != code]
    for place, name in enumerate(todo, 1):
        _say(f"{place} of {len(todo)}: {name} …")
        rows[name] = (tried or in_a_process)(name)
        made_with[name] = "" if rows[name].failed else code
        _say(f"{place} of {len(todo)}: {name}: {_words(rows[name])}")
        write(page, evidence, rows, made_with)
    return int(any(rows[name].failed for name in todo))


def in_a_process(name: str) -> Row:
    """What was found of the network; where its process fails, that it did."""
    command = [sys.executable, "-m", "networks.measure", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.returncode:
        return Row(**json.loads(done.stdout))
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    refused = f"its process ended with status {done.returncode}: {said}"
    return Row(name, COMPILER_VERSION, refused=refused, failed=True)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def digest() -> str:
    """Of the code that the results depend on."""
    files = set[Path]()
    for pattern in _CODE:
        files.update(_PROJECT.glob(pattern if pattern.endswith(".py") else f"{pattern}/**/*.py"))
    whole = hashlib.sha256()
    for file in sorted(files):
        whole.update(str(file.relative_to(_PROJECT)).encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()[:16]


def _kept(evidence: Path) -> tuple[dict[str, Row], dict[str, str]]:
    """Results of runs before, and which code each was made with."""
    if not evidence.exists():
        return {}, {}
    facts = json.loads(evidence.read_text(encoding="utf-8"))
    known = {network.name for network in NETWORKS}
    columns = {column.name for column in fields(Row)}
    rows = [
        Row(**row) for row in facts["networks"] if row["name"] in known and row.keys() == columns
    ]
    return {row.name: row for row in rows}, facts["made_with"]


def write(
    page: Path, evidence: Path, rows: Mapping[str, Row], made_with: Mapping[str, str]
) -> None:
    """Write page and evidence, of networks in the order of the table."""
    tried = [rows[network.name] for network in NETWORKS if network.name in rows]
    found = aims(NETWORKS, rows)
    packages = versions(PACKAGES)
    write_evidence(
        evidence,
        found,
        packages,
        networks=[asdict(row) for row in tried],
        made_with=dict(made_with),
    )
    write_page(page, COMMAND, tables(NETWORKS, rows, found, packages))


def aims(networks: Sequence[Network], rows: Mapping[str, Row]) -> list[Aim]:
    """What was aimed at, and what was found."""
    today = [rows[each.name] for each in networks if each.today and each.name in rows]
    count = sum(network.today for network in networks)
    tried = "" if len(today) == count else f", {len(today)} of {count} tried"
    mean = statistics.fmean(row.share for row in today) if today else 0.0
    high = sum(row.share >= _SHARE for row in today)
    found = [
        Aim(
            "mean share of the multiply-accumulates on the device, networks of today",
            f"at least {_percent(_MEAN_SHARE)}",
            f"{_percent(mean)}{tried}",
            not tried and mean >= _MEAN_SHARE,
        ),
        Aim(
            f"networks of today with a share of at least {_percent(_SHARE)}",
            f"at least {_OF_FOURTEEN} of {count}",
            f"{high}{tried}",
            high >= _OF_FOURTEEN,
        ),
    ]
    for network in networks:
        row = rows.get(network.name, Row(network.name, "", refused="not tried here"))
        speed = row.speed
        found += [
            Aim(
                f"{network.name}: answers",
                network.aim,
                row.refused or row.found,
                not row.refused and row.met,
            ),
            Aim(
                f"{network.name}: speed of the emulator over float32",
                f"at least {_SPEED}",
                row.refused if speed is None else f"{speed:.2f}",
                speed is not None and speed >= _SPEED,
            ),
        ]
    return found


def tables(
    networks: Sequence[Network],
    rows: Mapping[str, Row],
    found: Sequence[Aim],
    packages: Mapping[str, str],
) -> str:
    """What stands between the marks of the page."""
    with_ = ", ".join(f"{name} {number}" for name, number in packages.items())
    compilers = sorted({row.compiler for row in rows.values()})
    lines = [
        f"{sum(aim.met for aim in found)} of {len(found)} aims are met, with"
        f" compiler {' and '.join(compilers)}, {with_}."
    ]
    lines += ["", "| aim | found | met |", "|---|---|---|"]
    lines += [f"| {aim.what}: {aim.aim} | {aim.found} | {_yes(aim.met)} |" for aim in found[:2]]
    for title, today in (("Networks of today", True), ("Networks of before", False)):
        chosen = [each for each in networks if each.today is today]
        lines += ["", f"## {title}", "", *_header(_PLACED)]
        lines += [_placed(each, rows.get(each.name)) for each in chosen]
        lines += ["", *_header(_ANSWERED)]
        lines += [_answered(each, rows.get(each.name)) for each in chosen]
    return "\n".join(lines)


_PLACED = (
    *("network", "on the device", "left on the host", "compile", "image"),
    *("speed", "float32", "device", "of it emulator"),
)
_ANSWERED = ("network", "aim", "answers", "met", "cosine", "calibrated with")


def _header(columns: Sequence[str]) -> list[str]:
    return [_joined(columns), "|" + "---|" * len(columns)]


def _joined(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _placed(network: Network, row: Row | None) -> str:
    if row is None or row.refused:
        return _joined([network.name, "–", _why_not(row), *[""] * (len(_PLACED) - 3)])
    host = ", ".join(f"{kind} ×{count}" for kind, count in row.host.items())
    return _joined(
        [
            network.name,
            f"{_percent(row.share)} of {(row.macs + row.host_macs) / 1e6:,.1f} M",
            cell(host),
            f"{row.compile_seconds or 0:.1f} s",
            f"{(row.image_bytes or 0) / 1e6:.2f} MB",
            f"{row.speed or 0:.2f}",
            *map(_milliseconds, (row.float_seconds, row.device_seconds, row.emulator_seconds)),
        ]
    )


def _answered(network: Network, row: Row | None) -> str:
    found = _why_not(row) if row is None or row.refused else cell(row.found)
    met = row is not None and not row.refused and row.met
    cosine = "" if row is None or row.cosine is None else f"{row.cosine:.4f}"
    return _joined([network.name, network.aim, found, _yes(met), cosine, network.calibrated_with])


def _why_not(row: Row | None) -> str:
    return "not tried here" if row is None else cell(row.refused)


def _words(row: Row) -> str:
    """*row* in a line, for who waits."""
    if row.refused:
        return row.refused
    speed = "" if row.speed is None else f", speed {row.speed:.2f}"
    return f"{_percent(row.share)} on the device, {row.found} ({_yes(row.met)}){speed}"


def _percent(share: float) -> str:
    """Rounded towards what is less, so that 99.96 % is not all."""
    return f"{int(share * 1000) / 10:.4g} %"


def _milliseconds(seconds: float | None) -> str:
    return f"{(seconds or 0) * 1e3:.3g} ms"


def _yes(met: bool) -> str:
    return "yes" if met else "**no**"


if __name__ == "__main__":
    sys.exit(main())
