"""Where the log goes, and how its lines look there."""

from __future__ import annotations

import logging
import os
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.host import log_failure, set_up_logging
from edged.notices import Notice, about


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
        logger.error("cannot take %s", "a\n<0>\x1b[2J\udcff")
        try:
            raise ValueError("very bad")
        except ValueError:
            logger.exception("bad")
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
    lines = text.splitlines()
    assert lines[0] == "<6>loud"
    assert lines[2:4] == ["<3>bad", "<3>Traceback (most recent call last):"]
    assert lines[-1] == "<3>ValueError: very bad"


def test_what_others_named_stays_on_its_line(tmp_path, root):
    text = logged(tmp_path / "log", {})
    assert "cannot take a\\n<0>\\x1b[2J\\udcff\n" in text


def test_in_the_journal_a_message_has_its_fields(tmp_path, root, monkeypatch):
    sent = []
    journal = types.SimpleNamespace(send=lambda text, **fields: sent.append((text, fields)))
    monkeypatch.setitem(sys.modules, "systemd", types.ModuleType("systemd"))
    monkeypatch.setitem(sys.modules, "systemd.journal", journal)
    with (tmp_path / "log").open("w") as stream:
        own = os.fstat(stream.fileno())
        set_up_logging("info", {"JOURNAL_STREAM": f"{own.st_dev}:{own.st_ino}"}, stream)
        extra = about(Notice.SERVES, model="kws 1.0.0", digest="sha256:0")
        logging.getLogger("edged.test").warning("%s serves", "kws 1.0.0", extra=extra)
    ((text, fields),) = sent
    assert text == "kws 1.0.0 serves"
    assert fields["MESSAGE_ID"] == Notice.SERVES.value.message_id
    assert (fields["MODEL"], fields["DIGEST"]) == ("kws 1.0.0", "sha256:0")
    assert (fields["PRIORITY"], fields["LOGGER"]) == ("4", "edged.test")
    assert isinstance(fields["CODE_LINE"], int)  # as systemd-python wants it, alone of all


def test_why_edged_ends_is_an_error_in_the_journal_and_a_line_elsewhere(
    tmp_path, root, monkeypatch
):
    monkeypatch.setitem(sys.modules, "systemd.journal", None)
    with (tmp_path / "log").open("w+") as stream:
        own = os.fstat(stream.fileno())
        log_failure("cannot x", {"JOURNAL_STREAM": f"{own.st_dev}:{own.st_ino}"}, stream)
        log_failure("cannot y", {}, stream)
    assert (tmp_path / "log").read_text() == "<3>cannot x\nedged: cannot y\n"


def test_a_stream_that_is_not_the_journal_is_no_journal(tmp_path, root):
    assert "<6>" not in logged(tmp_path / "log", {"JOURNAL_STREAM": "1:1"})
