"""Run a command beside processes that keep the processor busy, as on a machine that is slow.

    python3 packaging/busy.py 2 make test

They end with this process, however it ends. How long the command took is printed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

LOOP = """
import os
parent = os.getppid()
while os.getppid() == parent:
    sum(range(100_000))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("loops", type=int, help="how many processes compute beside the command")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if not given.command:
        parser.error("a command is missing, for instance: make test")
    began = time.monotonic()
    busy = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(given.loops)]
    try:
        status = subprocess.run(given.command, check=False).returncode
    finally:
        for process in busy:
            process.kill()
            process.wait()
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    how = "passed" if status == 0 else f"ended with status {status}"
    print(  # noqa: T201
        f"{' '.join(given.command)} beside {given.loops} busy processes: {how},"
        f" {minutes} min {seconds} s"
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
