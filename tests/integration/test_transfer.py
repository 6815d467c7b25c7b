"""Transfer learning as a user does it: photographs in folders, two commands, a bundle to drop."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

from integration.appliance import DATA, Appliance
from PIL import Image, ImageEnhance

from edged.client import PredictionClient

LEARNT = {
    "bird": ["parrot.jpg"],
    "cat": ["cat_720p.jpg", "tiger.jpg"],
    "elephant": ["elephant.jpg"],
    "vehicle": ["schoolbus.jpg"],
}
UNSEEN = {"snowleopardgaze.jpg": "cat", "indian-elephant.jpg": "elephant"}


def edgectl(*words: str | Path) -> str:
    command = [sys.executable, "-m", "edged.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def album(folder: Path) -> Path:
    """Six views of each photograph: crops, mirrored, darker and brighter."""
    rng = random.Random(1)
    for label, photographs in LEARNT.items():
        (folder / label).mkdir(parents=True)
        for name in photographs:
            photograph = Image.open(DATA / "images" / name).convert("RGB")
            photograph.thumbnail((480, 480))
            for view in range(6):
                width, height = (int(size * rng.uniform(0.6, 1)) for size in photograph.size)
                left = rng.randint(0, photograph.width - width)
                top = rng.randint(0, photograph.height - height)
                seen = photograph.crop((left, top, left + width, top + height))
                if view % 2:
                    seen = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                seen = ImageEnhance.Brightness(seen).enhance(rng.uniform(0.7, 1.3))
                seen.save(folder / label / f"{Path(name).stem}-{view}.jpg", quality=90)
    return folder


def test_animals_are_told_apart_by_features_of_imagenet(
    appliance: Appliance, mobilenet: Path, tmp_path: Path
) -> None:
    features, bundle = tmp_path / "features.npz", tmp_path / "animals-1.0.0.edgemodel"
    photographs = album(tmp_path / "album")
    said = edgectl("featurize", photographs, "--bundle", mobilenet, "-o", features, "--json")
    made = json.loads(said)
    assert (made["images"], made["features"]) == (30, 1280)
    assert made["labels"] == {"bird": 6, "cat": 12, "elephant": 6, "vehicle": 6}
    said = edgectl(
        *("head", features, "--bundle", mobilenet, "--name", "animals", "-o", bundle, "--json")
    )
    trained = json.loads(said)
    assert trained["classes"] == ["bird", "cat", "elephant", "vehicle"]
    assert trained["program"] == made["program"]

    assert appliance.put(bundle).startswith("serving since")
    with PredictionClient(f"unix:{appliance.socket}") as client:
        for name, label in UNSEEN.items():
            scores = client.score_file(DATA / "images" / name, outputs="output_alias")
            assert trained["classes"][scores.argmax()] == label, (name, scores)
            assert scores.max() > 0.6, (name, scores)
