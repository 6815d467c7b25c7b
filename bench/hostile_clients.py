"""All hostile clients against the whole of edged, one kind after the other, and what that does.

    python bench/hostile_clients.py [--part 10] [--write docs/hostile-clients.md]

A client of another address is served meanwhile, from another process than the hostile ones: its
calls are counted. Memory is the PSS of the daemon and of the model's container: before, at most,
afterwards. Fails when that client is refused or waits for 10 s, when an attack gets another answer
than it is to get or does not end, when memory grows beyond a bound, or when the log has something
that a hostile client wrote, or a trace.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import re
import sys
import tempfile
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import grpc.aio
import numpy as np
from failures import workers
from hostile import attacks
from integration.appliance import DATA, Appliance, eventually
from integration.sample import SCORES, SIDE, packed

from edged import wire

_BOUND_MB = 600.0
_BOUND_SECONDS = 300.0
_PATIENCE_SECONDS = 10.0
_ATTACKS = (
    (
        "silent connections, half of them with a part of a preface",
        attacks.say_nothing,
        500,
        r"(\d+) opened, \1 closed .*",
    ),
    (
        "messages that never end",
        attacks.send_slowly,
        600,
        r"\d+ DEADLINE_EXCEEDED(, \d+ RESOURCE_EXHAUSTED)?",
    ),
    ("answers that nobody reads", attacks.read_nothing, 600, r"\d+ calls, \d+ refused"),
    ("calls cancelled at once", attacks.call_off, 20_000, r"\d+ cancelled"),
    (
        "no HTTP/2, no frames, no protobuf (seeded)",
        attacks.send_garbage,
        2000,
        r"\d+ connections; \d+ calls: \d+ INVALID_ARGUMENT",
    ),
    ("a megabyte of metadata", attacks.send_metadata, 200, r"\d+ RESOURCE_EXHAUSTED"),
    (
        "80 MiB, and 80 MiB that are 80 KiB on the wire",
        attacks.send_too_much,
        10,
        r"\d+ RESOURCE_EXHAUSTED",
    ),
    (
        "PNGs of 120 MB and more that are 120 KB on the wire",
        attacks.send_images,
        20,
        r"\d+ (OK|RESOURCE_EXHAUSTED)(, \d+ (OK|RESOURCE_EXHAUSTED|INVALID_ARGUMENT))*",
    ),
    ("wrong tokens", attacks.guess, 20_000, r"\d+ UNAUTHENTICATED"),
)
"""What it is, how often it is made, and what is to come of it."""


def memory(pids: list[int]) -> float:
    """Megabytes that processes have, with their share of what is shared."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(text.partition("Pss:")[2].split()[0]) for text in texts) / 1024


def attacked(attack: attacks.Attack, target: str, times: int) -> str:
    """What came of it; in a process of its own."""

    async def bounded() -> str:
        try:
            async with asyncio.timeout(_BOUND_SECONDS):
                return await attack(target, times)
        except TimeoutError:
            return f"not over after {_BOUND_SECONDS:g} s"

    return asyncio.run(bounded())


async def besieged(
    appliance: Appliance, request: bytes, attack: Future[str]
) -> tuple[str, str, str, bool]:
    """What came of *attack*, what another client saw, the memory; whether both are well."""
    assert appliance.daemon is not None
    pids = [appliance.daemon.pid, *workers(appliance)]
    before = most = memory(pids)
    taken: list[float] = []
    failed: list[str] = []
    logged = appliance.log.stat().st_size
    async with grpc.aio.insecure_channel(f"unix:{appliance.socket}") as channel:
        while not attack.done():
            began = time.monotonic()
            code = await attacks.code_of(channel, request)
            taken.append(time.monotonic() - began)
            if code != "OK":
                failed.append(code)
            most = max(most, memory(pids))
            await asyncio.sleep(0.02)
    lines = appliance.log.read_bytes()[logged:].count(b"\n")
    served = f"{len(taken)} calls, {len(failed)} failed, worst {max(taken) * 1e3:.0f} ms"
    took = f"{before:.0f} → {most:.0f} → {memory(pids):.0f} MB, {lines} log lines"
    well = not failed and max(taken) < _PATIENCE_SECONDS and most < before + _BOUND_MB
    return attack.result(), served, took, well


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, help="a document with a table to be replaced")
    parser.add_argument("--part", type=int, default=1, help="one attack in so many")
    options = parser.parse_args()
    x = np.zeros((1, SIDE, SIDE, 3), np.float32)
    request = wire.PredictRequest(inputs={"images": wire.from_array(x)}).SerializeToString()
    rows = ["| | what came of it | another client meanwhile | memory of daemon and container | |"]
    rows.append("|---|---|---|---|---|")
    well = True
    with tempfile.TemporaryDirectory(prefix="edged-") as folder:
        appliance = Appliance(Path(folder))
        with appliance.config.open("a") as config:
            config.write(
                '[listeners.lan]\nlisten = "127.0.0.1:50951"\n'
                '[listeners.tokens]\nlisten = "127.0.0.1:50952"\ntokens = true\n'
            )
        text = appliance.config.read_text()
        appliance.config.write_text(text.replace("[serving]\n", "[serving]\ncall_seconds = 5\n"))
        try:
            appliance.start_emulator()
            appliance.start_daemon()
            images = (
                "--preprocess",
                f"stretch={SIDE}x{SIDE}",
                "--calibration",
                str(DATA / "images"),
            )
            appliance.put(packed(Path(folder), (SCORES,), *images))
            eventually(appliance.answers, "an answer")
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                for name, attack, times, wanted in _ATTACKS:
                    target = f"127.0.0.1:{50952 if attack is attacks.guess else 50951}"
                    made = max(5, times // options.part)
                    future = pool.submit(attacked, attack, target, made)
                    result, *cells, passed = asyncio.run(besieged(appliance, request, future))
                    passed = passed and re.fullmatch(wanted, result) is not None
                    well = well and passed
                    rows.append(
                        f"| {name} | {result} | {' | '.join(cells)} | {'' if passed else '!'} |"
                    )
                    print(rows[-1], flush=True)
            log = appliance.log.read_text(errors="replace")
            for never in ("guess-", "Traceback", "vvvvvvvv", "Debug Text", "\ufffd"):
                if never in log:
                    well = False
                    rows.append(f"| the log has {never!r} | | | | ! |")
        finally:
            appliance.close()
    table = "\n".join(rows) + "\n"
    print(table, end="")
    if options.write is not None:
        text = options.write.read_text()
        text = re.sub(
            r"(<!-- table -->\n).*?(<!-- end -->)", rf"\g<1>{table}\g<2>", text, flags=re.S
        )
        options.write.write_text(text)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
