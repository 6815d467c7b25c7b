"""The pages of docs/: that what they point to is there, and that nothing is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
DOCS = PROJECT / "docs"
PAGES = sorted([PROJECT / "README.md", *DOCS.rglob("*.md")])
RULES = PROJECT / "packaging" / "prometheus" / "edged.rules.yml"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    # Without what is code.
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    local = {t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)}
    assert {target for target in local if not (page.parent / target).exists()} == set()


def test_each_page_is_found_by_who_follows_links() -> None:
    todo, seen = [DOCS / "README.md", PROJECT / "README.md"], set[Path]()
    while todo:
        page = todo.pop()
        if page not in seen and page.exists():
            seen.add(page)
            links = re.findall(r"\]\(([^)\s#:]+\.md)", page.read_text())
            todo += [(page.parent / link).resolve() for link in links]
    assert sorted(page.name for page in set(DOCS.glob("*.md")) - seen) == []


def test_each_alert_says_what_to_do_and_is_explained() -> None:
    rules = re.split(r"- alert: ", RULES.read_text())[1:]
    page = (DOCS / "monitoring.md").read_text()
    assert rules
    for rule in rules:
        assert "action:" in rule, rule
        assert f"`{rule.split()[0]}`" in page, f"docs/monitoring.md is silent on {rule.split()[0]}"
