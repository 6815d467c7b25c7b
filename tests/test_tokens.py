"""Bearer tokens: what is kept of them, and what the file may look like."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from edged.errors import ConfigError, InputError, NotFoundError
from edged.tokens import TokenFile, owner_of


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "state" / "tokens")


def test_a_secret_is_told_once_and_only_its_hash_is_kept(file: TokenFile) -> None:
    first, second = file.add("camera-1"), file.add("camera-2")
    text = file.path.read_text()
    assert first not in text and first.removeprefix("edged_") not in text
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o640
    assert owner_of(first, file.read()) == "camera-1"
    assert owner_of(second, file.read()) == "camera-2"
    assert len(first) >= len("edged_") + 43
    file.revoke("camera-1")
    assert owner_of(first, file.read()) is None
    assert owner_of(second, file.read()) == "camera-2"
    assert [each.name for each in file.path.parent.iterdir()] == ["tokens"]


@pytest.mark.parametrize("secret", ["", "x", "é", "\ud800", "x" * 100_000])
def test_whatever_a_client_sends_is_nobodys(file: TokenFile, secret: str) -> None:
    file.add("camera")
    assert owner_of(secret, file.read()) is None


def test_names_are_those_of_one_client_each(file: TokenFile) -> None:
    file.add("camera")
    with pytest.raises(InputError, match="cannot make a token for camera: there is one; revoke"):
        file.add("camera")
    for name in ("", "a b", "a\nb", "-x", "x" * 65):
        with pytest.raises(InputError, match="wanted up to 64 letters"):
            file.add(name)
    with pytest.raises(NotFoundError, match="cannot revoke 'camrea': the tokens there are: camera"):
        file.revoke("camrea")


def test_lines_may_be_edited_by_hand_and_a_wrong_one_is_named_not_shown(file: TokenFile) -> None:
    secret = file.add("camera")
    file.path.write_text(f"# cameras\n\n{file.path.read_text()}")
    assert owner_of(secret, file.read()) == "camera"
    file.path.write_text(f"{file.path.read_text()}camera-2 {secret}\n")
    with pytest.raises(ConfigError, match="line 4 is no `NAME sha256:HEX TIME`") as caught:
        file.read()
    assert secret not in str(caught.value)


def test_two_who_write_at_once_lose_nothing(file: TokenFile) -> None:
    def add(names: range) -> None:
        for number in names:
            file.add(f"camera-{number}")

    threads = [threading.Thread(target=add, args=(range(n * 10, n * 10 + 10),)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {token.name for token in file.read()} == {f"camera-{n}" for n in range(30)}
