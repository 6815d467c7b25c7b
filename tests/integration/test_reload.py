"""SIGHUP: what can change while edged runs does, and the rest is said to wait for a restart."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

from integration.appliance import DATA, Appliance, eventually


def reload(appliance: Appliance, says: str) -> str:
    """What the log says about it."""
    assert appliance.daemon is not None
    before = len(appliance.log.read_text())
    appliance.daemon.send_signal(signal.SIGHUP)
    eventually(lambda: says in appliance.log.read_text()[before:], f"{says!r} in the log")
    return appliance.log.read_text()[before:]


def test_what_can_change_does_and_the_rest_is_named(
    appliance: Appliance, kws: Path, tmp_path: Path
) -> None:
    assert appliance.put(kws).startswith("serving since")
    folder = appliance.config.with_name(f"{appliance.config.name}.d")
    folder.mkdir()
    (folder / "site.toml").write_text(
        "[state]\nkeep_bundles = 1\n[drop]\nmax_file_bytes = 3_000_000\n"
        "[log]\nlevel = 'debug'\n[console]\nmode = '0600'\n[slot]\nactivation = 'on-demand'\n"
    )
    said = reload(appliance, "needs a restart")
    assert (
        "reloaded: state.keep_bundles = 1, drop.max_file_bytes = 3000000,"
        ' log.level = "debug"' in said
    )
    assert 'needs a restart: slot.activation = "on-demand"' in said

    # It is in force: of three that are stored one stays, and a larger file is refused.
    assert appliance.edgectl("pin").returncode == 0
    shutil.copy(DATA / "models" / "kws_dscnn.onnx", tmp_path / "a.onnx")
    for name in ("a.onnx", "b.onnx", "c.onnx"):
        assert appliance.put(tmp_path / "a.onnx", name).startswith("stored; not activated")
    models = json.loads(appliance.edgectl("models", "--json").stdout)["models"]
    assert [model["name"] for model in models] == ["c", "kws"]
    large = tmp_path / "large.onnx"
    large.write_bytes(bytes(3_000_001))
    assert "more than the limit of 3000000" in appliance.put(large)

    assert "nothing new is in force" in reload(appliance, "reloaded: ")


def test_a_configuration_that_cannot_be_used_changes_nothing(
    appliance: Appliance, kws: Path
) -> None:
    assert appliance.put(kws).startswith("serving since")
    appliance.config.write_text("[slot]\nattemps = 1\n")
    said = reload(appliance, "cannot reload: ")
    assert "did you mean attempts" in said
    assert "what was in force stays so" in said
    assert appliance.answers()
