"""From photographs to a bundle with a new classifier: what stays, what changes, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edged._onnxruntime import InferenceSession
from edged.bundle import Digest, VerifiedBundle, read_arrays
from edged.compiler import compile_model
from edged.errors import EdgedError, InputError, ModelError, NotFoundError
from edged.preprocess import image_to_array
from edged.transfer import (
    HEAD_OUTPUT,
    Features,
    Featurizer,
    feature_tensor,
    featurizer_model,
    model_with_head,
    pack_head,
    train_head,
)

Verify = Callable[[Path], VerifiedBundle]


def silent(_fraction: float, _step: str) -> None: ...


def features_of(found: VerifiedBundle, photographs: Path, tensor: str | None = None) -> Features:
    featurizer = Featurizer.of(found, tensor)
    paths = sorted(photographs.rglob("*.png"))
    return Features(
        np.stack([featurizer(path.read_bytes()) for path in paths]),
        tuple(map(str, paths)),
        tuple(path.parent.name for path in paths),
        featurizer.tensor,
        featurizer.program,
        found.digest,
    )


def program_of(found: VerifiedBundle) -> bytes:
    """As a daemon compiles it."""
    samples = read_arrays(found.folder / "calibration.npz")
    return compile_model((found.folder / "model.onnx").read_bytes(), calibration=samples).program


def test_features_are_those_of_the_float_network_within_a_quantum(
    bundle: Path, photographs: Path, verified: Verify
) -> None:
    found = verified(bundle)
    features = features_of(found, photographs)
    assert (features.values.shape, features.tensor) == ((16, 24), "features")
    model = onnx.load_from_string((found.folder / "model.onnx").read_bytes())
    session = InferenceSession(featurizer_model(model, "features").SerializeToString())
    spec = found.manifest.preprocess
    assert spec is not None
    for name, row in zip(features.names, features.values, strict=True):
        pixels = image_to_array(Path(name).read_bytes(), spec)
        (wanted,) = session.run(None, {"input": pixels})
        np.testing.assert_allclose(row, wanted[0], atol=0.03)


def test_the_new_bundle_has_the_same_program_to_the_byte(
    bundle: Path, photographs: Path, verified: Verify, tmp_path: Path
) -> None:
    found = verified(bundle)
    features = features_of(found, photographs)
    head = train_head(features.values, features.labels)
    output = tmp_path / "new.edgemodel"
    digest = pack_head(
        found, features, head, name="colours", version="2.0.0", output=output, progress=silent
    )
    new = verified(output)
    assert (new.digest, str(new.manifest.name), str(new.manifest.version)) == (
        digest,
        "colours",
        "2.0.0",
    )
    assert program_of(new) == program_of(found)
    # Preprocessing, calibration and licence come along; labels and output are the new ones.
    assert new.manifest.preprocess == found.manifest.preprocess
    assert new.manifest.licence == "MIT"
    assert (new.folder / "calibration.npz").read_bytes() == (
        found.folder / "calibration.npz"
    ).read_bytes()
    assert (new.folder / "labels.txt").read_text() == "blue\nred\n"
    (declared,) = new.manifest.outputs
    assert (declared.name, declared.alias, declared.shape[1]) == (HEAD_OUTPUT, "output_alias", 2)
    # And its epilogue is the head.
    session = InferenceSession((new.folder / "model.onnx").read_bytes())
    spec = new.manifest.preprocess
    assert spec is not None
    paths = [Path(name) for name in features.names]
    for path, row in zip(paths, head(features.values), strict=True):
        (scores,) = session.run(None, {spec.input: image_to_array(path.read_bytes(), spec)})
        assert ("blue", "red")[int(row.argmax())] == path.parent.name
        np.testing.assert_allclose(scores[0], row, atol=0.05)


def test_packing_twice_gives_the_same_bytes(
    bundle: Path, photographs: Path, verified: Verify, tmp_path: Path
) -> None:
    found = verified(bundle)
    features = features_of(found, photographs)
    digests = {
        pack_head(
            found,
            features,
            train_head(features.values, features.labels),
            name="colours",
            version="1.0.0",
            output=tmp_path / f"{index}.edgemodel",
            progress=silent,
        )
        for index in range(2)
    }
    assert len(digests) == 1


def test_a_model_that_names_no_features_is_cut_at_its_last_matrix(
    make_bundle: Any, photographs: Path, verified: Verify
) -> None:
    found = verified(make_bundle(None))
    model = onnx.load_from_string((found.folder / "model.onnx").read_bytes())
    assert feature_tensor(model) == "features"
    assert feature_tensor(model_with_head(model, "relu", *_head(24))) == "relu"
    assert features_of(found, photographs, "pooled").tensor == "pooled"
    two = onnx.ModelProto()
    two.CopyFrom(model)
    two.graph.output.append(onnx.helper.make_empty_tensor_value_info("relu"))
    with pytest.raises(ModelError, match=r"outputs scores, relu, .*name it with --features"):
        feature_tensor(two)


def _head(features: int, classes: int = 2) -> tuple[Any, Any]:
    return np.ones((features, classes), np.float32), np.zeros(classes, np.float32)


def test_a_tensor_that_is_not_there_is_answered_with_those_like_it(
    bundle: Path, verified: Verify
) -> None:
    found = verified(bundle)
    with pytest.raises(NotFoundError, match=r"'feature': no operator .* like it are 'features'"):
        Featurizer.of(found, "feature")
    with pytest.raises(NotFoundError, match=r"'zzz': no operator .* the last are .*'scores'"):
        Featurizer.of(found, "zzz")


def test_what_a_head_keeps_and_drops() -> None:
    from transfer.conftest import network

    model = network("features")
    model.graph.initializer.add(name=HEAD_OUTPUT)  # unused, and under the name of ours
    new = model_with_head(model, "features", *_head(24))
    onnx.checker.check_model(new)
    names = {initial.name for initial in new.graph.initializer}
    assert names == {"scale", "kernel", "bias", "classifier/weights", "classifier/biases"}
    metadata = {entry.key: entry.value for entry in new.metadata_props}
    assert metadata == {"edged.features": "features", "edged.weights": "random"}


def test_features_come_back_from_their_file(
    bundle: Path, photographs: Path, verified: Verify, tmp_path: Path
) -> None:
    features = features_of(verified(bundle), photographs)
    features.save(tmp_path / "features.npz")
    found = Features.load(tmp_path / "features.npz")
    np.testing.assert_array_equal(found.values, features.values)
    for field in ("names", "labels", "tensor", "program", "bundle"):
        assert getattr(found, field) == getattr(features, field)
    with np.load(tmp_path / "features.npz") as plain:  # as anyone reads it
        assert plain["labels"].tolist() == list(features.labels)


def test_files_that_are_no_features_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no such file"):
        Features.load(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", features=np.zeros((1, 2), np.float32))
    with pytest.raises(InputError, match="bundle, labels, names, program, tensor is missing"):
        Features.load(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(EdgedError, match=r"no whole \.npz"):
        Features.load(tmp_path / "text.npz")


@pytest.mark.parametrize(
    ("values", "names", "said"),
    [
        (np.zeros((2, 3), np.float64), 2, r"features of float64 \[2, 3\]; wanted float32"),
        (np.zeros(3, np.float32), 3, r"float32 \[3\]; wanted"),
        (np.zeros((2, 3), np.float32), 1, "2 rows, 1 names and 1 labels"),
        (np.full((1, 1), np.nan, np.float32), 1, "no finite numbers"),
    ],
)
def test_features_that_are_none(values: Any, names: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Features(
            values, ("n",) * names, ("l",) * names, "t", "p", Digest.parse("sha256:" + "0" * 64)
        )


@pytest.mark.parametrize("classes", [2, 3])
def test_a_head_says_what_scikit_learn_says(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(classes)
    labels = [f"class {index % classes}" for index in range(60)]
    centres = rng.normal(0, 1, (classes, 10))
    values = np.stack([rng.normal(centres[i % classes], 1) for i in range(60)]) * 7 + 3
    features = values.astype(np.float32)
    head = train_head(features, labels)
    scaler = StandardScaler().fit(features.astype(np.float64))
    model = LogisticRegression(max_iter=2000).fit(scaler.transform(features), labels)
    assert head.classes == tuple(model.classes_)
    wanted = model.predict_proba(scaler.transform(features))
    np.testing.assert_allclose(head(features), wanted, atol=1e-3)
    assert head.accuracy is not None and 0.5 < head.accuracy <= 1
    assert head.folds == 5


def test_what_cannot_be_trained() -> None:
    values = np.zeros((3, 2), np.float32)
    with pytest.raises(InputError, match="every image has the label 'a'; wanted at least two"):
        train_head(values, ["a"] * 3)
    with pytest.raises(InputError, match="2 labels for 3 images"):
        train_head(values, ["a", "b"])
    with pytest.raises(InputError, match="strength 0: wanted more"):
        train_head(values, ["a", "b", "b"], strength=0)
    assert train_head(values, ["a", "b", "b"]).accuracy is None


def test_a_head_fits_one_bundle_and_one_program(
    bundle: Path, make_bundle: Any, photographs: Path, verified: Verify, tmp_path: Path
) -> None:
    found = verified(bundle)
    features = features_of(found, photographs)
    head = train_head(features.values, features.labels)
    output = tmp_path / "new.edgemodel"
    arguments = {"name": "n", "version": "1.0.0", "output": output, "progress": silent}
    other = verified(make_bundle("features", tolerance=0.5))
    with pytest.raises(InputError, match=r"they are from bundle sha256:.* featurize with the same"):
        pack_head(other, features, head, **arguments)
    stale = Features(
        features.values, features.names, features.labels, "features", "0" * 64, found.digest
    )
    with pytest.raises(ModelError, match=r"computed by 0000.*; featurize again"):
        pack_head(found, stale, head, **arguments)
    assert not output.exists()
