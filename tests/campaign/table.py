"""The results as a document."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from campaign.perform import Result

__all__ = ["document"]

_FOLDER = re.compile(r"\S*/ec-\w+/")

_HEAD = """\
# What happens when things fail

Written by `make campaign` on {date} UTC: {cases} cases at {points} fault points and moments,
{wrong} of them wrong, in {minutes:.1f} minutes.

Each case runs emulator, daemon, compiler and containers as processes, with clients that call
without a pause. Model a serves and is committed; then b is dropped, or what the table says. The
fault strikes at the named point (`edged/faults.py`): *exit* ends the process on the spot, *raise*
and *enospc* are an error and a full disk there, *stall* hangs until the process is killed, *pause*
holds the process while the deed is done to another one. What died is started again. Then
[a checker](../tests/campaign/checker.py) that knows nothing of the implementation looks:

- a or b serves, answer for answer; never a mix, never neither for good;
- what was reported as serving before a crash serves after it;
- calls failed only while what answers them was down, and only with UNAVAILABLE; while daemon,
  device and the serving container live, none does;
- the status file is true; a rejected file is kept with its reason;
- b, dropped again, serves; where the fault ended nothing, a power cut of the whole box follows, and
  it still does;
- edged then ends with status 0, and leaves no process, no temporary file, and in the state folder
  not a file more than an undisturbed run.

| point | fault | meanwhile | what happened | serves then | calls | |
|---|---|---|---|---|---|---|
"""


def document(results: Sequence[Result], seconds: float) -> str:
    points = {result.case.point for result in results}
    wrong = sum(not result.ok for result in results)
    text = _HEAD.format(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        cases=len(results),
        points=len(points),
        wrong=wrong,
        minutes=seconds / 60,
    )
    for result in results:
        case = result.case
        fault = f"{case.kind}: {case.deed.value}" if case.deed.value else case.kind
        if case.kind == "outside":
            fault = case.deed.value
        fault += f", {case.free} KiB left" if case.free else ""
        fault += ", in every start" if case.again else ""
        point = f"`{case.point}`" if case.kind != "outside" else case.point
        point += f", time {case.at}" if case.at > 1 else ""
        verdict = "ok" if result.ok else "**wrong**: " + "; ".join(result.violations)
        cells = (point, fault, case.act.value, result.happened, result.serves, result.calls)
        text += f"| {' | '.join(_cell(cell) for cell in (*cells, verdict))} |\n"
    kinds = Counter(result.case.kind for result in results)
    text += "\nBy kind of fault: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()) + ".\n"
    return text


def _cell(text: str) -> str:
    # The folder of the case is another one each time.
    return " ".join(_FOLDER.sub("", text).replace("|", "\\|").split())
