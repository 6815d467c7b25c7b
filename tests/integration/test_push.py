"""``edgectl push`` against the whole appliance."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from integration.appliance import Appliance, eventually


def push(appliance: Appliance, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edged.cli", "push", *map(str, words)]
    command += ["--config", str(appliance.config)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_push_follows_a_model_until_it_serves_or_not(
    appliance: Appliance, kws: Path, tmp_path: Path
) -> None:
    done = push(appliance, kws)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("serving since ")
    assert done.stdout.splitlines()[1] == "kws 1.0.0"
    # Once more: what an earlier one came to is not taken for what this one does.
    found = json.loads(push(appliance, kws, "--json").stdout)
    assert (found["file"], found["fate"], found["model"]) == (kws.name, "serving", "kws 1.0.0")
    assert "nothing changed" in found["text"]

    torn = tmp_path / "torn.edgemodel"
    torn.write_bytes(kws.read_bytes()[:1000])
    done = push(appliance, torn)
    assert done.returncode == 65
    assert done.stderr.startswith("edgectl: cannot ")
    assert "moved to rejected/" in done.stderr

    assert appliance.edgectl("pin").returncode == 0
    other = tmp_path / "other.onnx"
    other.write_bytes((Path(__file__).parents[1] / "data/models/kws_dscnn.onnx").read_bytes())
    done = push(appliance, other)
    assert done.returncode == 0
    assert done.stdout.startswith("stored; not activated, because edged is pinned")


def test_push_says_when_nobody_can_take_it(appliance: Appliance, kws: Path, tmp_path: Path) -> None:
    done = push(appliance, kws, "--drop", tmp_path / "none")
    assert done.returncode == 66
    assert "there is no such folder" in done.stderr
    text = tmp_path / "model.txt"
    text.write_text("ant\nbee\n")
    done = push(appliance, text)
    assert done.returncode == 65
    assert "takes files that end in .edgemodel and .onnx" in done.stderr


def test_an_interrupted_push_says_how_to_call_it_off(appliance: Appliance, kws: Path) -> None:
    assert appliance.daemon is not None
    appliance.daemon.send_signal(signal.SIGSTOP)
    command = [sys.executable, "-m", "edged.cli", "push", str(kws)]
    command += ["--config", str(appliance.config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        eventually(lambda: (appliance.drop / kws.name).exists(), "the copy")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert f"remove {appliance.drop / kws.name} to call it off" in said
    appliance.daemon.send_signal(signal.SIGCONT)
