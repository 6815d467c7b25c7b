"""Packing: what goes in, what is derived, and that the bytes stay the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from edged import bundle
from edged.bundle import (
    Digest,
    FileName,
    TensorDecl,
    VerifiedBundle,
    Version,
    pack,
    pack_bare,
    read_arrays,
    verify_bundle,
)
from edged.bundle import __main__ as packing
from edged.errors import (
    BundleError,
    EdgedError,
    IncompleteError,
    InputError,
    LimitError,
    ModelError,
    NotFoundError,
)

DATA = Path(__file__).parents[1] / "data"
MOBILENET = DATA / "models" / "mobilenet_v2_imagenet.onnx"


def packed_and_verified(tmp_path: Path, model: Path, **options: object) -> VerifiedBundle:
    output = tmp_path / "out.edgemodel"
    digest = pack(model, **{"name": "m", "version": "1.0.0", "output": output, **options})  # type: ignore[arg-type]  # the options vary
    verified = verify_bundle(output, tmp_path / "verified")
    assert verified.digest == digest
    return verified


def photographs(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (9, 11, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03}.png")
    return folder


def test_the_same_again_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    photos = photographs(tmp_path / "photos", 3)
    for name in ("a", "b"):
        output = tmp_path / name
        pack(model, name="m", version="1.0.0", calibration=photos, output=output)
        shutil.copytree(photos, tmp_path / f"photos-{name}")  # other times, same content
        photos = tmp_path / f"photos-{name}"
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_tar_says_nothing_of_who_made_it_and_when(packed: Path) -> None:
    with tarfile.open(packed) as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    assert names == sorted(names)
    assert {(m.uid, m.gid, m.mtime, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}


def test_source_date_epoch(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert packed_and_verified(tmp_path / "a", model).manifest.created == ""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    verified = packed_and_verified(tmp_path / "b", model)
    assert verified.manifest.created == "2023-11-14T22:13:20Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(BundleError, match="cannot use SOURCE_DATE_EPOCH 'yesterday'"):
        packed_and_verified(tmp_path / "c", model)


def test_what_is_derived_from_the_graph(model: Path, tmp_path: Path) -> None:
    manifest = packed_and_verified(tmp_path, model, version="2.3.4").manifest
    assert manifest.serial == 2_003_004
    (image,) = manifest.inputs
    assert (image.name, image.dtype, image.shape) == ("image", "uint8", (None, 8, 8, 3))
    assert image.alias == "images"
    (scores,) = manifest.outputs
    assert (scores.name, scores.shape, scores.alias) == ("scores:0", (None, 4), "output_alias")
    assert manifest.preprocess is not None  # bytes of a fixed size: photographs can be stretched
    assert (manifest.preprocess.transform, manifest.preprocess.width) == ("stretch", 8)
    assert manifest.requirements.memory_bytes == 12
    assert not manifest.labels
    assert manifest.file(FileName.CALIBRATION) is None


def test_a_float_input_needs_to_be_told(float_model: Path, tmp_path: Path) -> None:
    assert packed_and_verified(tmp_path / "a", float_model).manifest.preprocess is None
    spec = packed_and_verified(
        tmp_path / "b", float_model, preprocess="stretch,scale=1/255"
    ).manifest.preprocess
    assert spec is not None and spec.scale == 1 / 255


def test_given_serial_aliases_licence_and_revision(model: Path, tmp_path: Path) -> None:
    manifest = packed_and_verified(
        tmp_path,
        model,
        serial=7,
        aliases={"scores:0": "scores"},
        licence="Apache-2.0",
        source_revision="deadbeef",
    ).manifest
    assert (manifest.serial, manifest.outputs[0].alias) == (7, "scores")
    assert (manifest.licence, manifest.source_revision) == ("Apache-2.0", "deadbeef")


def test_calibration_with_photographs(model: Path, tmp_path: Path) -> None:
    verified = packed_and_verified(
        tmp_path, model, calibration=photographs(tmp_path / "photos", 70)
    )
    samples = read_arrays(verified.folder / FileName.CALIBRATION)
    assert samples["image"].shape == (64, 8, 8, 3)
    assert samples["image"].dtype == np.uint8
    vectors = read_arrays(verified.folder / FileName.SELF_TEST)
    # The self-test's inputs are among the samples.
    rows = {row.tobytes() for row in samples["image"]}
    assert {row.tobytes() for row in vectors["in:image"]} <= rows


def test_calibration_with_arrays(float_model: Path, tmp_path: Path) -> None:
    arrays = np.random.default_rng(0).standard_normal((5, 8, 8, 3)).astype(np.float32)
    np.savez_compressed(tmp_path / "c.npz", image=arrays)
    verified = packed_and_verified(tmp_path, float_model, calibration=[tmp_path / "c.npz"])
    samples = read_arrays(verified.folder / FileName.CALIBRATION)
    np.testing.assert_array_equal(samples["image"], arrays)
    with np.load(verified.folder / FileName.CALIBRATION, allow_pickle=False) as again:
        np.testing.assert_array_equal(again["image"], arrays)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"picture": np.zeros((2, 8, 8, 3), np.uint8)}, r"found arrays \['picture'\]; wanted"),
        ({"image": np.zeros((2, 8, 8, 3), np.float32)}, "'image' is float32"),
        ({"image": np.zeros((2, 9, 8, 3), np.uint8)}, r"wanted uint8 \[N, 8, 8, 3\]"),
        ({"image": np.zeros((0, 8, 8, 3), np.uint8)}, "wanted the same number, above zero"),
    ],
)
def test_arrays_that_do_not_fit(
    model: Path, tmp_path: Path, arrays: dict[str, np.ndarray], says: str
) -> None:
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(BundleError, match=says):
        packed_and_verified(tmp_path, model, calibration=tmp_path / "c.npz")


def test_photographs_are_found_in_folders_of_folders(model: Path, tmp_path: Path) -> None:
    """As people keep them for training, a folder for each class; the same for `featurize`."""
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    for name in ("b/2.png", "a/deep/1.PNG", "a/3.png", ".trash/4.png", "a/._3.png", "a/notes.txt"):
        path = tmp_path / "photographs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels + int(re.sub(r"\D", "", name) or 0)).save(path, "PNG")
    found = bundle.photographs([tmp_path / "photographs"])
    assert [str(p.relative_to(tmp_path / "photographs")) for p in found] == [
        "a/3.png",
        "a/deep/1.PNG",
        "b/2.png",
    ]
    verified = packed_and_verified(tmp_path, model, calibration=tmp_path / "photographs")
    samples = read_arrays(verified.folder / FileName.CALIBRATION)["image"]
    assert [sample[0, 0, 0] - pixels[0, 0, 0] for sample in samples] == [3, 1, 2]


def test_calibration_that_cannot_be_used(model: Path, float_model: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BundleError, match=r"there is no \.jpg, \.jpeg or \.png in"):
        packed_and_verified(tmp_path, model, calibration=empty)
    with pytest.raises(NotFoundError, match="there is no such file or folder"):
        packed_and_verified(tmp_path, model, calibration=tmp_path / "nowhere")
    (empty / "text.png").write_text("no image")
    with pytest.raises(BundleError, match=r"cannot calibrate with .*text.png: cannot decode"):
        packed_and_verified(tmp_path, model, calibration=empty)
    with pytest.raises(BundleError, match="give a preprocessing such as 'stretch'"):
        packed_and_verified(tmp_path, float_model, calibration=empty)


def test_self_test_is_what_the_float_model_answers(tmp_path: Path) -> None:
    verified = packed_and_verified(tmp_path, MOBILENET, calibration=DATA / "images")
    test = verified.manifest.self_test
    assert test is not None and (test.samples, test.tolerances) == (4, (0.25,))
    vectors = read_arrays(verified.folder / FileName.SELF_TEST)
    expected = vectors["out:MobilenetV2/Predictions/Softmax:0"]
    labels = (DATA / "imagenet_labels_1001.txt").read_text().splitlines()
    best = {labels[row.argmax()]: float(row.max()) for row in expected}
    # The four photographs of which the float model is surest, by the data's own table. Versions of
    # Pillow round a resized pixel up or down.
    assert best == pytest.approx(
        {
            "macaw": 0.923,
            "school bus": 0.909,
            "beagle": 0.773,
            "Indian elephant, Elephas maximus": 0.698,
        },
        abs=2e-3,
    )


def test_tolerance_follows_the_range_where_outputs_are_no_probabilities(tmp_path: Path) -> None:
    graph = onnx.load(DATA / "models" / "kws_dscnn.onnx")
    (softmax,) = (node for node in graph.graph.node if node.op_type == "Softmax")
    softmax.op_type = "Identity"
    del softmax.attribute[:]
    path = tmp_path / "logits.onnx"
    onnx.save(graph, path)
    verified = packed_and_verified(tmp_path, path)
    assert verified.manifest.self_test is not None
    expected = read_arrays(verified.folder / FileName.SELF_TEST)["out:Identity"]
    (tolerance,) = verified.manifest.self_test.tolerances
    assert tolerance == pytest.approx(np.ptp(expected) / 4, rel=0.05)


def test_coordinates_of_a_maximum_may_move_as_noise_moves_them(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Flatten", ["image"], ["flat"]),
        onnx.helper.make_node("ArgMax", ["flat"], ["place"], axis=1),
        onnx.helper.make_node("Cast", ["place"], ["real"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Mul", ["real", "pixel"], ["where"]),
    ]
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, [1, 8, 8, 1])
    where = onnx.helper.make_tensor_value_info("where", onnx.TensorProto.FLOAT, [1, 1])
    pixel = onnx.numpy_helper.from_array(np.array(1 / 64, np.float32), "pixel")
    graph = onnx.helper.make_graph(nodes, "place", [image], [where], [pixel])
    opsets = [onnx.helper.make_opsetid("", 17)]
    path = tmp_path / "place.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    # Two images that noise leaves alone, and two with two equally bright pixels at either end.
    clear = np.full((4, 8, 8, 1), 20, np.uint8)
    clear[0, 1, 1], clear[1, 2, 2] = 255, 255
    clear[2:, 0, 0] = clear[2:, 7, 7] = 128

    def tolerance(count: int) -> float:
        folder = tmp_path / str(count)
        folder.mkdir()
        np.savez(folder / "samples.npz", image=clear[:count])
        verified = packed_and_verified(folder, path, calibration=folder / "samples.npz")
        assert verified.manifest.self_test is not None
        return verified.manifest.self_test.tolerances[0]

    assert tolerance(2) == pytest.approx(9 / 64 / 4, rel=0.05)
    assert tolerance(4) > 1.0


def test_given_tolerance(model: Path, tmp_path: Path) -> None:
    verified = packed_and_verified(tmp_path, model, tolerance=0.125)
    assert verified.manifest.self_test is not None
    assert verified.manifest.self_test.tolerances == (0.125,)


def test_labels_have_to_be_as_many_as_classes(model: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("ant\nbee\n")
    with pytest.raises(BundleError, match="it has 2 lines; wanted 4"):
        packed_and_verified(tmp_path, model, labels=labels)
    labels.write_bytes(b"\xef\xbb\xbfant\r\nbee\r\n\r\ndog \r\n")
    verified = packed_and_verified(tmp_path, model, labels=labels)
    assert (verified.folder / FileName.LABELS).read_bytes() == b"ant\nbee\n\ndog\n"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "../evil"}, "cannot use the name '../evil'"),
        ({"version": "1.0"}, "cannot read version '1.0': wanted MAJOR.MINOR.PATCH"),
        ({"version": "1.2000.0"}, "minor or patch is above 999; give one"),
        ({"serial": -1}, "edged.serial: found -1"),
        ({"preprocess": "strech"}, "did you mean stretch"),
        ({"aliases": {"image": "a\nb"}}, "is no name of a tensor"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"aliases": {"imag": "x"}}, "the tensors are 'image', 'scores:0'"),
    ],
)
def test_bad_arguments(model: Path, tmp_path: Path, options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match="cannot ") as caught:
        packed_and_verified(tmp_path, model, **options)
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    with pytest.raises(NotFoundError, match=r"cannot read .*x\.onnx: there is no such file"):
        packed_and_verified(tmp_path, path)
    path.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"cannot read x\.onnx: it is no valid ONNX model"):
        packed_and_verified(tmp_path, path)


def test_weights_in_another_file_come_in_or_are_missed(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "outside.onnx"
    onnx.save(
        onnx.load(model),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    found = packed_and_verified(tmp_path, path)
    (tmp_path / "weights.bin").unlink()
    alone = onnx.load(found.folder / FileName.MODEL)
    assert alone.graph.initializer == onnx.load(model).graph.initializer
    with pytest.raises(NotFoundError, match=r"are in 'weights\.bin', which is not there"):
        packed_and_verified(tmp_path, path)


def test_bare_model(model: Path, tmp_path: Path) -> None:
    dropped = tmp_path / "my model (2).onnx"
    shutil.copy(model, dropped)
    digest = pack_bare(dropped, tmp_path / "out.edgemodel")
    verified = verify_bundle(tmp_path / "out.edgemodel", tmp_path / "verified")
    assert verified.digest == digest
    manifest = verified.manifest
    assert manifest.name == "my-model-2"
    assert (manifest.version.major, manifest.serial) == (3, 3_000_000)
    assert (verified.folder / FileName.MODEL).read_bytes() == model.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "my model (2).onnx",
        "out.edgemodel",
        "verified",
    ]


def test_bare_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(os.urandom(1000))
    with pytest.raises(ModelError, match=r"cannot read bad\.onnx: it is no valid ONNX model"):
        pack_bare(tmp_path / "bad.onnx", tmp_path / "out.edgemodel")
    (tmp_path / "link.onnx").symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match="it is no plain file"):
        pack_bare(tmp_path / "link.onnx", tmp_path / "out.edgemodel")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("café.onnx", "cafe"),
        ("---.onnx", "model"),
        ("猫分类.onnx", "model-[0-9a-f]{12}"),
        ("猫v2.onnx", "v2-[0-9a-f]{12}"),
        ("犬v2.onnx", "v2-[0-9a-f]{12}"),
    ],
)
def test_bare_models_have_names_of_any_alphabet(
    model: Path, tmp_path: Path, file: str, name: str
) -> None:
    shutil.copy(model, tmp_path / file)
    pack_bare(tmp_path / file, tmp_path / "out.edgemodel")
    found = verify_bundle(tmp_path / "out.edgemodel", tmp_path / "verified").manifest.name
    assert re.fullmatch(name, found)
    # Another name of the same letters is another model.
    assert found != "v2-" + Digest.of(b"v2").short


def outside(model: Path, path: Path, location: str) -> Path:
    """*model* at *path*, with all of its data in the file *location* beside it."""
    onnx.save(
        onnx.load(model), path, save_as_external_data=True, location=location, size_threshold=0
    )
    return path


def test_bare_model_in_two_files(model: Path, tmp_path: Path) -> None:
    path = outside(model, tmp_path / "net.onnx", "net.onnx.data")
    with pytest.raises(IncompleteError, match=r"'net\.onnx\.data', which is not there") as caught:
        pack_bare(path, tmp_path / "out.edgemodel")
    assert caught.value.files == ("net.onnx.data",)
    assert "cannot read net.onnx: the data of" in str(caught.value)
    pack_bare(path, tmp_path / "out.edgemodel", data=caught.value.files)
    alone = onnx.load(
        verify_bundle(tmp_path / "out.edgemodel", tmp_path / "verified").folder / FileName.MODEL
    )
    assert alone.graph.initializer == onnx.load(model).graph.initializer

    (tmp_path / "net.onnx.data").rename(tmp_path / "elsewhere")
    (tmp_path / "net.onnx.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"cannot read net\.onnx\.data: it is no plain file"):
        pack_bare(path, tmp_path / "out.edgemodel", data=["net.onnx.data"])


@pytest.mark.parametrize("place", ["../secret", "/etc/hostname", "a/../../secret", "a\\b"])
def test_bare_model_with_data_outside_of_its_folder(
    model: Path, tmp_path: Path, place: str
) -> None:
    path = outside(model, tmp_path / "net.onnx", "net.onnx.data")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = place
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="outside of the folder of the model"):
        pack_bare(path, tmp_path / "out.edgemodel")
    with pytest.raises(EdgedError, match="cannot read"):
        pack_bare(path, tmp_path / "out.edgemodel", data=[place])


def test_bare_model_beyond_its_memory(tmp_path: Path) -> None:
    with pytest.raises((LimitError, ModelError), match="cannot "):
        pack_bare(MOBILENET, tmp_path / "out.edgemodel", memory_bytes=1 << 20)


def test_skopeo_copies_it_and_its_digest(packed: Path, tmp_path: Path) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed (Debian: apt install skopeo)")
    copy = tmp_path / "copy.tar"
    command = ["skopeo", "copy", "--insecure-policy", "--quiet"]
    command += [f"oci-archive:{packed}", f"oci-archive:{copy}:v1"]
    subprocess.run(command, check=True, capture_output=True)
    assert copy.read_bytes() != packed.read_bytes()
    original = verify_bundle(packed, tmp_path / "original")
    copied = verify_bundle(copy, tmp_path / "copied")
    assert (copied.digest, copied.manifest) == (original.digest, original.manifest)
    assert (copied.folder / "model.onnx").read_bytes() == (
        original.folder / "model.onnx"
    ).read_bytes()


def test_the_config_is_modelpacks_but_for_one_key(packed: Path, tmp_path: Path) -> None:
    """ModelPack's JSON schema: three objects, their known keys, camel case."""
    config = json.loads(
        (verify_bundle(packed, tmp_path / "v").folder / "manifest.json").read_text()
    )
    assert set(config) - {"edged"} == {"descriptor", "config", "modelfs"}
    assert set(config["descriptor"]) <= {"name", "version", "licenses", "revision", "createdAt"}
    assert set(config["config"]) <= {"architecture", "format", "paramSize", "precision"}
    assert set(config["modelfs"]) == {"type", "diffIds"}
    assert config["modelfs"]["type"] == "layers"
    assert all(digest.startswith("sha256:") for digest in config["modelfs"]["diffIds"])


