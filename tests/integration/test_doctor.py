"""``edgectl doctor`` finds what was broken on purpose."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
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


def test_a_full_disk_is_told_of_while_another_model_serves(
    appliance: Appliance, kws: Path, second: Path
) -> None:
    assert appliance.daemon is not None
    appliance.kill(appliance.daemon)
    appliance.socket.unlink()
    # The first model is stored, and there is no room for another.
    full = (f"store.add.before:enospc@{count}" for count in range(2, 40))
    os.environ["EDGED_FAULT"] = ",".join(full)
    try:
        appliance.start_daemon()
    finally:
        del os.environ["EDGED_FAULT"]
    assert appliance.put(kws).startswith("serving since")
    shutil.copy(second, appliance.drop / "second.edgemodel")
    eventually(
        lambda: appliance.status_of("second.edgemodel").startswith("waiting: "),
        "the second model to wait",
    )
    seen = json.loads(appliance.edgectl("status", "--json").stdout)
    assert seen["state"] == "serving" and not seen["problem"]
    # It may be at work on it once more at any moment.
    eventually(
        lambda: "no space is left on the disk" in appliance.edgectl("status", "--json").stdout,
        "the status to tell of it",
    )
    eventually(
        lambda: "second.edgemodel waits: " in appliance.edgectl("status").stdout,
        "the screen to tell of it",
    )
    eventually(
        lambda: "second.edgemodel waits: " in examine(appliance)[1]["drop folder"]["text"],
        "the doctor to find it",
    )
    assert examine(appliance)[0] == 1
