"""What holds for every document: its links lead somewhere, what it names exists, its lines can be read."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/tutorials").glob("*.md"))]
ids = [page.name for page in PAGES]
FOLDERS = "rl_crop|scripts|tests|configs|docs|envs"


def prose(page):
    """The text of a page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """What links to headings of a page are called."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page):
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_lines_of_prose_are_short(page):
    lines = [line for line in prose(page).splitlines() if not line.startswith(("|", "    ")) and "://" not in line]
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_what_is_named_exists(page):
    text = "" if page.name == "CHANGELOG.md" else page.read_text()  # which tells of what was
    for name in set(re.findall(r"\brl_crop(?:\.[A-Za-z_]\w*)+", text)):
        parts, found = name.split("."), import_module("rl_crop")
        for number, part in enumerate(parts[1:], start=2):
            try:
                found = getattr(found, part)
            except AttributeError:
                found = import_module(".".join(parts[:number]))
    for path in set(re.findall(rf"`((?:{FOLDERS})/[\w./*-]+)`", text)):
        assert re.search(r"[A-Z]{4}|-v\d", path) or list(ROOT.glob(path)), path  # NAME, or the id of an environment


def test_the_readme_is_short_and_has_one_picture():
    text = (ROOT / "README.md").read_text()
    [picture] = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert len(text.splitlines()) <= 150 and (ROOT / picture).stat().st_size < 150_000
