"""The fault campaign: everything is made to fail, everywhere, and must come back.

    PYTHONPATH=tests python -m campaign.run [--only PATTERN] [--jobs 1] [--write docs/faults.md]
                                            [--resume FILE]

Prints a line for each case as it is done, and at the end what is wrong. Exit status 1 when anything
is. With --resume, results are kept in FILE, and cases that it has are not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from campaign.cases import CASES, Case
from campaign.perform import Ground, Result, perform
from campaign.table import document


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="campaign.run", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="PATTERN",
        help="cases that contain one of these, with commas between them",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cases at a time")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="keep results there, go on")
    parser.add_argument("--list", action="store_true", help="name the cases, run none")
    options = parser.parse_args(arguments)
    wanted = options.only.split(",")
    cases = [case for case in CASES if any(pattern in str(case) for pattern in wanted)]
    if options.list:
        _say("\n".join(map(str, cases)))
        return 0
    done = _kept(options.resume, cases)
    with tempfile.TemporaryDirectory(prefix="ec-") as folder, ExitStack() as stack:
        keep = stack.enter_context(options.resume.open("a")) if options.resume else None
        ground = Ground.prepare(Path(folder))
        _run(cases, done, ground, options.jobs, keep)
    results = [done[case] for case in cases]
    seconds = sum(result.seconds for result in results) / options.jobs
    wrong = [result for result in results if not result.ok]
    for result in wrong:
        _say(f"\n{result.case}\n  " + "\n  ".join(result.violations) + f"\n{result.log}")
    _say(f"\n{len(results)} cases in {seconds:.0f} s, {len(wrong)} of them wrong")
    if options.write:
        options.write.write_text(document(results, seconds))
    return 1 if wrong else 0


def _kept(file: Path | None, cases: Sequence[Case]) -> dict[Case, Result]:
    """The results that *file* has of *cases*."""
    by_name = {str(case): case for case in cases}
    found = {}
    for line in file.read_text().splitlines() if file is not None and file.exists() else ():
        values = json.loads(line)
        case = by_name.get(values.pop("case"))
        if case is not None:
            found[case] = Result(case, **values)
    return found


def _run(
    cases: Sequence[Case],
    done: dict[Case, Result],
    ground: Ground,
    jobs: int,
    keep: TextIO | None,
) -> None:
    """Perform what is not in *done*, and put it there."""
    # Asked to end, the cases that run are ended properly, and no other begins.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ThreadPoolExecutor(jobs) as pool, ExitStack() as stack:
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        runs = [pool.submit(perform, case, ground) for case in cases if case not in done]
        for run in as_completed(runs):
            result = run.result()
            done[result.case] = result
            if keep is not None:
                values = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
                keep.write(json.dumps(values | {"case": str(result.case)}) + "\n")
                keep.flush()
            word = "ok  " if result.ok else "FAIL"
            _say(
                f"{len(done):3}/{len(cases)} {word} {result.seconds:4.1f} s  {result.case}:"
                f" {result.happened}; {result.serves} serves; {result.calls}"
                + "".join(f"\n         {violation}" for violation in result.violations)
            )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
