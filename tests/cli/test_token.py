"""``edgectl token``: what it prints where, and what of it is good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edged.cli._app import app
from edged.errors import InputError, NotFoundError
from edged.tokens import TokenFile, owner_of


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "edged.toml"
    # The control socket is there when a daemon runs by this file.
    (tmp_path / "control.sock").touch()
    path.write_text(
        '[serving]\ntokens = "secrets/tokens"\n[console]\nsocket = "control.sock"\n'
        '[state]\ndirectory = "state"\n'
    )
    return path


def edgectl(config: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["token", *words, "--config", str(config)])


def test_the_secret_alone_is_on_standard_output(config: Path) -> None:
    file = TokenFile(config.parent / "secrets" / "tokens")
    done = edgectl(config, "add", "camera-1")
    assert done.exit_code == 0
    assert owner_of(done.stdout.strip(), file.read()) == "camera-1"
    assert "camera-1" in done.stderr and done.stdout.strip() not in done.stderr
    second = json.loads(edgectl(config, "add", "camera-2", "--json").stdout)
    assert owner_of(second["token"], file.read()) == "camera-2"
    listed = edgectl(config, "list").stdout
    assert listed.split()[:3] == ["NAME", "SINCE", "camera-1"]
    assert done.stdout.strip() not in listed
    assert [each["name"] for each in json.loads(edgectl(config, "list", "--json").stdout)] == [
        "camera-1",
        "camera-2",
    ]
    assert edgectl(config, "revoke", "camera-1").stdout == "revoked: camera-1\n"
    assert owner_of(done.stdout.strip(), file.read()) is None


def test_what_cannot_be_done_is_said(config: Path) -> None:
    assert "there are no tokens" in edgectl(config, "list").stdout
    assert isinstance(edgectl(config, "add", "a b").exception, InputError)
    assert isinstance(edgectl(config, "revoke", "camera").exception, NotFoundError)
