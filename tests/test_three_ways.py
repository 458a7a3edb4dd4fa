"""docs/three_ways_up.md is right: its code runs, block after block, and its pictures can be drawn."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "three_ways_up.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks() -> list[tuple[int, str]]:
    """Line and code of every Python block."""
    found = re.finditer(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return [(TEXT.count("\n", 0, match.start()) + 1, match[1]) for match in found]


def test_every_block_runs_and_asserts() -> None:
    assert len(blocks()) >= 12
    names: dict[str, Any] = {}
    for number, (line, code) in enumerate(blocks()):
        assert number == 0 or "assert" in code, f"the block at line {line} claims nothing"
        # Compiled with the page's own line numbers, so that a failure points into the page.
        exec(compile("\n" * line + code, str(PAGE), "exec"), names)


def test_every_picture_is_drawn_by_a_script_that_the_page_names() -> None:
    scripts = re.findall(r"\]\((figures/\w+\.py)\)", TEXT)
    sources = "".join((PAGE.parent / script).read_text(encoding="utf-8") for script in scripts)
    pictures = re.findall(r"\]\(pictures/(\w+)\.png\)", TEXT)
    assert len(pictures) == 7
    for picture in pictures:
        assert picture in sources, f"no script that the page names draws {picture}.png"


@pytest.mark.slow
def test_pictures_can_be_drawn(tmp_path, monkeypatch) -> None:
    spec = importlib.util.spec_from_file_location("three_ways_up", ROOT / "docs" / "figures" / "three_ways_up.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("sys.argv", ["three_ways_up.py", str(tmp_path)])
    module.main()
    drawn = {path.name for path in tmp_path.iterdir()}
    assert {"transposed_full_padding.png", "unpooling.png", "dilation.png"} <= drawn
    for name in drawn:
        assert (ROOT / "docs" / "pictures" / name).is_file()
