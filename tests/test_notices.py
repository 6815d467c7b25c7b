"""What is made from the kinds of messages, and that each kind is one of its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from edged.notices import Notice, catalogue, reference

PROJECT = Path(__file__).parent.parent


def test_each_has_an_identity_and_words_of_its_own():
    assert len({notice.value.message_id for notice in Notice}) == len(Notice)
    assert len({notice.value.subject for notice in Notice}) == len(Notice)
    for notice in Notice:
        assert re.fullmatch("[0-9a-f]{32}", notice.value.message_id)
        assert notice.value.meaning


def test_each_is_logged_somewhere():
    sources = "".join(path.read_text() for path in (PROJECT / "edged").rglob("*.py"))
    assert [n.name for n in Notice if f"Notice.{n.name}" not in sources] == []


def logged() -> Iterator[tuple[Notice, ast.Call]]:
    """Each ``about(Notice.…)`` of the sources."""
    for path in (PROJECT / "edged").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(ast.Name("about"), [ast.Attribute(ast.Name("Notice"), name)]):
                    yield Notice[name], node


def test_each_message_has_the_fields_that_its_explanation_names():
    found = list(logged())
    assert {notice for notice, _ in found} == set(Notice)
    for notice, call in found:
        given = {(keyword.arg or "").upper() for keyword in call.keywords}
        # "**" gives what there is to be given.
        if "" in given or notice is Notice.CALL_FAILED:
            continue
        wanted = set(re.findall("@(.*?)@", notice.value.subject + notice.value.meaning))
        assert wanted <= given, ast.unparse(call)


def test_what_is_made_from_them_is_current():
    assert (PROJECT / "systemd" / "edged.catalog").read_text() == catalogue(), "run `make docs`"
    assert (PROJECT / "docs" / "messages.md").read_text() == reference(), "run `make docs`"
