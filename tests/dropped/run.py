"""What people drop, and what becomes of it: runs all cases, and writes docs/dropped.md.

``python -m dropped.run docs/dropped.md docs/evidence/dropped.json [JOBS]``. Real emulators and
daemons, as many as JOBS says, take each case; it is asked over gRPC, and compared with ONNX Runtime
in float. Ends with status 0 when all could be measured, whether they are as wanted or not.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

from dropped.cases import Case, cases
from dropped.measure import Found, measure
from dropped.rest import ask_rest
from evidence import Aim, cell, versions, write_evidence, write_page
from integration.appliance import Appliance

COMMAND = "make dropped"
PACKAGES = ("onnx", "onnxruntime", "numpy", "protobuf")


def main() -> int:
    page, evidence = Path(sys.argv[1]), Path(sys.argv[2])
    jobs = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    with tempfile.TemporaryDirectory(prefix="edged-dropped-") as name:
        folder = Path(name)
        waiting = deque(enumerate(cases()))
        with ThreadPoolExecutor(jobs) as pool, _emptied_at_end(waiting):
            done = [pool.submit(_work, folder / str(job), waiting) for job in range(jobs)]
            found = [
                each
                for _, each in sorted(
                    (pair for job in done for pair in job.result()), key=lambda pair: pair[0]
                )
            ]
        with _appliance(folder / "rest") as appliance:
            bodies = ask_rest(appliance, folder)
    aims = [
        Aim(f"{each.case.kind}: {each.case.name}", each.case.aim, each.text, each.met)
        for each in found
    ]
    aims += [Aim(f"REST body: {what}", aim, said, met) for what, aim, said, met in bodies]
    packages = versions(PACKAGES)
    write_evidence(evidence, aims, packages)
    write_page(page, COMMAND, tables(found, bodies, packages))
    return 0


def _work(folder: Path, waiting: deque[tuple[int, Case]]) -> list[tuple[int, Found]]:
    """Take cases, by their places in the table, until none waits."""
    found = []
    with _appliance(folder) as appliance:
        models = folder / "models"
        models.mkdir()
        for place, case in _taken(waiting):
            each = measure(appliance, case, models)
            found.append((place, each))
            met = "yes" if each.met else "no "
            sys.stdout.write(f"{met} {case.name}: {each.text[:160]}\n")
            sys.stdout.flush()
    return found


def _taken(waiting: deque[tuple[int, Case]]) -> Iterator[tuple[int, Case]]:
    """What is waiting, one after the other, while others take of it too."""
    with contextlib.suppress(IndexError):
        while True:
            yield waiting.popleft()


@contextlib.contextmanager
def _emptied_at_end(waiting: deque[tuple[int, Case]]) -> Iterator[None]:
    """Have an interrupted run end with the cases that are under way."""
    try:
        yield
    finally:
        waiting.clear()


@contextlib.contextmanager
def _appliance(folder: Path) -> Iterator[Appliance]:
    folder.mkdir()
    appliance = Appliance(folder)
    try:
        appliance.start_emulator()
        appliance.start_daemon()
        yield appliance
    finally:
        appliance.close()


def tables(
    found: list[Found], bodies: list[tuple[str, str, str, bool]], packages: dict[str, str]
) -> str:
    met = sum(each.met for each in found) + sum(body[-1] for body in bodies)
    with_ = ", ".join(f"{name} {number}" for name, number in packages.items())
    lines = [f"{met} of {len(found) + len(bodies)} are as wanted, with {with_}."]
    for kind, group in groupby(found, lambda each: each.case.kind):
        rows = list(group)
        lines += ["", f"## {kind[0].upper()}{kind[1:]}: {sum(r.met for r in rows)} of {len(rows)}"]
        lines += ["", "| what | becomes of it | error | on the device | as wanted |"]
        lines += ["|---|---|---|---|---|", *map(_row, rows)]
    lines += ["", f"## REST bodies: {sum(body[-1] for body in bodies)} of {len(bodies)}", ""]
    lines += ["| what | wanted | answer | as wanted |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {aim} | {cell(said)} | {'yes' if met else '**no**'} |"
        for what, aim, said, met in bodies
    ]
    return "\n".join(lines)


def _row(found: Found) -> str:
    error = "" if found.error is None else f"{found.error:.1%}"
    share = "" if found.share is None else f"{found.share:.0%}"
    became = "serves" if found.serves else cell(found.said)
    wanted = "yes" if found.met else f"**no**: {found.case.aim}"
    return f"| {found.case.name} | {became} | {error} | {share} | {wanted} |"


if __name__ == "__main__":
    sys.exit(main())
