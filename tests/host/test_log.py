"""Where the log goes, and how its lines look there."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.host import set_up_logging


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(path: Path, environment: dict[str, str], level: str = "info") -> str:
    with path.open("w") as stream:
        own = os.fstat(stream.fileno())
        values = {name: text.format(own.st_dev, own.st_ino) for name, text in environment.items()}
        set_up_logging(level, values, stream)
        logger = logging.getLogger("edged.test")
        logger.debug("quiet")
        logger.info("loud")
        logger.error("bad\nvery bad")
        logging.getLogger("watchdog.x").info("event")
    return path.read_text()


def test_on_a_terminal_lines_have_time_and_level(tmp_path, root):
    text = logged(tmp_path / "log", {})
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO    loud\n", text)
    assert "quiet" not in text
    assert "event" not in text


def test_level_is_heeded(tmp_path, root):
    assert "quiet" in logged(tmp_path / "log", {}, level="debug")
    assert "loud" not in logged(tmp_path / "log", {}, level="error")


def test_in_the_journal_each_line_has_its_priority(tmp_path, root, monkeypatch):
    monkeypatch.setitem(sys.modules, "systemd.journal", None)  # as where it is not installed
    text = logged(tmp_path / "log", {"JOURNAL_STREAM": "{}:{}"})
    assert text == "<6>loud\n<3>bad\n<3>very bad\n"


def test_a_stream_that_is_not_the_journal_is_no_journal(tmp_path, root):
    assert "<6>" not in logged(tmp_path / "log", {"JOURNAL_STREAM": "1:1"})
