"""edgectl against the whole appliance: what is loaded, and having it changed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from integration.appliance import DATA, Appliance, eventually, keywords, pack

from edged import wire

PHOTO = (DATA / "images" / "schoolbus.jpg").read_bytes()


@pytest.fixture(scope="session")
def older_kws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundles") / "older.edgemodel"
    return pack(output, "kws_dscnn.onnx", "kws", "--serial", "5", "--licence", "Apache-2.0")


def told(appliance: Appliance, *words: str | Path) -> Any:
    """What a command that works says, as JSON."""
    done = appliance.edgectl(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def spots_keywords(appliance: Appliance) -> bool:
    x, _ = keywords()
    answer = appliance.predict({"input_1": wire.from_array(x[:1])})
    return answer.outputs["Identity"].tensor_shape.dim[1].size == 12


def names(appliance: Appliance, **flags: bool) -> list[str]:
    models = told(appliance, "models")["models"]
    return [m["name"] for m in models if all(m[key] == value for key, value in flags.items())]


def test_activate_roll_back_pin_remove_and_history(
    appliance: Appliance, kws: Path, mobilenet: Path, older_kws: Path
) -> None:
    assert appliance.control.stat().st_mode & 0o777 == 0o600
    empty = told(appliance, "status")
    assert empty["model"] is None and empty["pinned"] is False

    assert appliance.put(kws).startswith("serving since")
    assert appliance.put(mobilenet).startswith("serving since")
    assert names(appliance) == ["kws", "mobilenet-v2"]
    assert names(appliance, loaded=True) == names(appliance, committed=True) == ["mobilenet-v2"]
    assert names(appliance, last_good=True) == ["kws"]

    # By name, back to the first one; its file says so as well.
    done = appliance.edgectl("activate", "kws")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("kws 1.0.0 serves; calls were held for ")
    assert spots_keywords(appliance)
    assert told(appliance, "status")["model"]["name"] == "kws"
    eventually(
        lambda: (
            appliance.status_of(kws.name).startswith("serving since")
            and "kws 1.0.0 took its place" in appliance.status_of(mobilenet.name)
        ),
        "the status files after an activation",
    )
    done = appliance.edgectl("activate", "kws@1.0.0")
    assert done.stdout == "kws 1.0.0 was serving already; nothing changed\n"

    assert told(appliance, "rollback")["model"] == "mobilenet-v2 1.0.0"
    assert appliance.score_images(PHOTO).shape == (1, 1001)

    # Pinned: what is dropped is stored, and says what to do.
    assert appliance.edgectl("pin").stdout == "pinned to mobilenet-v2 1.0.0\n"
    text = appliance.put(older_kws)
    assert text.startswith(
        "stored; not activated, because edged is pinned to mobilenet-v2 1.0.0:"
        " edgectl activate kws@1.0.0\nkws 1.0.0\n"
    )
    assert not (appliance.drop / older_kws.name).exists()
    assert appliance.score_images(PHOTO).shape == (1, 1001)
    assert names(appliance) == ["kws", "kws", "mobilenet-v2"]

    # All of it outlives a crash.
    appliance.kill(appliance.daemon)
    appliance.socket.unlink()
    appliance.start_daemon()
    eventually(lambda: told(appliance, "status")["state"] == "serving", "service after a crash")
    assert told(appliance, "status")["pinned"] is True
    assert told(appliance, "unpin") == {"pinned": False}

    swaps = told(appliance, "history")
    assert [swap["model"].split()[0] for swap in swaps] == [
        "mobilenet-v2",
        "kws",
        "mobilenet-v2",
        "kws",
    ]
    assert len(told(appliance, "history", "--limit", "2")) == 2
    lines = appliance.edgectl("history").stdout.splitlines()
    assert lines[0].split() == ["WHEN", "(UTC)", "MODEL", "CALLS", "HELD", "CAUSE"]
    assert len(lines) == 5 and " mobilenet-v2 1.0.0 " in lines[1]

    # What is in use stays; what is not, goes.
    done = appliance.edgectl("remove", "mobilenet-v2@1.0.0")
    assert done.returncode == 65
    assert done.stderr.startswith("edgectl: cannot remove mobilenet-v2 1.0.0: it is in use")
    assert appliance.edgectl("remove", "kws@1.0.0").stdout == "removed kws@1.0.0\n"
    assert names(appliance) == ["mobilenet-v2"]
    assert appliance.edgectl("remove", "kws@1.0.0").returncode == 66
    done = appliance.edgectl("rollback")
    assert done.returncode == 66
    assert "no other model that served before" in done.stderr
    # The history still knows its name.
    assert told(appliance, "history")[1]["model"] == "kws 1.0.0"


def test_history_says_who_wanted_it_and_how_long_calls_were_held(
    appliance: Appliance, kws: Path, older_kws: Path
) -> None:
    assert appliance.put(older_kws).startswith("serving since")
    assert appliance.put(kws).startswith("serving since")
    assert appliance.edgectl("rollback").returncode == 0
    swaps = told(appliance, "history")
    assert [swap["cause"] for swap in swaps] == [
        f"edgectl rollback by uid {os.getuid()}",
        f"drop of {kws.name}",
        f"drop of {older_kws.name}",
    ]
    assert all(0 < swap["gate_closed_seconds"] < 30 for swap in swaps)
    table = " ".join(appliance.edgectl("history").stdout.split())
    assert f" ms edgectl rollback by uid {os.getuid()}" in table


def test_an_older_serial_is_refused_unless_it_is_meant(
    appliance: Appliance, kws: Path, older_kws: Path
) -> None:
    assert appliance.put(kws).startswith("serving since")
    text = appliance.put(older_kws)
    assert text.startswith(
        "rejected: cannot replace kws 1.0.0: serial 5 of kws 1.0.0 is older than serial 1000000;"
    )
    assert "`edgectl activate kws@1.0.0` activates it on purpose" in text
    assert [m["serial"] for m in told(appliance, "models")["models"]] == [5, 1000000]


def test_a_model_that_cannot_be_loaded_is_set_aside_with_its_reason(
    appliance: Appliance, kws: Path, mobilenet: Path
) -> None:
    assert appliance.put(kws).startswith("serving since")
    assert appliance.daemon is not None
    appliance.kill(appliance.daemon)
    appliance.socket.unlink()
    # The self-test of the next model that is swapped in goes wrong, and that alone.
    os.environ["EDGED_FAULT"] = "slot.tested:raise@2"
    try:
        appliance.start_daemon()
    finally:
        del os.environ["EDGED_FAULT"]
    eventually(appliance.answers, "the model after the restart")
    text = appliance.put(mobilenet)
    assert text.startswith("rejected: cannot go on")
    assert spots_keywords(appliance)
    (model,) = [m for m in told(appliance, "models")["models"] if m["name"] == "mobilenet-v2"]
    assert model["set_aside"].startswith("cannot go on")
    assert model["set_aside_at"] >= model["added"]
    line = appliance.edgectl("models").stdout.splitlines()[2]
    assert line.startswith("mobilenet-v2@1.0.0 ") and ": cannot go on" in line
    # On purpose, it is tried again.
    assert appliance.edgectl("activate", "mobilenet-v2").returncode == 0
    assert appliance.score_images(PHOTO).shape == (1, 1001)
    assert names(appliance, set_aside=None) == ["kws", "mobilenet-v2"]


def test_only_the_newest_are_kept(appliance: Appliance, kws: Path, tmp_path: Path) -> None:
    appliance.kill(appliance.daemon)
    appliance.socket.unlink()
    config = appliance.config.read_text()
    appliance.config.write_text(config.replace("[state]\n", "[state]\nkeep_bundles = 1\n"))
    appliance.start_daemon()
    assert appliance.put(kws).startswith("serving since")
    assert appliance.edgectl("pin").returncode == 0
    shutil.copy(DATA / "models" / "kws_dscnn.onnx", tmp_path / "a.onnx")
    for name in ("a.onnx", "b.onnx", "c.onnx"):
        assert appliance.put(tmp_path / "a.onnx", name).startswith("stored; not activated")
    assert names(appliance) == ["c", "kws"]


def test_without_a_device_an_activation_is_refused_at_once(appliance: Appliance, kws: Path) -> None:
    assert appliance.put(kws).startswith("serving since")
    appliance.kill(appliance.emulator)
    eventually(lambda: told(appliance, "status")["state"] == "no device", "the loss")
    done = appliance.edgectl("activate", "kws")
    assert done.returncode == 75
    assert done.stderr.startswith("edgectl: cannot activate kws 1.0.0: the device is gone")
    done = appliance.edgectl("status")
    assert done.returncode == 0
    assert "problem  the device is gone" in done.stdout


def compilers(appliance: Appliance) -> list[int]:
    """The processes of compilers that work for this appliance."""
    state = str(appliance.folder / "state")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if "edged.compiler" in words and any(state in word for word in words):
            found.append(int(process.name))
    return found


def stop_compilers(appliance: Appliance) -> bool:
    """Have them wait; whether there were any."""
    found = compilers(appliance)
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGSTOP)
    return bool(found)


@pytest.mark.parametrize("way", ["taken away", "edgectl cancel"])
def test_a_compilation_can_be_called_off(
    way: str, appliance: Appliance, kws: Path, mobilenet: Path
) -> None:
    assert appliance.put(kws).startswith("serving since")
    assert told(appliance, "cancel") == {"models": []}
    shutil.copy(mobilenet, appliance.drop)
    eventually(lambda: appliance.status_of(mobilenet.name).startswith("compiling"), "compiling")
    # It is not done before it is called off, however slow that is.
    assert stop_compilers(appliance)
    if way == "taken away":
        (appliance.drop / mobilenet.name).unlink()
        eventually(lambda: not appliance.status_of(mobilenet.name), "the status file to go")
    else:
        assert told(appliance, "cancel") == {"models": ["mobilenet-v2 1.0.0"]}
        eventually(lambda: appliance.status_of(mobilenet.name).startswith("stored"), "its fate")
        said = appliance.status_of(mobilenet.name)
        assert f"edgectl cancel by uid {os.getuid()} called it off" in said
        assert "`edgectl activate mobilenet-v2@1.0.0` loads it" in said
    eventually(lambda: not compilers(appliance), "the compiler to end")
    assert spots_keywords(appliance)
    assert names(appliance, set_aside=None) == ["kws", "mobilenet-v2"]
    # Nothing is in the way of another try.
    assert told(appliance, "activate", "mobilenet-v2")["model"] == "mobilenet-v2 1.0.0"
