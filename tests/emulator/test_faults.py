"""Files of faults, and what the documentation says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.emulator._faults import KINDS, Armed, Faults, read_schedule
from edged.emulator._thermal import Thermal
from edged.errors import ConfigError
from edged.npu.registers import Injection

DOCS = Path(__file__).parents[2] / "docs" / "rehearsing-failures.md"


def test_the_documentation_has_every_fault_and_its_example_works(tmp_path: Path) -> None:
    text = DOCS.read_text()
    assert [kind for kind in KINDS if f"| `{kind}` |" not in text] == []
    file = tmp_path / "faults.toml"
    file.write_text(text.partition("```toml\n")[2].partition("```")[0])
    assert [each.kind for each in read_schedule(file)] == ["hang", "lost-interrupt", "temperature"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[[fault]]\nkind = "hangs"\n', "kind 'hangs'; one of hang, lost-interrupt"),
        ('[[fault]]\nkind = "hang"\nafterr = 1\n', "afterr"),
        ('[[fault]]\nkind = "hang"\nchance = 2.0\n', r"chance"),
        ("[[fault]]\nkind = \n", "Invalid value"),
        ("", "fault"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "faults.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=f"cannot read faults from .*{message}"):
        read_schedule(file)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_schedule(tmp_path / "none.toml")


def test_after_times_and_disarm() -> None:
    faults = Faults()
    faults.arm(Armed(Injection.HANG, after=2, times=2))
    hits = [faults.strike(Injection.HANG) is not None for _ in range(6)]
    assert hits == [False, False, True, True, False, False]
    assert faults.struck == 2
    faults.arm(Armed(Injection.HANG, times=0))
    assert all(faults.strike(Injection.HANG) for _ in range(5))
    assert faults.strike(Injection.DMA_CRC) is None
    faults.disarm()
    assert faults.strike(Injection.HANG) is None


def test_what_strikes_at_once_may_wait_for_runs() -> None:
    faults, carried_out = Faults(), list[Injection]()
    faults.on_strike = lambda fault: carried_out.append(fault.kind)
    faults.arm(Armed(Injection.REMOVAL))
    assert carried_out == [Injection.REMOVAL]
    faults.arm(Armed(Injection.LINK_DOWN, after=1))
    faults.run_begins()
    assert carried_out == [Injection.REMOVAL]
    faults.run_begins()
    assert carried_out == [Injection.REMOVAL, Injection.LINK_DOWN]


def test_heat_comes_little_by_little(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("edged.emulator._thermal.time.monotonic", lambda: now)
    thermal = Thermal()
    idle = thermal.celsius(running=False)
    thermal.ramp(101, 20.0)
    now = 110.0
    assert thermal.celsius(running=True) == pytest.approx((idle + 101) / 2)
    now = 1000.0
    assert thermal.celsius(running=False) == 101.0
    thermal.ramp(0, 0.0)
    assert thermal.celsius(running=False) == idle
