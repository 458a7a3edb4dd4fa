"""What the documents say is so: links lead somewhere, commands and options exist, every room has its page."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from perpixel.apps.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
VERBS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_blocks(page: Path) -> Iterator[str]:
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        yield match[2]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the usual Markdown viewers make them."""
    titles = re.findall(r"^#+ +(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{name(page)} links to {link}, which does not exist"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{name(page)} links to {link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page: Path) -> None:
    """Every `perpixel VERB --option` of a code block is a verb and an option of the command line."""
    for line in "".join(code_blocks(page)).splitlines():
        command = re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?perpixel ([a-z].*)", line)
        if command is None:
            continue
        verb, *words = shlex.split(command[1], comments=True)
        assert verb in VERBS, f"{name(page)}: 'perpixel {verb}' is no verb"
        known = {flag for p in VERBS[verb].params for flag in (*p.opts, *p.secondary_opts)} | {
            "--help",
            "-h",
            "--debug",
        }
        for word in words:
            if word.startswith("-"):
                assert word.partition("=")[0] in known, f"{name(page)}: perpixel {verb} has no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_examples_parse(page: Path) -> None:
    for match in re.finditer(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        ast.parse(match[1])


def test_every_room_has_its_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for folder in sorted(path.parent.name for path in (ROOT / "src" / "perpixel").glob("*/__init__.py")):
        assert f"]({folder}.md)" in index, f"docs/index.md does not list the room '{folder}'"


def test_every_verb_is_documented() -> None:
    page = (ROOT / "docs" / "apps.md").read_text(encoding="utf-8")
    for verb in VERBS:
        assert f"perpixel {verb}" in page, f"docs/apps.md does not show 'perpixel {verb}'"


def test_contributing_fits_on_a_page() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 60


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), (
                f"{name(page)}: no target '{target}' in the Makefile"
            )
