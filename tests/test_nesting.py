"""The bound on nesting, against a count by hand of what a decoder would descend into."""

from __future__ import annotations

import json
import random
from pathlib import Path

import onnx
import pytest
from google.protobuf.message import DecodeError, Message

from edged import wire
from edged._onnxfile import read_onnx
from edged.errors import ModelError
from edged.nesting import MAX_NESTING, NestingError, check_nesting


def depth(text: str) -> int:
    """The deepest level, character by character."""
    level = deepest = 0
    within = escaped = False
    for character in text:
        if within:
            within = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            within = True
        elif character in "[{":
            level += 1
            deepest = max(deepest, level)
        elif character in "]}":
            level -= 1
    return deepest


def is_within(text: str, most: int) -> bool:
    try:
        check_nesting(text.encode(), most)
    except NestingError:
        return False
    return True


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":', ' \n[ "]" , '])
def test_one_level_more_than_the_bound_is_refused(opening: str) -> None:
    levels = depth(opening)
    whole = opening * (MAX_NESTING // levels)
    assert is_within(whole, MAX_NESTING)
    assert not is_within(whole + "[", MAX_NESTING)


def test_a_refusal_says_what_the_bound_is() -> None:
    with pytest.raises(NestingError, match="too deeply: more than 64 lists"):
        check_nesting(b"[" * 65)


@pytest.mark.parametrize(
    "text",
    [
        '"' + "[" * 200 + '"',
        '{"a": "' + '\\"[{' * 100 + '"}',
        '["\\\\", "' + "{" * 100 + '"]',
        "[" * 3 + ",".join(["[1]"] * 100_000) + "]" * 3,
        '["' + "Y_y]}" * 100 + '"]',
    ],
)
def test_brackets_in_strings_and_beside_each_other_do_not_count(text: str) -> None:
    assert is_within(text, MAX_NESTING)


def test_closing_brackets_in_strings_do_not_hide_levels() -> None:
    assert not is_within('["]",' * 65, MAX_NESTING)
    assert not is_within('["\\"]",' * 65, MAX_NESTING)
    assert not is_within('["\\\\",' * 65, MAX_NESTING)


def test_it_agrees_with_a_count_by_hand() -> None:
    chance = random.Random(7)

    def value(level: int) -> object:
        kind = chance.random()
        if level and kind < 0.4:
            return [value(level - 1) for _ in range(chance.randrange(4))]
        if level and kind < 0.7:
            return {text(): value(level - 1) for _ in range(chance.randrange(4))}
        return text() if kind < 0.9 else chance.random()

    def text() -> str:
        return "".join(chance.choice('[]{}"\\Yy_é ,:') for _ in range(chance.randrange(9)))

    seen = set()
    for _ in range(300):
        body = json.dumps(value(9), ensure_ascii=chance.random() < 0.5)
        body += " " * 20  # longer than any bound here
        deepest = depth(body)
        seen.add(deepest)
        for most in range(12):
            assert is_within(body, most) == (deepest <= most), body
    assert len(seen) > 6


def test_levels_count_across_blocks() -> None:
    apart = "[" + " " * 70_000
    assert is_within(apart * 20, 20)
    assert not is_within(apart * 21, 20)


def groups(levels: int) -> bytes:
    """An unknown field of a message, nested in itself: the beginnings and ends of groups."""
    return b"\x7b" * levels + b"\x7c" * levels


@pytest.mark.parametrize(
    "kind",
    [
        wire.PredictRequest,
        wire.ClassificationRequest,
        wire.inference.ModelInferRequest,
        wire.GraphDef,
        onnx.ModelProto,
    ],
)
def test_protocol_buffers_are_bounded_by_their_library(kind: type[Message]) -> None:
    kind.FromString(groups(99))
    with pytest.raises(DecodeError):
        kind.FromString(groups(101))


def within(number: int, message: bytes) -> bytes:
    """A message with *message* as its field *number*; onnx itself does not write such depth."""
    size, length = len(message), b""
    while size > 0x7F:
        size, length = size >> 7, length + bytes([size & 0x7F | 0x80])
    return bytes([number << 3 | 2]) + length + bytes([size]) + message


def test_graphs_within_graphs_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "deep.onnx"
    for levels, taken in ((30, True), (34, False)):
        graph = b""
        for _ in range(levels):  # GraphProto.node, NodeProto.attribute, AttributeProto.g
            graph = within(1, within(5, within(6, graph)))
        path.write_bytes(within(7, graph))
        if taken:
            read_onnx(path)
        else:
            with pytest.raises(ModelError, match="no valid ONNX model"):
                read_onnx(path)
