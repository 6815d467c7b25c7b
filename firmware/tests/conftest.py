"""Machines, compiled once for all tests and kept for the next time."""

from __future__ import annotations

import functools
import shutil

import pytest

from edged.npu.registers import Array
from firmware.rtl.parameters import Parameters
from firmware.tests.machine import Machine

KINDS = {
    "8x8x1": Parameters(Array(8, 8, 1), 16 << 10, 8 << 10),
    # More input than output channels: a block of these fills half a word.
    "16x8x2": Parameters(Array(16, 8, 2), 32 << 10, 8 << 10),
    # Fewer: a block fills two words.
    "8x16x4": Parameters(Array(8, 16, 4), 64 << 10, 16 << 10),
}


@functools.cache
def _machine(kind: str) -> Machine:
    if missing := [tool for tool in ("verilator", "g++", "make") if not shutil.which(tool)]:
        pytest.skip(f"{', '.join(missing)} is not installed")
    return Machine(KINDS[kind])


_FIRST, *_OTHERS = KINDS


@pytest.fixture(params=[_FIRST, *(pytest.param(k, marks=pytest.mark.slow) for k in _OTHERS)])
def machine(request: pytest.FixtureRequest) -> Machine:
    """The core, of each of the sizes."""
    return _machine(request.param)


@pytest.fixture
def small() -> Machine:
    """The smallest one."""
    return _machine("8x8x1")
