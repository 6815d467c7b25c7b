"""What clients see when things end under load: the container, a model, the daemon.

    python bench/failures.py [--clients 8] [--times 10] [--write docs/failures.md]

Clients call without a pause, each over its own connection, while another asks for the health of the
service and of the model all the time. Then the container is killed; models take turns; SIGTERM
comes. Each call is counted. Prints a table; with --write it goes into the document. Fails when an
aim is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from integration.appliance import DATA, Appliance, pack
from integration.crowd import Crowd, Reply, photo_request

PHOTO = photo_request((DATA / "images" / "schoolbus.jpg").read_bytes())
NAME = "mobilenet-v2"
SERVING = health_pb2.HealthCheckResponse.SERVING
# A call that was sent so long before an end is with the daemon by then.
ACCEPTED_BY = 0.05
_CODES = "OK and UNAVAILABLE"


@dataclass
class Row:
    """One line of the table.

    Attributes:
        aim: what is wanted, empty where there is nothing to miss.
        met: whether it is.
    """

    what: str
    seen: str
    aim: str = ""
    met: bool = True

    def __str__(self) -> str:
        return f"| {self.what} | {self.seen} | {self.aim}{'' if self.met else ': missed'} |"


@dataclass
class Health:
    """What the health service said when: ``(asked, answered, serving)``."""

    said: list[tuple[float, float, bool]] = field(default_factory=list)

    async def ask(self, target: str, over: asyncio.Event) -> None:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100))
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            request = health_pb2.HealthCheckRequest(service=NAME)
            while not over.is_set():
                asked = time.monotonic()
                try:
                    serving = (await check(request, timeout=5)).status == SERVING
                except grpc.aio.AioRpcError:
                    serving = False
                self.said.append((asked, time.monotonic(), serving))
                await asyncio.sleep(0.002)

    def lies(self, replies: list[Reply]) -> int:
        """Calls made and refused within one moment for which health said SERVING before and after.

        A call that was inside when its container ended is none: it was accepted while it served.
        """
        lies = 0
        for reply in replies:
            if reply.code != "UNAVAILABLE" or reply.ended - reply.asked > 0.02:
                continue
            before = [serving for _, answered, serving in self.said if answered <= reply.asked]
            after = [serving for asked, _, serving in self.said if asked >= reply.ended]
            lies += bool(before and after and before[-1] and after[0])
        return lies

    def gap(self, since: float, until: float) -> float:
        """For how long it was not SERVING between two moments."""
        not_serving = [
            answered
            for _, answered, serving in self.said
            if since <= answered <= until and not serving
        ]
        return not_serving[-1] - not_serving[0] if not_serving else 0.0


def milliseconds(seconds: list[float]) -> str:
    if not seconds:
        return "–"
    return f"{statistics.median(seconds) * 1e3:.0f} / {max(seconds) * 1e3:.0f} ms"


def counted(replies: list[Reply]) -> str:
    return ", ".join(f"{n} {code}" for code, n in Counter(r.code for r in replies).most_common())


async def containers_killed(appliance: Appliance, clients: int, times: int) -> list[Row]:
    told: list[float] = []
    whole: list[float] = []
    gaps: list[float] = []
    inside = 0
    over = asyncio.Event()
    health = Health()
    target = f"unix:{appliance.socket}"
    asking = asyncio.create_task(health.ask(target, over))
    async with Crowd(target, PHOTO, clients) as crowd:
        for _ in range(times):
            have = crowd.codes["OK"]
            await crowd.until(lambda crowd, have=have: crowd.codes["OK"] > have + 5 * clients)
            (worker,) = await asyncio.to_thread(workers, appliance)
            seen = len(crowd.replies)
            killed = time.monotonic()
            os.kill(worker, signal.SIGKILL)
            await crowd.until(
                lambda crowd, killed=killed, seen=seen: any(
                    r.code == "OK" and r.asked > killed for r in crowd.replies[seen:]
                )
            )
            # Those that were asked before, and answered after: they were inside, or in the line.
            ended = [r for r in crowd.replies[seen:] if r.code != "OK" and r.asked <= killed]
            told += [r.ended - killed for r in ended]
            inside += len(ended)
            first = min(
                r.ended for r in crowd.replies[seen:] if r.code == "OK" and r.asked > killed
            )
            whole.append(first - killed)
            gaps.append(health.gap(killed, first))
    over.set()
    await asking
    replies = crowd.replies
    other = [r for r in replies if r.code not in ("OK", "UNAVAILABLE")]
    lies = health.lies(replies)
    in_time, whole_in_time = max(told, default=0) <= 0.05, max(whole) <= 2
    return [
        Row("container killed, times", str(times)),
        Row("– calls", counted(replies), _CODES, not other),
        Row("– of those inside, failed", f"{inside}, of {clients} clients {times} times"),
        Row("– told so after (p50 / worst)", milliseconds(told), "50 ms", in_time),
        Row("– service whole after (p50 / worst)", milliseconds(whole), "2000 ms", whole_in_time),
        Row("– health not SERVING for (p50 / worst)", milliseconds(gaps)),
        Row("– health said SERVING around a refusal", str(lies), "0", not lies),
    ]


async def models_change(appliance: Appliance, clients: int, times: int) -> list[Row]:
    not_changed: list[str] = []
    async with Crowd(f"unix:{appliance.socket}", PHOTO, clients) as crowd:
        for turn in range(times):
            done = await asyncio.to_thread(
                appliance.edgectl, "activate", f"{NAME}{'-b' * ((turn + 1) % 2)}"
            )
            if done.returncode != 0:
                not_changed.append(done.stderr.strip())
    failed = [r for r in crowd.replies if r.code != "OK"]
    worst = [r.ended - r.asked for r in crowd.replies]
    changed = f"{times - len(not_changed)}{'; '.join(['', *not_changed])}"
    return [
        Row("models changed, times", changed, str(times), not not_changed),
        Row("– calls", counted(crowd.replies)),
        Row("– failed", str(len(failed)), "0", not failed),
        Row("– time of a call (p50 / worst)", milliseconds(worst)),
    ]


async def terminated(appliance: Appliance, clients: int) -> tuple[list[Reply], int, float, int]:
    """Replies, accepted calls that were not answered, seconds to the end, exit status."""
    assert appliance.daemon is not None
    async with Crowd(f"unix:{appliance.socket}", PHOTO, clients) as crowd:
        await crowd.until(lambda crowd: crowd.codes["OK"] > 5 * clients)
        began = time.monotonic()
        appliance.daemon.terminate()
        status = await asyncio.to_thread(appliance.daemon.wait, 60)
        seconds = time.monotonic() - began
    accepted = [r for r in crowd.replies if r.asked < began - ACCEPTED_BY and r.ended >= began]
    return crowd.replies, sum(r.code != "OK" for r in accepted), seconds, status


async def sigterm(appliance: Appliance, clients: int, times: int) -> list[Row]:
    replies: list[Reply] = []
    seconds: list[float] = []
    lost = 0
    for _ in range(times):
        found, not_answered, taken, status = await terminated(appliance, clients)
        assert status == 0, appliance.log.read_text()[-2000:]
        replies += found
        lost += not_answered
        seconds.append(taken)
        await asyncio.to_thread(appliance.start_daemon)
    told = [r for r in replies if r.code == "UNAVAILABLE" and r.hint]
    other = [r for r in replies if r.code not in ("OK", "UNAVAILABLE")]
    return [
        Row("SIGTERM, times", str(times)),
        Row("– calls", counted(replies), _CODES, not other),
        Row("– accepted and not answered", str(lost), "0", not lost),
        Row("– refused with a hint when to come again", f"{len(told)}; the others: no connection"),
        Row("– end after (p50 / worst)", milliseconds(seconds)),
    ]


def workers(appliance: Appliance) -> list[int]:
    """Process ids of the appliance's containers: the one that serves, unless models change."""
    state = str(appliance.folder / "state").encode()
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        # Not what wraps it in namespaces, which has its command line as arguments.
        if b"edged.container.worker" in words[:4] and any(state in word for word in words):
            found.append(int(process.parent.name))
    return found


