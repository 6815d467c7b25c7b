"""JSON into types, refusing all that is not foreseen, and saying what was."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from edged.bundle._digest import Digest
from edged.errors import BundleError, InputError
from edged.nesting import NestingError, check_nesting

__all__ = ["decode", "encode"]

T = TypeVar("T")
_AT: Final = re.compile(r"^(?P<problem>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_STEP: Final = re.compile(r"\.(\w+)|\[(?:\d+|\.\.\.)\]")


def decode(data: bytes, kind: type[T], what: str) -> T:
    """Read *data* as a *kind*.

    Args:
        data: JSON in UTF-8. Its size is the caller's to bound.
        kind: a frozen struct that forbids unknown fields.
        what: what the errors call it, such as ``index.json``.

    Raises:
        BundleError: not JSON, a duplicate key, an unknown or missing field, a value out of range.
    """
    try:
        check_nesting(data)
        # msgspec takes the last of two equal keys in silence; other readers take the first.
        json.loads(data.decode(), object_pairs_hook=_refuse_duplicates)
        return msgspec.json.decode(data, type=kind, dec_hook=_parse_value)
    except UnicodeDecodeError as error:
        raise BundleError(f"cannot read {what}: it is not UTF-8 ({error})") from error
    except NestingError as error:
        raise BundleError(f"cannot read {what}: {error}") from error
    except msgspec.ValidationError as error:
        raise BundleError(f"cannot read {what}: {_explain(str(error), kind)}") from error
    except ValueError as error:
        raise BundleError(f"cannot read {what}: it is not plain JSON: {error}") from error
    except InputError as error:
        raise BundleError(f"cannot read {what}: {error}") from error


def encode(value: object) -> bytes:
    """Compact JSON, the same bytes for the same value."""
    return msgspec.json.encode(value, enc_hook=str)


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"key {twice[:80]!r} is there twice")
    return found


def _parse_value(kind: type[Any], found: Any) -> Any:
    if kind is not Digest or not isinstance(found, str):
        raise ValueError(f"found {found!r:.80}; wanted a text")
    try:
        return Digest.parse(found)
    except InputError as error:
        raise ValueError(str(error)) from error


def _explain(message: str, kind: type[Any]) -> str:
    """msgspec's message, with the path first and the good values after it."""
    match = _AT.match(message)
    assert match is not None  # every string matches
    problem, path = match["problem"], match["path"] or ""
    problem = problem[:1].lower() + problem[1:]
    choices = _choices(kind, path)
    found = re.search(r"(?:enum value|unknown field) ['`](.*?)['`]", problem, re.DOTALL)
    if found and choices:
        problem += f"; one of {', '.join(choices)}"
        close = difflib.get_close_matches(found[1], choices, n=1)
        problem += f" (did you mean {close[0]}?)" if close else ""
    return f"{path.lstrip('.')}: {problem}" if path else problem


def _choices(kind: type[Any], path: str) -> list[str]:
    """The fields of the object, or the members of the enum, that stands at *path* in *kind*."""
    node: inspect.Type | None = inspect.type_info(kind)
    for name in _STEP.findall(path):
        node = _step(_required(node), name)
    node = _required(node)
    if isinstance(node, inspect.EnumType):
        return [str(member.value) for member in node.cls]
    if isinstance(node, inspect.StructType):
        return [field.encode_name for field in node.fields]
    return []


def _step(node: inspect.Type | None, name: str) -> inspect.Type | None:
    if isinstance(node, inspect.StructType):
        return next((f.type for f in node.fields if f.encode_name == name), None)
    if isinstance(node, inspect.VarTupleType):
        return node.item_type
    return None


def _required(node: inspect.Type | None) -> inspect.Type | None:
    if isinstance(node, inspect.UnionType):
        return next(t for t in node.types if not isinstance(t, inspect.NoneType))
    return node
