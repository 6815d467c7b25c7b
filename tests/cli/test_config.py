"""``edgectl config`` as people use it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trustme


def edgectl(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edged.cli", "config", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "edged.toml"
    path.write_text('[log]\nlevel = "debug"\n')
    return path


def test_show_says_what_is_in_force_and_why(file: Path) -> None:
    done = edgectl("show", file)
    assert done.stdout.splitlines()[1].split("  ") == ['log.level = "debug"', str(file)]
    assert len(done.stdout.splitlines()) == 2
    lines = edgectl("show", file, "--all").stdout.splitlines()
    assert any(line.split() == ["slot.attempts", "=", "3", "default"] for line in lines)
    found = json.loads(edgectl("show", file, "--json").stdout)
    assert found["log.level"] == {"value": "debug", "file": str(file)}
    assert found["slot.attempts"] == {"value": 3, "file": None}


def test_check_says_whether_it_can_be_used(file: Path) -> None:
    done = edgectl("check", file)
    assert (done.returncode, done.stdout) == (0, f"usable: {file}\n")
    folder = file.with_name("edged.toml.d")
    folder.mkdir()
    (folder / "1.toml").write_text("[slot]\nattempts = 0\n")
    done = edgectl("check", file)
    assert done.returncode == 78
    assert done.stderr == (
        f"edgectl: cannot use {folder}/1.toml: slot.attempts is 0, wanted a whole number,"
        " at least 1\n"
    )


def test_check_reads_what_the_listeners_need(file: Path) -> None:
    file.write_text('[listeners.lan]\nlisten = "0.0.0.0:1"\ncertificate = "a.crt"\nkey = "a.key"\n')
    done = edgectl("check", file)
    assert done.returncode == 78
    assert done.stderr.startswith(
        f"edgectl: cannot use listeners.lan.certificate, {file.parent}/a.crt: No such file"
    )
    certificate = trustme.CA().issue_cert("edge")
    (file.parent / "a.crt").write_bytes(certificate.cert_chain_pems[0].bytes())
    (file.parent / "a.key").write_bytes(certificate.private_key_pem.bytes())
    done = edgectl("check", file)
    assert done.returncode == 0 and done.stdout == f"usable: {file}\n"
    # Whom it lets in is said as at a start.
    assert "listeners.lan, 0.0.0.0:1, is open to the network" in done.stderr
    file.write_text(file.read_text().replace('"a.key"', '"{credentials}/a.key"'))
    done = edgectl("check", file)
    assert done.returncode == 0
    assert "not looked at: /run/credentials/edged.service/a.key, which systemd puts" in done.stdout
    # What cannot be looked at hides nothing else.
    text = file.read_text()
    file.write_text(text + '[listeners.z]\nlisten = "0.0.0.0:2"\ncertificate = "b"\nkey = "b"\n')
    done = edgectl("check", file)
    assert done.returncode == 78 and "cannot use listeners.z.certificate" in done.stderr
