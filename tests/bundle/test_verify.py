"""Hostile, damaged and odd bundles: each is refused with what was found and what was wanted."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edged.bundle import Digest, Manifest, verify_bundle
from edged.errors import BundleError, EdgedError, LimitError

Members = dict[str, bytes]


def read_members(path: Path) -> Members:
    with tarfile.open(path) as tar:
        files = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        return {name: file.read() for name, file in files.items() if file is not None}


def write_members(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w:", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members.items():
            add(tar, name, content)
    return path


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **fields: object) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    for key, value in fields.items():
        setattr(header, key, value)
    tar.addfile(header, io.BytesIO(content))


def blob(content: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"


def descriptor(members: Members) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(members["index.json"])["manifests"][0]
    return entry


def member_of(entry: dict[str, Any]) -> str:
    return "blobs/sha256/" + entry["digest"].removeprefix("sha256:")


def replace_blob(members: Members, entry: dict[str, Any], content: bytes) -> dict[str, Any]:
    """Put *content* in the place of the blob of *entry*; returns the descriptor that fits."""
    members.pop(member_of(entry))
    members[blob(content)] = content
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    return {**entry, "digest": digest, "size": len(content)}


def with_image(members: Members, change: Callable[[dict[str, Any]], None]) -> Members:
    """The same layout with a changed image manifest, and an index that fits."""
    entry = descriptor(members)
    image = json.loads(members[member_of(entry)])
    change(image)
    entry = replace_blob(members, entry, json.dumps(image).encode())
    members["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    return members


def with_config(members: Members, change: Callable[[dict[str, Any]], None]) -> Members:
    """The same layout with a changed config, and everything that points to it."""
    return with_raw_config(members, lambda raw: json.dumps(changed(json.loads(raw), change)))


def with_raw_config(members: Members, change: Callable[[bytes], str]) -> Members:
    def swap(image: dict[str, Any]) -> None:
        raw = members[member_of(image["config"])]
        image["config"] = replace_blob(members, image["config"], change(raw).encode())

    return with_image(members, swap)


def changed(document: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    change(document)
    return document


@pytest.fixture
def members(packed: Path) -> Members:
    return read_members(packed)


def refusal(path: Path, tmp_path: Path, kind: type[EdgedError] = BundleError) -> str:
    with pytest.raises(kind, match=f"^cannot .*{path.name}") as caught:
        verify_bundle(path, tmp_path / "into")
    return str(caught.value)


def test_a_good_one(packed: Path, tmp_path: Path) -> None:
    verified = verify_bundle(packed, tmp_path / "into")
    assert str(verified.manifest) == "tiny 1.2.3"
    assert verified.manifest.labels
    assert sorted(path.name for path in verified.folder.iterdir()) == [
        "labels.txt",
        "manifest.json",
        "model.onnx",
        "oci-manifest.json",
        "selftest.npz",
    ]
    for file in verified.manifest.files:
        content = (verified.folder / file.name).read_bytes()
        assert (Digest.of(content), len(content)) == (file.digest, file.size)
    config = (verified.folder / "manifest.json").read_bytes()
    assert Manifest.parse(config) == verified.manifest
    assert Manifest.parse(verified.manifest.serialize()) == verified.manifest
    assert Digest.of((verified.folder / "oci-manifest.json").read_bytes()) == verified.digest


def test_any_order_of_members_and_their_directories(members: Members, tmp_path: Path) -> None:
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as tar:
        for name in ("blobs", "blobs/sha256"):
            add(tar, name, type=tarfile.DIRTYPE, mode=0o755)
        for name in sorted(members, reverse=True):
            add(tar, name, members[name], pax_headers={"mtime": "1700000000.5", "uname": "é"})
    assert str(verify_bundle(path, tmp_path / "into").manifest) == "tiny 1.2.3"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is a symbolic link"),
        ({"type": tarfile.LNKTYPE, "linkname": "index.json"}, "is a hard link"),
        ({"type": tarfile.FIFOTYPE}, "is a pipe"),
        ({"type": tarfile.CHRTYPE}, "is a device"),
        ({"type": tarfile.GNUTYPE_SPARSE}, "is a sparse file"),
        ({"type": b"Q"}, "of the unknown kind"),
    ],
)
def test_only_plain_files(
    members: Members, tmp_path: Path, fields: dict[str, object], says: str
) -> None:
    path = tmp_path / "kinds.tar"
    with tarfile.open(path, "w:", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members.items():
            add(tar, name, content)
        add(tar, "blobs/sha256/" + "0" * 64, **fields)
    assert says in refusal(path, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/evil",
        "blobs/sha256/../../evil",
        "././index.json",
        "sub/index.json",
        "README",
        "blobs/sha256/AB",
    ],
)
def test_only_the_names_of_a_layout(members: Members, tmp_path: Path, name: str) -> None:
    path = write_members(tmp_path / "names.tar", {**members, name: b"x"})
    assert "is a member that no bundle has" in refusal(path, tmp_path)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("root", [".", "layout"])
def test_a_layout_that_was_tarred_by_hand(members: Members, tmp_path: Path, root: str) -> None:
    """``tar -cf X .`` in the layout, and ``tar -cf X layout`` beside it, by GNU tar itself."""
    folder = tmp_path / "layout"
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "ingest").mkdir()  # as ORAS leaves it
    for form in ("gnu", "posix", "ustar"):
        path = tmp_path / f"{form}.edgemodel"
        words = ["tar", f"--format={form}", "--owner=2000000:12345", "--xattrs", "-cf", str(path)]
        subprocess.run(
            [*words, root], cwd=folder if root == "." else tmp_path, check=True, timeout=60
        )
        assert str(verify_bundle(path, tmp_path / form).manifest) == "tiny 1.2.3"


def test_owners_of_any_alphabet_and_a_member_listed_by_each_of_its_tags(
    members: Members, tmp_path: Path
) -> None:
    entry = descriptor(members)
    tags = [{**entry, "annotations": {"org.opencontainers.image.ref.name": t}} for t in ("1", "2")]
    members["index.json"] = json.dumps({"schemaVersion": 2, "manifests": tags}).encode()
    path = tmp_path / "owned.tar"
    with tarfile.open(path, "w:", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members.items():
            add(tar, f"./{name}", content, uname="müller", uid=1 << 33)
    assert str(verify_bundle(path, tmp_path / "into").manifest) == "tiny 1.2.3"


def test_names_are_the_same_with_and_without_a_dot(members: Members, tmp_path: Path) -> None:
    path = write_members(tmp_path / "dots.tar", {**members, "./index.json": b"x"})
    assert "index.json is there twice" in refusal(path, tmp_path)
    mixed = {"layout/oci-layout": members.pop("oci-layout"), **members}
    path = write_members(tmp_path / "mixed.tar", mixed)
    assert "is a member that no bundle has" in refusal(path, tmp_path)
    path = write_members(tmp_path / "up.tar", {f"../{n}": c for n, c in members.items()})
    assert "tar -C LAYOUT -cf NAME.edgemodel ." in refusal(path, tmp_path)


@pytest.mark.parametrize("program", ["gzip", "bzip2", "xz"])
def test_a_compressed_bundle_is_refused_with_what_to_do(
    packed: Path, tmp_path: Path, program: str
) -> None:
    path = tmp_path / "small.edgemodel"
    path.write_bytes(importlib.import_module(_MODULES[program]).compress(packed.read_bytes()))
    said = refusal(path, tmp_path)
    assert f"{program} -dc small.edgemodel > NEW.edgemodel" in said


_MODULES = {"gzip": "gzip", "bzip2": "bz2", "xz": "lzma"}


def test_a_long_name_cannot_hide_in_an_extension(members: Members, tmp_path: Path) -> None:
    path = tmp_path / "pax.tar"
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "x" * 150, b"")
    assert "an extension header sets 'path'" in refusal(path, tmp_path)
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "index.json", b"", pax_headers={"comment": "x" * 50_000})
    assert "at most 16384" in refusal(path, tmp_path, LimitError)
    with tarfile.open(path, "w:", format=tarfile.GNU_FORMAT) as tar:
        add(tar, "x" * 150, b"")
    assert "is a long name" in refusal(path, tmp_path)


def test_a_member_twice(members: Members, tmp_path: Path) -> None:
    path = tmp_path / "twice.tar"
    with tarfile.open(path, "w:", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in [*members.items(), ("index.json", members["index.json"])]:
            add(tar, name, content)
    assert "index.json is there twice" in refusal(path, tmp_path)


def test_a_blob_too_many(members: Members, tmp_path: Path) -> None:
    path = write_members(tmp_path / "extra.tar", {**members, blob(b"x"): b"x"})
    assert "neither the manifest nor the config names it" in refusal(path, tmp_path)


def test_too_many_members(tmp_path: Path) -> None:
    many = {blob(bytes([i])): bytes([i]) for i in range(50)}
    path = write_members(tmp_path / "many.tar", many)
    assert "more than 32 members" in refusal(path, tmp_path, LimitError)


@pytest.mark.parametrize("missing", ["oci-layout", "index.json", "config", "model"])
def test_a_member_is_missing(members: Members, tmp_path: Path, missing: str) -> None:
    image = json.loads(members[member_of(descriptor(members))])
    names = {
        "config": member_of(image["config"]),
        "model": next(member_of(layer) for layer in image["layers"] if "weight.v1" in str(layer)),
    }
    del members[names.get(missing, missing)]
    path = write_members(tmp_path / "missing.tar", members)
    assert f"{names.get(missing, missing)} is missing" in refusal(path, tmp_path)


def test_every_blob_is_held_to_its_digest(members: Members, tmp_path: Path) -> None:
    for name in [name for name in members if name.startswith("blobs/")]:
        content = members[name]
        damaged = {**members, name: content[:-1] + bytes([content[-1] ^ 1])}
        path = write_members(tmp_path / "digest.tar", damaged)
        found = refusal(path, tmp_path)
        wanted = "sha256:" + name.rpartition("/")[2]
        assert f"cannot read {name} of digest.tar: SHA-256 is 'sha256:" in found
        assert f"wanted {wanted!r}" in found
        (tmp_path / "into").rename(tmp_path / f"into-{name[-8:]}")


def test_every_blob_is_held_to_its_size(members: Members, tmp_path: Path) -> None:
    for index, name in enumerate(name for name in members if name.startswith("blobs/")):
        path = write_members(tmp_path / "size.tar", {**members, name: members[name] + b"\n"})
        with pytest.raises(BundleError, match=f"{name} of size.tar: size is .* wanted"):
            verify_bundle(path, tmp_path / f"into{index}")


def test_no_file_stays_after_a_bad_blob(members: Members, tmp_path: Path) -> None:
    name = max(members, key=lambda name: len(members[name]))
    members[name] = bytes(len(members[name]))
    path = write_members(tmp_path / "bad.tar", members)
    refusal(path, tmp_path)
    names = {p.name for p in (tmp_path / "into").iterdir()}
    assert not names & {".bundle.tar", "manifest.json"}
    for file in (tmp_path / "into").iterdir():
        assert file.read_bytes() in members.values()


def test_cut_short_at_every_block(packed: Path, tmp_path: Path) -> None:
    whole = packed.read_bytes()
    path = tmp_path / "cut.tar"
    # Past the end mark there is only padding, which tar itself does not need.
    end = len(whole.rstrip(b"\0"))
    end += -end % 512 + 1024
    for length in [*range(0, end, 512), *range(100, end, 5000)]:
        path.write_bytes(whole[:length])
        refusal(path, tmp_path)
    path.write_bytes(whole[:end])
    verify_bundle(path, tmp_path / "whole")


def test_something_behind_the_end(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "tail.tar"
    path.write_bytes(packed.read_bytes() + b"x")
    assert "there are bytes behind the end mark" in refusal(path, tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\3\4" + bytes(2000), bytes(600)])
def test_no_tar(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "no.tar"
    path.write_bytes(content)
    refusal(path, tmp_path)


def test_a_size_that_is_only_claimed(members: Members, tmp_path: Path) -> None:
    path = tmp_path / "claim.tar"
    header = tarfile.TarInfo("index.json")
    header.size = 1 << 40
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    assert "announces 1099511627776 bytes" in refusal(path, tmp_path)
    path.write_bytes(with_negative_size() + bytes(2048))
    refusal(path, tmp_path)


def with_negative_size() -> bytes:
    header = bytearray(tarfile.TarInfo("index.json").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 12  # base 256, minus one
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def test_metadata_has_a_bound(members: Members, tmp_path: Path) -> None:
    members["index.json"] = b" " * (1 << 20) + members["index.json"]
    path = write_members(tmp_path / "large.tar", members)
    assert "at most 1048576 are taken" in refusal(path, tmp_path, LimitError)


def test_the_file_has_a_bound(packed: Path, tmp_path: Path) -> None:
    size = packed.stat().st_size
    assert verify_bundle(packed, tmp_path / "a", max_bytes=size)
    with pytest.raises(LimitError, match=f"at most {size - 1} are taken"):
        verify_bundle(packed, tmp_path / "b", max_bytes=size - 1)


def test_no_links_pipes_or_folders_instead_of_the_file(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(packed)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder", "nothing"):
        refusal(tmp_path / name, tmp_path)


def test_two_manifests(members: Members, tmp_path: Path) -> None:
    entry = descriptor(members)
    other = {**entry, "digest": "sha256:" + "0" * 64}
    index = {"schemaVersion": 2, "manifests": [entry, other]}
    members["index.json"] = json.dumps(index).encode()
    path = write_members(tmp_path / "two.tar", members)
    assert "number of manifests is '2'; wanted 1" in refusal(path, tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda i: i.update(artifactType="application/x"), "artifactType is 'application/x'"),
        (lambda i: i.update(schemaVersion=1), "schemaVersion is '1'; wanted 2"),
        (lambda i: i.update(subject={}), "unknown field `subject`"),
        (lambda i: i["config"].update(mediaType="text/plain"), "config.mediaType is 'text/plain'"),
        (lambda i: i["layers"][0].update(urls=["http://x"]), "unknown field `urls`"),
        (lambda i: i["layers"].pop(), "has 2 layers, edged.files names 3"),
        (lambda i: i["layers"][0].update(annotations={}), "no layer has the annotation"),
        (lambda i: i["layers"][0].update(mediaType="x/y"), "mediaType is 'x/y' in the image"),
        (lambda i: i["layers"][0].update(digest="md5:abc"), "cannot read digest 'md5:abc'"),
        (lambda i: i["layers"][0].update(size=1), "size is '1' in the image manifest"),
    ],
)
def test_bad_image_manifests(
    members: Members, tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    path = write_members(tmp_path / "image.tar", with_image(members, change))
    assert says in refusal(path, tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda c: c["edged"]["inputs"][0].update(dtype="flaot32"),
            "edged.inputs[0].dtype: invalid enum value 'flaot32'; one of float32, float64",
        ),
        (lambda c: c["edged"]["inputs"][0].update(dtype="flaot32"), "did you mean float32?"),
        (lambda c: c["edged"].update(preproces=None), "did you mean preprocess?"),
        (lambda c: c.update(extra=1), "unknown field `extra`; one of descriptor, config"),
        (lambda c: c["edged"].pop("serial"), "missing required field `serial`"),
        (lambda c: c["edged"].update(serial="1"), "edged.serial: expected `int`, got `str`"),
        (lambda c: c["edged"].update(serial=1 << 60), "edged.serial: found"),
        (lambda c: c["edged"].update(format=2), "edged.format: "),
        (lambda c: c["edged"].update(inputs=[]), "edged.inputs: found 0 tensors"),
        (lambda c: c["edged"]["outputs"].append(c["edged"]["outputs"][0]), "answer to 'scores:0'"),
        (lambda c: c["edged"]["inputs"][0].update(shape=[0]), "has the shape [0]"),
        (
            lambda c: c["edged"]["inputs"][0].update(shape=[1, 9, 9, 3]),
            "edged.preprocess: it gives",
        ),
        (lambda c: c["edged"]["preprocess"].update(width=0), "width is 0; wanted 1 to 4096"),
        (lambda c: c["edged"]["preprocess"].update(input="x"), "the inputs are 'image'"),
        (lambda c: c["edged"]["self_test"].update(tolerances=[]), "wanted one for each of 1"),
        (lambda c: c["edged"]["self_test"].update(tolerances=[-1]), "wanted finite numbers above"),
        (lambda c: c["edged"].pop("self_test"), "go together"),
        (lambda c: c["edged"]["files"].pop(), "modelfs.diffIds differ from edged.files"),
        (lambda c: c["edged"]["files"][0].update(name="labels.text"), "did you mean labels.txt?"),
        (lambda c: c["modelfs"]["diffIds"].reverse(), "modelfs.diffIds differ"),
        (lambda c: c["descriptor"].update(name="../up"), "cannot use the name '../up'"),
        (lambda c: c["descriptor"].update(version="1"), "cannot read version '1'"),
        (lambda c: c["config"].update(format="pickle"), "config.format: "),
    ],
)
def test_bad_configs(
    members: Members, tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    path = write_members(tmp_path / "config.tar", with_config(members, change))
    assert says in refusal(path, tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda raw: raw.decode().replace("{", '{"edged":{},', 1), "key 'edged' is there twice"),
        (lambda raw: raw.decode()[:-1], "it is not plain JSON"),
        (lambda raw: "[" * 65, "it is nested too deeply: more than 64"),
        (lambda raw: "null", "expected `object`, got `null`"),
        (lambda raw: '{"a": ' + "9" * 5000 + "}", "it is not plain JSON"),
    ],
)
def test_configs_that_are_not_plain_json(
    members: Members, tmp_path: Path, change: Callable[[bytes], str], says: str
) -> None:
    path = write_members(tmp_path / "raw.tar", with_raw_config(members, change))
    assert says in refusal(path, tmp_path)


def test_a_full_disk_is_named_before_anything_is_unpacked(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    assert "100 are free" in refusal(packed, tmp_path, LimitError)
    assert list((tmp_path / "into").iterdir()) == []


@given(st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damage_anywhere_is_refused_or_harmless(
    packed: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Flipped bytes: either an error of ours, or the same files (times and owners are not ours)."""
    content = bytearray(packed.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / "fuzz.tar"
    path.write_bytes(content)
    with contextlib.suppress(EdgedError):  # and no other error
        verified = verify_bundle(path, folder / "into")
        assert verified.digest == verify_bundle(packed, folder / "good").digest
        for file in verified.manifest.files:
            assert Digest.of((folder / "into" / file.name).read_bytes()) == file.digest
