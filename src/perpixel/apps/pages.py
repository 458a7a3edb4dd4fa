"""Self-contained HTML pages: one style, one set of number formats, nothing fetched from outside."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

import perpixel
from perpixel.apps import wording
from perpixel.files import write_text

FILTERS = {
    "score": wording.format_score,
    "interval": wording.format_interval,
    "count": wording.format_count,
    "large": wording.format_large,
    "length_px": wording.format_length,
    "share": wording.format_share,
    "rate": wording.format_rate,
    "duration": wording.format_duration,
    "setting": wording.format_setting,
}


def render_page(template: str, **values: Any) -> str:
    """The template of this name, filled in. Values are text, never markup, unless the template says that they are."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("perpixel.apps"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment.get_template(template).render(version=perpixel.__version__, **values)


@dataclass(frozen=True)
class Script:
    """A script of ours for a page: its text, and the digest by which the page lets it run and nothing else."""

    text: str
    digest: str


def read_script(name: str) -> Script:
    """The script of this name beside the templates."""
    text = (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Script(text, f"sha256-{digest}")


def write_page(path: Path, page: str) -> Path:
    """Write a page. A file name may hold bytes that are no text; the page shows a question mark for each."""
    return write_text(path, page.encode("utf-8", "replace").decode())
