"""Classic networks through the whole appliance: what was dropped answers photographs.

Minutes of computing, so they run with ``make test-slow``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from integration.appliance import DATA, Appliance, eventually

from edged import wire, zoo

PHOTOS = ("elephant.jpg", "schoolbus.jpg", "tiger.jpg")


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_a_network_of_the_zoo_is_dropped_and_answers(
    appliance: Appliance, tmp_path: Path, name: str
) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "edged.cli", "zoo", name, "-o", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    bundle = tmp_path / f"{name}-1.0.0.edgemodel"
    bundle.rename(appliance.drop / bundle.name)
    # Compiled within the memory that the configuration gives a compiler by default.
    eventually(
        lambda: appliance.status_of(bundle.name).startswith(("serving since", "rejected")),
        f"{bundle.name} to serve",
        patience=600,
    )
    assert appliance.status_of(bundle.name).startswith("serving since")
    photos = [(DATA / "images" / photo).read_bytes() for photo in PHOTOS]
    answer = appliance.predict(
        {
            "images": wire.TensorProto(
                dtype=wire.DataType.DT_STRING,
                tensor_shape=wire.TensorShapeProto(dim=[{"size": len(photos)}]),
                string_val=photos,
            )
        },
        timeout=120,
    )
    wanted = zoo.network(name).skeleton().outputs
    if len(wanted) == 1:
        # Asked by photographs, a sole output answers by the alias as well as by its name.
        assert answer.outputs.keys() <= {"output_alias", *wanted}
        (values,) = (np.asarray(wire.to_array(tensor)) for tensor in answer.outputs.values())
        assert values.shape == (len(PHOTOS), *wanted[next(iter(wanted))])
        assert np.abs(values[0] - values[1]).max() > 0
    else:
        found = {key: np.asarray(wire.to_array(t)) for key, t in answer.outputs.items()}
        assert {key: array.shape[1:] for key, array in found.items()} == wanted
        assert all(array.std() > 0 for array in found.values())
