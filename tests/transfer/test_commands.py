"""``edgectl featurize`` and ``edgectl head`` as processes: what they print and what they refuse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def edgectl(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edged.cli", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
    )


def test_two_commands_from_photographs_to_a_bundle(
    bundle: Path, photographs: Path, tmp_path: Path
) -> None:
    features = tmp_path / "features.npz"
    done = edgectl("featurize", photographs, "--bundle", bundle, "-o", features)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{features}: 16 images, 24 features each of features\nblue (8), red (8)\n"
    )
    done = edgectl("head", features, "--bundle", bundle, "--name", "colours", "-o", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    first, accuracy, device = done.stdout.splitlines()
    assert first.startswith(f"{tmp_path / 'colours-1.0.0.edgemodel'}: 2 classes, sha256:")
    assert "100.0 % of images that it was not trained on (5-fold" in accuracy
    assert device.endswith(", as before")
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(["left"] * 3 + ["right"] * 13) + "\n")
    done = edgectl(
        *("head", features, "--bundle", bundle, "--name", "sides", "-o", tmp_path),
        *("--labels", labels, "--json"),
    )
    assert '"left",\n    "right"' in done.stdout


def test_one_folder_is_one_class(bundle: Path, photographs: Path, tmp_path: Path) -> None:
    features = tmp_path / "features.npz"
    done = edgectl("featurize", photographs / "red", "--bundle", bundle, "-o", features)
    assert done.returncode == 0
    done = edgectl("head", features, "--bundle", bundle, "--name", "reds", "-o", tmp_path)
    assert done.returncode == 65
    assert done.stderr == (
        "edgectl: cannot train: every image has the label 'red'; wanted at least two classes,"
        " each in a folder of its name, or --labels\n"
    )
    assert list(tmp_path.glob("*.edgemodel")) == []


def test_what_cannot_be_featurized(bundle: Path, photographs: Path, tmp_path: Path) -> None:
    output = tmp_path / "features.npz"
    bad = tmp_path / "album" / "red"
    bad.mkdir(parents=True)
    shutil.copy(photographs / "red" / "0.png", bad)
    (bad / "1.jpg").write_text("no image")
    done = edgectl("featurize", tmp_path / "album", "--bundle", bundle, "-o", output)
    assert done.returncode == 65
    assert done.stderr.startswith(f"edgectl: cannot featurize {bad / '1.jpg'}: cannot decode")
    done = edgectl("featurize", tmp_path / "none", "--bundle", bundle, "-o", output)
    assert done.returncode == 66
    (tmp_path / "empty").mkdir()
    done = edgectl("featurize", tmp_path / "empty", "--bundle", bundle, "-o", output)
    assert done.returncode == 65 and "there is no .jpg, .jpeg or .png in " in done.stderr
    done = edgectl(
        *("featurize", photographs, "--bundle", bundle, "-o", output, "--features", "nowhere")
    )
    assert done.returncode == 66 and "no operator gives it" in done.stderr
    assert not output.exists()
