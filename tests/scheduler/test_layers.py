"""Code of single layers against the integers that they mean."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from scheduler.programs import MACHINES, check
from scheduler.random_layers import OPERATORS

COUNT = 3


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_code_leaves_what_a_layer_says(operator: str, machine: str) -> None:
    for number in range(COUNT):
        seed = zlib.crc32(f"{operator} {machine} {number}".encode())
        check(OPERATORS[operator](np.random.default_rng(seed)), machine, seed)
