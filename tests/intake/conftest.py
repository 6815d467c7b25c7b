"""An empty drop folder, and who takes what comes into it."""

from __future__ import annotations

from pathlib import Path

import pytest
from intake.folder import Acceptor


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    return tmp_path / "drop"


@pytest.fixture
async def acceptor() -> Acceptor:
    return Acceptor()
