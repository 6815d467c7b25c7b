"""``edgectl doctor`` finds what was broken on purpose."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from typing import Any

from integration.appliance import Appliance, eventually


def examine(appliance: Appliance) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "edged.cli", "doctor", "--config", appliance.config, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    return done.returncode, {finding["subject"]: finding for finding in json.loads(done.stdout)}


def wait_for_the_device(appliance: Appliance) -> None:
    eventually(
        lambda: "copy a bundle into the drop folder" in examine(appliance)[1]["daemon"]["text"],
        "the daemon to have found its device, and no model",
    )


def test_what_was_broken_is_found(appliance: Appliance) -> None:
    wait_for_the_device(appliance)
    code, found = examine(appliance)
    assert code == 0, found
    assert found["daemon"]["verdict"] == "warn"
    whole = ("configuration", "device", "drop folder", "sandbox", "port")
    assert {found[subject]["verdict"] for subject in whole} == {"ok"}
    assert found["clock"]["verdict"] != "fail"

    appliance.kill(appliance.emulator)
    appliance.kill(appliance.daemon)
    shutil.rmtree(appliance.drop)
    code, found = examine(appliance)
    assert code == 1
    broken = {subject for subject, finding in found.items() if finding["verdict"] == "fail"}
    assert broken == {"daemon", "device", "drop folder"}
    assert "systemctl start edged" in found["daemon"]["cure"]
    assert all(found[subject]["cure"] for subject in broken)

    text = appliance.config.read_text()
    appliance.config.write_text(text + "\n[slot]\natempts = 1\n")
    code, found = examine(appliance)
    assert code == 1
    assert "did you mean attempts" in found["configuration"]["text"]


def test_a_port_that_another_has_is_found(appliance: Appliance) -> None:
    appliance.kill(appliance.daemon)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = appliance.config.read_text()
        listen = next(line for line in text.splitlines() if line.startswith("listen"))
        appliance.config.write_text(text.replace(listen, f'listen = "127.0.0.1:{port}"'))
        code, found = examine(appliance)
    assert code == 1
    assert found["port"]["text"] == f"127.0.0.1:{port} is taken"
    assert f"sport = :{port}" in found["port"]["cure"]


def test_for_people_each_trouble_has_its_cure_below_it(appliance: Appliance) -> None:
    wait_for_the_device(appliance)
    done = subprocess.run(
        [sys.executable, "-m", "edged.cli", "doctor", "--config", appliance.config],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    (trouble,) = [n for n, line in enumerate(lines) if line.startswith("warn  daemon: ")]
    assert lines[trouble + 1].startswith("      → ")