def test_versions() -> None:
    for text in ("0.0.0", "1.2.3", "1.0.0-rc.1", "1.0.0+5", "10.20.30-a-b.0+x.y"):
        assert str(Version.parse(text)) == text
    for text in ("", "1", "1.2", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+", "v1.2.3", "1.2.3\n"):
        with pytest.raises(BundleError, match="cannot read version"):
            Version.parse(text)


def test_tensor_declarations_are_values() -> None:
    one = TensorDecl("x", "float32", (1, None))  # type: ignore[arg-type]  # an enum's text
    assert one == TensorDecl("x", "float32", (1, None))  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        one.name = "y"  # type: ignore[misc]


def test_a_fault_of_edged_is_said_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(packing, "_pack", fail)
    monkeypatch.setattr("edged.sandbox.lock_down", lambda _: None)  # It would be for good.
    assert packing.main(tmp_path, tmp_path, "net.onnx", "net", 1 << 30) == 65
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert answer["error"].startswith("cannot pack net.onnx: edged itself failed")
    assert "Traceback" in said.err


def test_an_output_without_elements_is_refused(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Slice", ["x", "zero", "zero", "one"], ["none"])],
        "net",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])],
        [onnx.helper.make_tensor_value_info("none", onnx.TensorProto.FLOAT, [1, 0])],
        [
            onnx.numpy_helper.from_array(np.array([0]), "zero"),
            onnx.numpy_helper.from_array(np.array([1]), "one"),
        ],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="output 'none' has no elements"):
        pack(tmp_path / "net.onnx", name="net", version="1.0.0", output=tmp_path)
