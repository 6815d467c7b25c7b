"""What people do to a folder over a network: slowly, by another name, halfway, all at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import onnx
import pytest
from integration.appliance import DATA, eventually
from shares.conftest import Shared
from shares.servers import ANNE, BERT, PAGE, Nfs, Samba

pytestmark = [pytest.mark.shares, pytest.mark.timeout(900)]

Bundle = Callable[[str], Path]

# Longer than edged waits for a file to settle here (0.1 s), and than it is between two looks.
PAUSE: Final = 0.8
FATES: Final = ("serving", "served", "stored", "rejected")


def fate(shared: Shared, name: str) -> str:
    """What a client reads once edged has made up its mind."""
    eventually(
        lambda: shared.share.read(f"{name}.status.txt").startswith(FATES),
        f"the fate of {name}; {shared.share.names()}\n{shared.appliance.log.read_text()[-3000:]}",
    )
    return shared.share.read(f"{name}.status.txt")


def test_a_copy_is_taken_and_its_story_can_be_read(shared: Shared, bundle: Bundle) -> None:
    file = bundle("plain")
    began = time.monotonic()
    shared.share.copy(file)
    copied = time.monotonic()
    told = fate(shared, file.name)
    assert told.startswith("serving since ")
    assert told.splitlines()[1] == "plain 1.0.0"
    assert shared.share.names() == {f"{file.name}.status.txt"}
    shared.report(
        "a copy of 4 MB",
        f"written in {copied - began:.1f} s, serves {time.monotonic() - copied:.1f} s later",
    )


def test_a_slow_copy_is_waited_for(shared: Shared, bundle: Bundle) -> None:
    file = bundle("slow")
    content = file.read_bytes()
    copy = shared.share.copying(file.name)
    told = set()
    for start in range(0, len(content), 1_100_000):
        copy.write(content[start : start + 1_100_000])
        until = time.monotonic() + PAUSE
        while time.monotonic() < until:
            told.add(shared.share.read(f"{file.name}.status.txt").partition("\n")[0][:20])
    copy.finish()
    assert told & {"waiting for the copy", "rejected: cannot rea"}
    eventually(lambda: fate(shared, file.name).startswith("serving"), "the whole of it to serve")
    assert not {name for name in shared.share.names("rejected") if name.startswith("slow")}
    hasty = shared.appliance.log.read_text().count(f"taking {file.name} back")
    shared.report(
        f"a copy with pauses of {PAUSE} s",
        f"serves; its beginning was tried and taken back {hasty} times",
    )
    if type(shared.share) is Samba:
        # The share of docs/shares.md lets edged see who writes.
        assert not hasty


def test_a_name_that_is_given_at_the_end(shared: Shared, bundle: Bundle) -> None:
    if isinstance(shared.share, Nfs):
        pytest.skip("libnfs-utils has no command that renames")
    assert isinstance(shared.share, Samba)
    file = bundle("renamed")
    shared.share.copy(file, f"{file.name}.part")
    shared.share.do(f'rename "{file.name}.part" "{file.name}"')
    assert fate(shared, file.name).splitlines()[1] == "renamed 1.0.0"
    assert not shared.appliance.status_of(f"{file.name}.part")
    shared.report("renamed at the end", "serves")


def test_a_copy_that_is_cut_off_is_rejected_and_can_be_made_again(
    shared: Shared, bundle: Bundle
) -> None:
    file = bundle("cut")
    copy = shared.share.copying(file.name)
    copy.write(file.read_bytes()[:2_300_000])
    places = [shared.share.drop / sub / file.name for sub in ("", "rejected")]
    eventually(
        lambda: any(place.exists() and place.stat().st_size for place in places),
        "some of it to be there",
    )
    copy.cut_off()
    told = fate(shared, file.name)
    assert told.startswith("rejected: cannot ")
    assert "moved to rejected/" in told
    reason = shared.share.read(f"rejected/{file.name}.reason.txt")
    assert reason.startswith("rejected: cannot ")
    assert shared.appliance.edgectl("status").returncode == 0

    shared.share.copy(file)
    eventually(lambda: fate(shared, file.name).startswith("serving"), "the second copy to serve")
    shared.report("cut off in the middle", reason.splitlines()[0])


def test_two_people_at_once(shared: Shared, bundle: Bundle) -> None:
    anne, bert = bundle("anne"), bundle("bert")
    copies = [shared.share.copying(anne.name, ANNE), shared.share.copying(bert.name, BERT)]
    parts = [anne.read_bytes(), bert.read_bytes()]
    for start in range(0, max(map(len, parts)), 1_000_000):
        for copy, part in zip(copies, parts, strict=True):
            copy.write(part[start : start + 1_000_000])
    for copy in copies:
        copy.finish()
    ends = {file.name: fate(shared, file.name) for file in (anne, bert)}
    eventually(
        lambda: sorted(fate(shared, name).split()[0] for name in ends) == ["served", "serving"],
        f"one after the other: {ends}",
    )
    shared.report("two people, two files", "one served, the other serves")

    # The same name: one of them wins, and what serves is whole.
    one = shared.share.copying("same.onnx", ANNE)
    two = shared.share.copying("same.onnx", BERT)
    content = (DATA / "models" / "kws_dscnn.onnx").read_bytes()
    one.write(content[:20_000])
    two.write(content[:30_000])
    one.write(content[20_000:])
    two.write(content[30_000:])
    said = []
    for copy in (one, two):
        try:
            said.append(copy.finish())
        except AssertionError as refusal:  # by the server: somebody else has it open
            said.append(str(refusal))
    eventually(lambda: fate(shared, "same.onnx").startswith("serving"), f"one of them: {said}")
    assert shared.share.names() & {"same.onnx"} == set()
    refused = sum("NT_STATUS" in each for each in said)
    shared.report("two people, the same name", f"serves; {refused} of them refused by the server")


def test_what_was_rejected_can_be_cleared_away(shared: Shared) -> None:
    if isinstance(shared.share, Nfs):
        pytest.skip("libnfs-utils has no command that deletes")
    assert isinstance(shared.share, Samba)
    shared.share.copy(PAGE, "page.onnx")
    assert fate(shared, "page.onnx").startswith("rejected: cannot ")
    for name in ("rejected/page.onnx", "rejected/page.onnx.reason.txt", "page.onnx.status.txt"):
        shared.share.do(f'del "{name}"')
    assert not [name for name in shared.share.names() if "page" in name]
    assert not [name for name in shared.share.names("rejected") if "page" in name]
    shared.report("what was rejected", "can be deleted by a client")


def test_a_model_in_two_files_with_slow_data(shared: Shared, tmp_path: Path) -> None:
    """The model first, its data slowly after it, as a folder's copy over a slow line."""
    path = tmp_path / f"pair-{type(shared.share).__name__.lower()}.onnx"
    data = f"{path.name}.data"
    model = onnx.load(DATA / "models" / "kws_dscnn.onnx")
    onnx.save(model, path, save_as_external_data=True, location=data, size_threshold=0)
    shared.share.copy(path)
    eventually(
        lambda: shared.share.read(f"{path.name}.status.txt").startswith(f"waiting for {data}"),
        "the model to wait for its data",
    )
    content = (tmp_path / data).read_bytes()
    copy = shared.share.copying(data)
    copy.write(content[: len(content) // 2])
    time.sleep(PAUSE)  # the pace of the copy
    copy.write(content[len(content) // 2 :])
    copy.finish()
    eventually(
        lambda: fate(shared, path.name).startswith("serving"),
        f"the pair to serve; {shared.share.names()}\n{shared.appliance.log.read_text()[-3000:]}",
    )
    eventually(lambda: not shared.share.names() & {path.name, data}, "both to be gone")
    shared.report("a model in two files, its data slowly after it", "serves")
