"""The drawing of a described model: its stages by resolution, and the paths between them, as SVG text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from perpixel.models.drawing_layout import LINE, Block, Layout, lay_out
from perpixel.models.drawing_lines import run_lines
from perpixel.models.stages import IMAGE, LOGITS, Edge, Stage, short_count

LEGEND_HEIGHT = 44.0
HEADING = 17.0  # font size
EXPLANATION = (
    "channels × height × width, parameters; slabs as high as the map is large and as wide as it has channels "
    "(not to scale)"
)
JOINS = ("concatenation", "sum", "product", "maximum", "indices")
TRENDS = {-1: ("coarser", "makes it coarser"), 0: ("level", "keeps the size"), 1: ("finer", "makes it finer")}
# Light first, dark where the reader's system asks for it; the page has its own background, so both can be read.
STYLE = """
svg { --page: #ffffff; --band: #f3f6f9; --text: #1c2733; --muted: #5d6b7a; --plain: #7d8a98; --coarser: #5b93d3;
  --level: #a3b1c0; --finer: #eda145; --concatenation: #16855f; --sum: #c2356b; --product: #7a4fd0;
  --maximum: #0b7f96; --indices: #a8670b; --sky: #cfe3f5; --land: #7fae74; --thing: #d9705c; }
@media (prefers-color-scheme: dark) {
  svg { --page: #12171e; --band: #1a212a; --text: #e5ebf1; --muted: #9fadba; --plain: #8794a1; --coarser: #4680c2;
    --level: #6f7e8d; --finer: #c9802a; --concatenation: #3fbf92; --sum: #ee6f9d; --product: #a98bf0;
    --maximum: #4cc0d6; --indices: #e0a040; --sky: #34506b; --land: #4d7a48; --thing: #b5574a; } }
text { font-family: Helvetica, Arial, "Liberation Sans", sans-serif; fill: var(--text); }
.heading { font-size: 17px; font-weight: bold; }
.facts, .legend { font-size: 11.5px; fill: var(--muted); }
.name { font-size: 11px; font-weight: bold; text-anchor: middle; }
.fact { font-size: 10px; fill: var(--muted); text-anchor: middle; }
.name, .fact { paint-order: stroke; stroke: var(--page); stroke-width: 2.5px; }
.band { font-size: 11.5px; font-weight: bold; fill: var(--muted); }
.slab { stroke: var(--page); stroke-width: 1; }
.edge { fill: none; stroke-width: 1.6; }
.resized { stroke-dasharray: 5 3; }
"""


def draw(
    title: str,
    rows: Sequence[Stage],
    edges: Sequence[Edge],
    image: tuple[int, ...],
    output: tuple[int, ...],
    *,
    parameters: int,
    multiply_adds: int,
) -> str:
    """The text of an SVG file: what `describe` found out, as a picture.

    Args:
        image, output: channels, height and width of the image and of the logits; of volumes channels, depth, height
            and width.
    """
    layout = lay_out(rows, edges, image, output)
    legend, legend_end = _legend(layout, edges, layout.height + 18)
    width, height = max(layout.width, legend_end, 32 + len(title) * HEADING * 0.6), layout.height + LEGEND_HEIGHT
    facts = f"{short_count(parameters)} parameters, {short_count(multiply_adds)} multiply-adds, "
    facts += f"{_size(image)} in, {_size(output)} out"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        *(_marker(kind) for kind in ("plain", *JOINS)),
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="6" fill="var(--page)"/>',
        *_bands(layout, width),
        f'<text class="heading" x="16" y="28">{escape(title)}</text>',
        f'<text class="facts" x="16" y="47">{escape(facts)}</text>',
        *_paths(layout, edges),
        *(_drawn(block) for block in layout.blocks.values()),
        *legend,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _size(size: tuple[int, ...]) -> str:
    return " × ".join(map(str, size))


def _marker(kind: str) -> str:
    return (
        f'<marker id="arrow-{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.5 8 4 0 7.5z" fill="var(--{kind})"/></marker>'
    )


def _bands(layout: Layout, width: float) -> list[str]:
    parts = []
    for number, band in enumerate(layout.bands):
        if number % 2 == 0:
            size = f'width="{width:.0f}" height="{band.bottom - band.top:.1f}"'
            parts.append(f'<rect y="{band.top:.1f}" {size} fill="var(--band)"/>')
        parts.append(f'<text class="band" x="10" y="{band.top + 18:.1f}">{band.name}</text>')
    return parts


def _drawn(block: Block) -> str:
    left, top = block.x - block.slab_width / 2, block.y - block.slab_height / 2
    size = f'x="{left:.1f}" y="{top:.1f}" width="{block.slab_width:.1f}" height="{block.slab_height:.1f}"'
    if block.name in (IMAGE, LOGITS):
        slab = _picture(block, left, top)
    else:
        slab = f'<rect class="slab" {size} rx="2.5" fill="var(--{TRENDS[block.trend][0]})"/>'
    lines = [("name", line) for line in block.title] + [("fact", line) for line in block.facts]
    bottom = top + block.slab_height
    texts = [
        f'<text class="{kind}" x="{block.x:.1f}" y="{bottom + LINE * (number + 1):.1f}">{escape(line)}</text>'
        for number, (kind, line) in enumerate(lines)
    ]
    whole = ", ".join((block.name, *block.facts))
    return f'<g class="stage"><title>{escape(whole)}</title>{slab}{"".join(texts)}</g>'


def _picture(block: Block, left: float, top: float) -> str:
    """A small scene for the image, the same in flat areas for the logits."""
    width, height = block.slab_width, block.slab_height
    hills = (
        f"M{left:.1f} {top + height:.1f}v{-0.42 * height:.1f}l{0.3 * width:.1f} {-0.2 * height:.1f}"
        f"l{0.25 * width:.1f} {0.16 * height:.1f}l{0.2 * width:.1f} {-0.12 * height:.1f}"
        f"l{0.25 * width:.1f} {0.2 * height:.1f}v{0.38 * height:.1f}z"
    )
    outline = "none" if block.name == LOGITS else "var(--muted)"
    thing = f'<circle cx="{left + 0.68 * width:.1f}" cy="{top + 0.68 * height:.1f}" r="{0.13 * width:.1f}"'
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" fill="var(--sky)"/>'
        f'<path d="{hills}" fill="var(--land)" stroke="{outline}"/>{thing} fill="var(--thing)" stroke="{outline}"/>'
    )


def _paths(layout: Layout, edges: Sequence[Edge]) -> list[str]:
    parts = []
    for edge, path in sorted(run_lines(layout, edges), key=lambda pair: bool(pair[0].join)):
        kind = edge.join or "plain"
        way = f"{edge.source} to {edge.target}" + (f", {edge.join}" if edge.join else "")
        way += f", {edge.resize} on the way" if edge.resize else ""
        classes = "edge resized" if edge.resize else "edge"
        parts.append(
            f'<path class="{classes}" d="{path}" stroke="var(--{kind})" marker-end="url(#arrow-{kind})">'
            f"<title>{escape(way)}</title></path>"
        )
    return parts


def _legend(layout: Layout, edges: Sequence[Edge], top: float) -> tuple[list[str], float]:
    """The parts, and how wide the page must be for them."""
    x, parts = 16.0, []
    stages = [block for block in layout.blocks.values() if block.name not in (IMAGE, LOGITS)]
    for trend in sorted({block.trend for block in stages}):
        colour, words = TRENDS[trend]
        parts.append(f'<rect x="{x:.1f}" y="{top - 9:.1f}" width="11" height="11" rx="2" fill="var(--{colour})"/>')
        x = _word(parts, x + 16, top, words)
    for join in JOINS:
        if any(edge.join == join for edge in edges):
            parts.append(_sample(x, top, join, "edge"))
            x = _word(parts, x + 31, top, join)
    if any(edge.resize for edge in edges):
        parts.append(_sample(x, top, "plain", "edge resized"))
        x = _word(parts, x + 31, top, "resized between stages")
    return parts, max(x, _word(parts, 16.0, top + 17, EXPLANATION))


def _sample(x: float, y: float, kind: str, classes: str) -> str:
    line = f'd="M{x:.1f} {y - 4:.1f}H{x + 25:.1f}" stroke="var(--{kind})" marker-end="url(#arrow-{kind})"'
    return f'<path class="{classes}" {line}/>'


def _word(parts: list[str], x: float, y: float, words: str) -> float:
    parts.append(f'<text class="legend" x="{x:.1f}" y="{y:.1f}">{words}</text>')
    return x + len(words) * 5.7 + 16
