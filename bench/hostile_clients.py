"""All hostile clients against the whole of edged, one kind after the other, and what that does.

    python bench/hostile_clients.py [--part 10] [--write docs/hostile-clients.md]

A client of another address is served meanwhile: its calls are counted. The daemon's memory is its
PSS: before, at most, afterwards. Fails when that client is refused, when the memory grows beyond
a bound, or when the log has something that a hostile client wrote, or a trace.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path

import grpc.aio
import numpy as np
from hostile import attacks
from integration.appliance import DATA, Appliance, eventually
from integration.sample import SCORES, SIDE, packed

from edged import wire

_BOUND_MB = 600.0
_BOUND_SECONDS = 300.0
_NOT_OVER = f"not over after {_BOUND_SECONDS:g} s"
_ATTACKS = (
    ("silent connections, half of them with a part of a preface", attacks.say_nothing, 500),
    ("messages that never end", attacks.send_slowly, 600),
    ("answers that nobody reads", attacks.read_nothing, 600),
    ("calls cancelled at once", attacks.call_off, 20_000),
    ("no HTTP/2, no frames, no protobuf (seeded)", attacks.send_garbage, 2000),
    ("a megabyte of metadata", attacks.send_metadata, 200),
    ("80 MiB, and 80 MiB that are 80 KiB on the wire", attacks.send_too_much, 10),
    ("PNGs of 120 MB and more that are 120 KB on the wire", attacks.send_images, 20),
    ("wrong tokens", attacks.guess, 20_000),
)


def pss(pid: int) -> float:
    """Megabytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"Pss:\s+(\d+)", text)
    assert found is not None
    return int(found[1]) / 1024


async def besieged(
    appliance: Appliance, target: str, request: bytes, attack: attacks.Attack, times: int
) -> tuple[str, str, str, bool]:
    assert appliance.daemon is not None
    pid = appliance.daemon.pid
    before, most = pss(pid), 0.0
    taken: list[float] = []
    failed: list[str] = []
    logged = appliance.log.stat().st_size
    async with grpc.aio.insecure_channel(f"unix:{appliance.socket}") as channel:
        attacking = asyncio.create_task(_bounded(attack(target, times)))
        while not attacking.done():
            began = time.monotonic()
            code = await attacks.code_of(channel, request)
            taken.append(time.monotonic() - began)
            if code != "OK":
                failed.append(code)
            most = max(most, pss(pid))
            await asyncio.sleep(0.02)
        result = await attacking
    lines = appliance.log.read_bytes()[logged:].count(b"\n")
    served = f"{len(taken)} calls, {len(failed)} failed, worst {max(taken) * 1e3:.0f} ms"
    memory = f"{before:.0f} → {most:.0f} → {pss(pid):.0f} MB, {lines} log lines"
    passed = result != _NOT_OVER and not failed and most < before + _BOUND_MB
    return result, served, memory, passed


async def _bounded(attack: Awaitable[str]) -> str:
    try:
        async with asyncio.timeout(_BOUND_SECONDS):
            return await attack
    except TimeoutError:
        return _NOT_OVER


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, help="a document with a table to be replaced")
    parser.add_argument("--part", type=int, default=1, help="one attack in so many")
    options = parser.parse_args()
    x = np.zeros((1, SIDE, SIDE, 3), np.float32)
    request = wire.PredictRequest(inputs={"images": wire.from_array(x)}).SerializeToString()
    rows = ["| | what came of it | another client meanwhile | memory of the daemon | |"]
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
            for name, attack, times in _ATTACKS:
                target = f"127.0.0.1:{50952 if attack is attacks.guess else 50951}"
                found = asyncio.run(
                    besieged(appliance, target, request, attack, max(5, times // options.part))
                )
                *cells, passed = found
                well = well and passed
                rows.append(f"| {name} | {' | '.join(cells)} | {'' if passed else '!'} |")
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
