"""Every relative link and picture of the documentation leads to a file of the repository."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
MENTION = re.compile(r"(?<![\w/])((?:docs|experiments)/[\w./-]+\.(?:md|py|toml|npz))")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_files_that_pages_and_experiments_name_exist():
    sources = [*PAGES, *(ROOT / "experiments").glob("*.py")]
    named = {name for source in sources for name in MENTION.findall(source.read_text())}
    assert "docs/data.md" in named
    assert sorted(name for name in named if not (ROOT / name).exists()) == []
