"""What ``edgectl push`` says when it cannot copy."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edged.cli._app import app
from edged.errors import InputError


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.EACCES, "usermod -aG edged USER"),
        (errno.ENOSPC, "edgectl remove NAME@VERSION"),
        (errno.EROFS, "mount it for writing"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_stands_in_the_way_is_said_with_what_to_do(
    number: int, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, drop = tmp_path / "model.onnx", tmp_path / "drop"
    model.write_bytes(b"x")
    drop.mkdir()

    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(shutil, "copyfile", refused)
    # As on what is mounted read-only: it cannot be taken away either.
    monkeypatch.setattr(Path, "unlink", refused)
    done = CliRunner().invoke(app, ["push", str(model), "--drop", str(drop)])
    assert isinstance(done.exception, InputError)
    assert str(done.exception).startswith(f"cannot copy to {drop}: {os.strerror(number)}")
    assert cure in str(done.exception)