def bundle(folder: Path, name: str) -> Path:
    return pack(
        folder / f"{name}-1.0.0.edgemodel",
        "mobilenet_v2_imagenet.onnx",
        name,
        "--preprocess",
        "stretch",
        "--calibration",
        str(DATA / "images"),
    )


def document(path: Path, table: str) -> None:
    text = path.read_text()
    path.write_text(
        re.sub(r"(<!-- table -->\n).*?(<!-- end -->)", rf"\g<1>{table}\g<2>", text, flags=re.S)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--write", type=Path, help="a document with a table to be replaced")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edged-") as folder:
        bundles = Path(folder, "bundles")
        bundles.mkdir()
        appliance = Appliance(Path(folder))
        # A model whose container ends five times a minute would be set aside.
        with appliance.config.open("a") as config:
            config.write("[slot]\nfailures = 1000\n")
        try:
            appliance.start_emulator()
            appliance.start_daemon()
            for name in (f"{NAME}-b", NAME):
                appliance.put(bundle(bundles, name))
            rows = asyncio.run(containers_killed(appliance, options.clients, options.times))
            rows += asyncio.run(models_change(appliance, options.clients, options.times))
            rows += asyncio.run(sigterm(appliance, options.clients, options.times))
        finally:
            appliance.close()
    table = "\n".join(["| | seen | aim |", "|---|---|---|", *map(str, rows)]) + "\n"
    print(table, end="")
    if options.write is not None:
        document(options.write, table)
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
