"""Remarks of the compiler: what is written is read, and what a stranger wrote is bounded."""

from __future__ import annotations

import json

import pytest

from edged.errors import ModelError
from edged.remarks import MAX_BYTES, Code, parse, remark, serialize


def test_what_is_written_is_read() -> None:
    given = (
        remark(Code.HOST_SHARE, "14 % stay on the host", warning=False, value=0.14),
        remark(Code.MADE_UP_CALIBRATION, "made up"),
    )
    assert parse(serialize(given)) == given
    assert json.loads(serialize(given))[0] == {
        "code": "host-share",
        "text": "14 % stay on the host",
        "value": 0.14,
    }


def test_names_from_a_model_stay_in_one_printable_line() -> None:
    made = remark(Code.COARSE_OUTPUT, "output 'a\nb\x1b[2J' " + "é" * 900)
    assert made.text.startswith("output 'a?b?[2J'") and made.text.endswith("é…")
    assert parse(serialize([made])) == (made,)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'[{"code":"x"}]',
        b'[{"code":"x","text":"a\\u001bb"}]',
        json.dumps([{"code": "x", "text": "y" * 1000}]).encode(),
        json.dumps([{"code": "x", "text": "y"}] * 33).encode(),
        b" " * (MAX_BYTES + 1),
        b"[" * 65 + b"]" * 65,
    ],
)
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match=r"^cannot read remarks\.json: "):
        parse(content)


def test_a_code_of_a_newer_edged_is_kept() -> None:
    (found,) = parse(b'[{"code":"of-tomorrow","text":"x","more":1}]')
    assert (found.code, found.warning, found.value) == ("of-tomorrow", False, None)
