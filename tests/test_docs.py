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


def test_each_page_is_found_from_the_manual() -> None:
    text = (DOCS / "README.md").read_text()
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)\s#:]+\.md)", text)}
    # Decisions come one by one; whoever reads the others finds the newest beside them.
    pages = {page.resolve() for page in DOCS.glob("*.md")} - {DOCS / "README.md"}
    assert sorted(page.name for page in pages - linked) == []


def test_each_alert_says_what_to_do_and_is_explained() -> None:
    rules = re.split(r"- alert: ", RULES.read_text())[1:]
    page = (DOCS / "monitoring.md").read_text()
    assert rules
    for rule in rules:
        assert "action:" in rule, rule
        assert f"`{rule.split()[0]}`" in page, f"docs/monitoring.md is silent on {rule.split()[0]}"
