"""Folders that are dropped: repositories with a model in them are taken, others are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from intake.folder import Acceptor, rescans, running, status, until, until_status

from edged.errors import BundleError
from edged.intake import Arrival, Tell
from edged.intake._inside import choose


@pytest.mark.parametrize(
    ("folder", "files", "model", "name"),
    [
        ("resnet", ["config.pbtxt", "1/model.onnx"], "1/model.onnx", "resnet"),
        ("resnet", ["1/model.onnx", "2/model.onnx", "10/model.onnx"], "10/model.onnx", "resnet"),
        ("resnet", ["1/resnet50.onnx"], "1/resnet50.onnx", "resnet"),
        ("resnet", ["1/model.onnx", "1/other.onnx"], "1/model.onnx", "resnet"),
        ("models", ["resnet/config.pbtxt", "resnet/1/model.onnx"], "resnet/1/model.onnx", "resnet"),
        ("hf", ["config.json", "onnx/model.onnx", "onnx/model.onnx_data"], "onnx/model.onnx", "hf"),
        ("export", ["kws.onnx", "labels.txt"], "kws.onnx", "kws"),
        ("1", ["model.onnx"], "model.onnx", "1"),
        ("release", ["kws-1.0.0.edgemodel", "README.md"], "kws-1.0.0.edgemodel", "kws-1.0.0"),
    ],
)
def test_the_model_that_is_meant(folder: str, files: list[str], model: str, name: str) -> None:
    assert choose(folder, files) == (model, name, "")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], "an empty folder"),
        (["a.onnx", "b.onnx"], "a folder of 2 models (a.onnx, b.onnx); copy the one"),
        (["a/1/model.onnx", "b/1/model.onnx"], "a folder of 2 models"),
        (["1/a.onnx", "1/b.onnx"], "a folder of 2 models"),
        (["saved_model.pb", "variables/variables.index"], "edgectl convert net --name net"),
        (["1/saved_model.pb"], "a TensorFlow SavedModel"),
        (["config.pbtxt", "1/model.plan"], "a TensorRT engine"),
        (["config.pbtxt", "1/model.pt"], "export it to ONNX as net/1/model.onnx"),
        (["config.pbtxt", "1/model.py"], "a Triton repository without an ONNX model"),
        (["config.json", "model.safetensors"], "optimum-cli export onnx --model net OUT/"),
        (["config.json", "pytorch_model.bin"], "a Hugging Face model without ONNX"),
        (["net.xml", "net.bin"], "an OpenVINO model"),
        (["oci-layout", "index.json", "blobs/sha256/0"], "tar -C net -cf net.edgemodel ."),
        (["a.jpg", "b.JPEG"], "edgectl pack MODEL.onnx --calibration net"),
        (["a.txt"], "a folder without a model"),
    ],
)
def test_why_a_folder_is_not_taken(files: list[str], says: str) -> None:
    model, _, problem = choose("net", files)
    assert model is None
    assert says in problem


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


async def test_a_repository_is_taken_and_stays(drop: Path, acceptor: Acceptor) -> None:
    async with running(drop, acceptor, rescan_seconds=0.05):
        put(drop / "resnet" / "config.pbtxt", b'platform: "onnxruntime_onnx"')
        put(drop / "resnet" / "1" / "model.onnx", b"one")
        told = await until_status(drop, "resnet", "serving")
        assert told.splitlines()[2] == "the folder stays; what changes in it is taken anew"
        put(drop / "resnet" / "2" / "model.onnx", b"two")
        await until(lambda: len(acceptor.taken) == 2)
        await until_status(drop, "resnet", "serving")
    assert [content for _, content in acceptor.taken] == [b"one", b"two"]
    assert acceptor.arrivals[-1] == Arrival(
        drop / "resnet" / "2" / "model.onnx", "resnet", "resnet"
    )
    assert (drop / "resnet" / "1" / "model.onnx").read_bytes() == b"one"


async def test_a_folder_that_had_its_answer_has_it_after_a_restart(
    drop: Path, acceptor: Acceptor
) -> None:
    put(drop / "resnet" / "1" / "model.onnx", b"one")
    async with running(drop, acceptor):
        await until_status(drop, "resnet", "serving")
    async with running(drop, acceptor, rescan_seconds=0.05) as intake:
        await rescans(drop, intake)
        assert len(acceptor.taken) == 1
        assert status(drop, "resnet").startswith("serving")
        # What is put into it while nobody looks is found, and so is what is put in later.
    put(drop / "resnet" / "3" / "model.onnx", b"three")
    async with running(drop, acceptor):
        await until(lambda: len(acceptor.taken) == 2)


async def test_a_rejected_folder_stays_and_is_tried_when_it_changes(
    drop: Path, acceptor: Acceptor
) -> None:
    def read(path: Path, _tell: Tell) -> None:
        if path.read_bytes() != b"good":
            raise BundleError("cannot read 1/model.onnx: bad")

    acceptor.answer = read
    put(drop / "net" / "1" / "model.onnx", b"bad")
    async with running(drop, acceptor, rescan_seconds=0.05):
        told = await until_status(drop, "net", "rejected: cannot read 1/model.onnx: bad")
        assert "the folder stays, and is tried again when something in it changes" in told
        put(drop / "net" / "1" / "model.onnx", b"good")
        await until_status(drop, "net", "serving")
    assert not (drop / "rejected").exists()


async def test_a_folder_that_is_still_copied_is_waited_for(drop: Path, acceptor: Acceptor) -> None:
    async with running(drop, acceptor, rescan_seconds=0.05) as intake:
        (drop / "net" / "1").mkdir(parents=True)
        with (drop / "net" / "1" / "model.onnx").open("wb", buffering=0) as file:
            file.write(b"half ")
            await until_status(drop, "net", "waiting for the copy to finish")
            await rescans(drop, intake)
            assert acceptor.taken == []
            file.write(b"whole")
        await until_status(drop, "net", "serving")
    assert acceptor.taken == [("model.onnx", b"half whole")]


async def test_no_link_in_a_folder_is_followed_and_there_is_a_bound(
    drop: Path, acceptor: Acceptor, tmp_path: Path
) -> None:
    put(tmp_path / "elsewhere" / "model.onnx", b"secret")
    (drop / "linked").mkdir(parents=True)
    (drop / "linked" / "1").symlink_to(tmp_path / "elsewhere")
    (drop / "linked" / "model.onnx").symlink_to(tmp_path / "elsewhere" / "model.onnx")
    (drop / "many").mkdir()
    for number in range(2001):
        (drop / "many" / f"{number}.onnx").touch()
    deep = Path(drop / "deep", *"abcdefghijk")
    put(deep / "model.onnx", b"x")
    async with running(drop, acceptor):
        assert "an empty folder" in await until_status(drop, "linked", "ignored")
        assert "more than 2000 files" in await until_status(drop, "many", "ignored")
        assert "an empty folder" in await until_status(drop, "deep", "ignored")
    assert acceptor.taken == []


async def test_a_pointer_in_a_folder_is_named(drop: Path, acceptor: Acceptor) -> None:
    put(drop / "net" / "1" / "model.onnx", b"version https://git-lfs.github.com/spec/v1\noid x\n")
    async with running(drop, acceptor):
        told = await until_status(
            drop, "net", "rejected: cannot take net: of 1/model.onnx, it is a"
        )
        assert "Git LFS pointer" in told
    assert acceptor.taken == []
