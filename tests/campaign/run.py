"""The fault campaign: everything is made to fail, everywhere, and must come back.

    PYTHONPATH=tests python -m campaign.run [--only PATTERN] [--jobs 1] [--write docs/faults.md]

Prints a line for each case as it is done, and at the end what is wrong. Exit status 1 when anything
is.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path

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
    parser.add_argument("--list", action="store_true", help="name the cases, run none")
    options = parser.parse_args(arguments)
    wanted = options.only.split(",")
    cases = [case for case in CASES if any(pattern in str(case) for pattern in wanted)]
    if options.list:
        _say("\n".join(map(str, cases)))
        return 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ec-") as folder:
        ground = Ground.prepare(Path(folder))
        results = _run(cases, ground, options.jobs)
    seconds = time.monotonic() - began
    wrong = [result for result in results if not result.ok]
    for result in wrong:
        _say(f"\n{result.case}\n  " + "\n  ".join(result.violations) + f"\n{result.log}")
    _say(f"\n{len(results)} cases in {seconds:.0f} s, {len(wrong)} of them wrong")
    if options.write:
        options.write.write_text(document(results, seconds))
    return 1 if wrong else 0


def _run(cases: Sequence[Case], ground: Ground, jobs: int) -> list[Result]:
    done: dict[Case, Result] = {}
    # Asked to end, the cases that run are ended properly, and no other begins.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ThreadPoolExecutor(jobs) as pool, ExitStack() as stack:
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        runs = [pool.submit(perform, case, ground) for case in cases]
        for run in as_completed(runs):
            result = run.result()
            done[result.case] = result
            word = "ok  " if result.ok else "FAIL"
            _say(
                f"{len(done):3}/{len(cases)} {word} {result.seconds:4.1f} s  {result.case}:"
                f" {result.happened}; {result.serves} serves; {result.calls}"
                + "".join(f"\n         {violation}" for violation in result.violations)
            )
    return [done[case] for case in cases]


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
