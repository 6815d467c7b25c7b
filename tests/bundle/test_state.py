"""Packing a recurrent model: its calibration is a sequence, and its states are no answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli.command_lines import parse
from typer.testing import CliRunner

from edged._onnxruntime import session
from edged.bundle import FileName, State, StatePair, pack, read_arrays, verify_bundle
from edged.cli._app import app
from edged.errors import BundleError, InputError

MODEL = Path(__file__).parents[1] / "data" / "recurrent" / "silero_vad_16k.onnx"
CHUNKS = MODEL.with_name("vad_chunks.npz")
STATE = State((StatePair("h", "hn"), StatePair("c", "cn")), sequences=9, idle_seconds=7)


def test_the_samples_are_a_sequence_that_the_float_model_runs_through(tmp_path: Path) -> None:
    output = tmp_path / "vad.edgemodel"
    pack(MODEL, name="vad", version="1.0.0", calibration=CHUNKS, state=STATE, output=output)
    found = verify_bundle(output, tmp_path / "verified")
    assert found.manifest.state == STATE
    kept = read_arrays(found.folder / FileName.CALIBRATION)
    chunks = np.load(CHUNKS)["input"]
    run = session(MODEL.read_bytes(), as_written=True)
    h = c = np.zeros((1, 1, 128), np.float32)
    states = {}
    for index, chunk in enumerate(chunks):
        states[index] = h, c
        _, h, c = run.run(None, {"input": chunk[None], "h": h, "c": c})
    chosen = [int(index) for index in np.arange(64) * len(chunks) // 64]
    np.testing.assert_array_equal(kept["input"], chunks[chosen])
    for name, which in (("h", 0), ("c", 1)):
        wanted = np.concatenate([states[index][which] for index in chosen])
        np.testing.assert_allclose(kept[name], wanted, atol=1e-5)
    # A probability may be off by a quarter of its range, a state by all of its own.
    test = found.manifest.self_test
    assert test is not None
    probability, h_tolerance, _ = test.tolerances
    assert 0.2 < probability <= 0.25
    everything = np.concatenate([each for each, _ in list(states.values())[1:]])
    assert h_tolerance == pytest.approx(np.ptp(everything), rel=0.1)


def test_an_npz_with_states_is_taken_as_it_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = {
        "input": rng.normal(0, 0.01, (3, 576)).astype(np.float32),
        **{name: rng.normal(0, 1, (3, 1, 128)).astype(np.float32) for name in ("h", "c")},
    }
    np.savez(tmp_path / "samples.npz", **given)  # type: ignore[arg-type]
    output = tmp_path / "vad.edgemodel"
    samples = tmp_path / "samples.npz"
    pack(MODEL, name="vad", version="1.0.0", calibration=samples, state=STATE, output=output)
    kept = read_arrays(verify_bundle(output, tmp_path / "verified").folder / FileName.CALIBRATION)
    for name, array in given.items():
        np.testing.assert_array_equal(kept[name], array)
    with pytest.raises(BundleError, match="wanted the model's inputs"):
        pack(MODEL, name="vad", version="1.0.0", calibration=CHUNKS, output=output)


def test_the_options_of_the_command(tmp_path: Path) -> None:
    parse("edgectl pack m.onnx --name m --version 1.0.0 --state h=hn --sequences 4")
    words = ["pack", str(MODEL), "--name", "vad", "--version", "1.0.0", "-o", str(tmp_path / "v")]
    for wrong in ("h", "=hn", "h="):
        done = CliRunner().invoke(app, [*words, "--state", wrong])
        assert isinstance(done.exception, InputError)
        assert (
            str(done.exception) == f"cannot use --state {wrong!r}: wanted INPUT=OUTPUT, as in h=hn"
        )
    done = CliRunner().invoke(app, [*words, "--state", "h=cn", "--state", "c=nothing"])
    assert "there is no output 'nothing'; there are" in str(done.exception)
    assert list(tmp_path.iterdir()) == []
