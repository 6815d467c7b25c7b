"""A part of the fault campaign, and that the whole of it forgets no fault point."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from campaign.cases import CASES, SUBSET
from campaign.perform import Ground, perform
from campaign.rig import eventually, stopped
from patience import PATIENCE

import edged
from edged.errors import EdgedError
from edged.faults import FAULT_EXIT_STATUS, fault_point


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground.prepare(tmp_path_factory.mktemp("g"))


@pytest.mark.parametrize("name", SUBSET)
def test_old_or_new(ground: Ground, name: str) -> None:
    (case,) = (case for case in CASES if str(case) == name)
    result = perform(case, ground)
    assert result.violations == [], f"{result.happened}\n{result.log}"


def test_every_fault_point_has_its_cases() -> None:
    found = set()
    for file in Path(edged.__file__).parent.rglob("*.py"):
        calls = re.findall(r"fault_point\(([^)]*)\)", file.read_text())
        found |= {call.strip('"') for call in calls if call != "name: str"}
    assert len(found) >= 40
    assert {name for name in found if not re.fullmatch(r"\w+(\.\w+)+", name)} == set()
    assert found == {case.point for case in CASES if case.kind != "outside"}


def test_no_case_is_there_twice() -> None:
    assert len({str(case) for case in CASES}) == len(CASES)


PASS_THREE_TIMES = """
from edged.faults import fault_point
for number in range(3):
    print(number, flush=True)
    fault_point("some.place")
"""


def passing(fault: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PASS_THREE_TIMES],
        env={"EDGED_FAULT": fault},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_fault_strikes_when_it_is_to() -> None:
    process = passing("other.place,some.place:exit@2")
    out, err = process.communicate()
    assert (out, err) == ("0\n1\n", "fault: some.place:exit\n")
    assert process.returncode == FAULT_EXIT_STATUS


def test_a_pause_ends_when_it_is_told_to() -> None:
    with passing("some.place:pause@3") as process:
        eventually(lambda: stopped(process.pid), "it to stand still")
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE) == 0


def test_a_stall_ends_with_the_process() -> None:
    with passing("some.place:stall") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "fault: some.place:stall\n"
        assert process.poll() is None
        process.kill()


def test_an_error_says_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGED_FAULT", "some.place:raise,full.place:enospc,wrong.place:explode")
    with pytest.raises(EdgedError, match=r"some\.place"):
        fault_point("some.place")
    with pytest.raises(OSError, match=r"No space left on device: 'full\.place'"):
        fault_point("full.place")
    with pytest.raises(ValueError, match="explode"):
        fault_point("wrong.place")
    fault_point("no.place")
