"""What the proofs share."""

from __future__ import annotations

import pytest

from firmware.formal.prove import is_possible


@pytest.fixture(autouse=True)
def _tools() -> None:
    if not is_possible():
        pytest.skip("there is no yosys with yosys-smtbmc, or no Yices: pip install edged[boards]")
