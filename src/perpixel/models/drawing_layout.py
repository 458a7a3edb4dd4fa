"""Where the stages of a drawing stand.

A row for each resolution, finest at the top; a column for each step away from the image, counted along the longest
path. So a U-Net is a U and an FCN a staircase. Stages of one row and column (parallel branches) are stacked; where the
page would become too wide, rows become zigzags of two lanes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from perpixel.models.stages import IMAGE, LOGITS, Edge, Stage, short_count

NAME_SIZE, TEXT_SIZE = 11.0, 10.0  # font sizes
CHARACTER = 0.58  # of the font size: a cautious width of one character of a sans-serif face
LINE = 12.5
NAME_LENGTH, NAME_LINES = 12, 3  # characters of a line, lines
SLAB_HEIGHTS = (60.0, 52.0, 45.0, 38.0, 32.0, 27.0, 22.0)  # by resolution, 1/1, 1/2 ...
COARSEST_FRACTION = 64  # maps of a larger stride are pooled to a grid of so and so many cells
ONE_CELL = 99  # the resolution of a map of one cell, below all others
GUTTER, TOP, RIGHT = 44.0, 66.0, 14.0
GAP = 16.0  # between the labels of neighbours
CLEARANCE = 8.0  # between an upright line and a label beside it
PORT_STEP = 7.0  # between lines at one side of a slab
ARC_STEP = 8.0
# Beyond these widths of the page, rows with more than this many columns zigzag.
ZIGZAGS = ((1100.0, 6), (1350.0, 2))


@dataclass
class Block:
    """One stage: a slab whose height hints at its size and whose width at its channels, with its label underneath.

    `x` and `y` are the slab's centre; `trend` is -1 for coarser than what goes in, 1 for finer, 0 for the same.
    """

    name: str
    title: tuple[str, ...]
    facts: tuple[str, ...]
    slab_width: float
    slab_height: float
    row: int = 0
    column: int = 0
    trend: int = 0
    lane: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        """Of slab and label."""
        texts = [(line, NAME_SIZE) for line in self.title] + [(line, TEXT_SIZE) for line in self.facts]
        return max(self.slab_width, *(len(line) * size * CHARACTER for line, size in texts))

    @property
    def label_height(self) -> float:
        """Of all lines below the slab."""
        return LINE * (len(self.title) + len(self.facts)) + 4

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 of slab and label."""
        half, top = self.width / 2, self.y - self.slab_height / 2
        return self.x - half, top, self.x + half, top + self.slab_height + self.label_height


@dataclass(frozen=True)
class Band:
    """One resolution: its name at the left, and the strip of the page that it takes."""

    name: str
    top: float
    bottom: float


@dataclass(frozen=True)
class Layout:
    """Blocks by name, bands from fine to coarse, and the size of the page."""

    blocks: dict[str, Block]
    bands: tuple[Band, ...]
    width: float
    height: float


def lay_out(rows: Sequence[Stage], edges: Sequence[Edge], image: tuple[int, ...], output: tuple[int, ...]) -> Layout:
    """Place all stages, the image (channels and sides) in front and the logits behind them."""
    levels = {IMAGE: 0, **{row.name: _level(row) for row in rows}, LOGITS: 0}
    row_of = {level: number for number, level in enumerate(sorted(set(levels.values())))}
    columns = _columns(list(levels), edges)
    blocks = {IMAGE: _end_block(IMAGE, image), **{row.name: _block(row) for row in rows}}
    blocks[LOGITS] = _end_block(LOGITS, output)
    for name, block in blocks.items():
        block.row, block.column = row_of[levels[name]], columns[name]
        block.trend = _trend(levels[name], [levels[edge.source] for edge in edges if edge.target == name])
    width = _place_columns(blocks, edges, set())
    for too_wide, most in ZIGZAGS:
        if width > too_wide:
            width = _place_columns(blocks, edges, _crowded(blocks.values(), most))
    bands = _place_rows(list(blocks.values()), _row_names(rows, levels, row_of), edges)
    return Layout(blocks, bands, width, bands[-1].bottom)


def is_blocked(blocks: Iterable[Block], row: int, lane: int, start: float, end: float) -> bool:
    """Whether a level line from x `start` to `end` in a row would meet one of the slabs."""
    return any(
        (block.row, block.lane) == (row, lane)
        and start < block.x + block.slab_width / 2 + 3
        and block.x - block.slab_width / 2 - 3 < end
        for block in blocks
    )


def arc_levels(blocks: Mapping[str, Block], edges: Sequence[Edge]) -> dict[Edge, int]:
    """For every edge that must pass over blocks of its own row: how high, 1 for the lowest; short ones lie lowest."""
    spans = []
    for edge in edges:
        start, end = blocks[edge.source], blocks[edge.target]
        is_level = (start.row, start.lane) == (end.row, end.lane) and start.column < end.column
        others = [block for block in blocks.values() if block not in (start, end)]
        if is_level and is_blocked(others, start.row, start.lane, start.x, end.x):
            spans.append((end.column - start.column, start.row, start.lane, start.column, end.column, edge))
    levels: dict[Edge, int] = {}
    taken: list[tuple[int, int, int, int, int]] = []
    for _, row, lane, first, last, edge in sorted(spans, key=lambda span: span[:5]):
        level = 1
        while any((row, lane, level) == other[:3] and first < other[4] and other[3] < last for other in taken):
            level += 1
        taken.append((row, lane, level, first, last))
        levels[edge] = level
    return levels


def wrapped(name: str) -> tuple[str, ...]:
    """A name on at most three short lines of similar length, broken at blanks; what does not fit ends in an ellipsis.

    >>> wrapped("boundary refinement 2")
    ('boundary', 'refinement 2')
    """
    lines = _broken(name, NAME_LENGTH)
    longest = max(map(len, name.split()), default=0)
    for length in range(NAME_LENGTH - 1, longest - 1, -1):
        narrower = _broken(name, length)
        lines = narrower if len(narrower) == len(lines) else lines
    if len(lines) > NAME_LINES:
        lines = [*lines[: NAME_LINES - 1], lines[NAME_LINES - 1][: NAME_LENGTH - 1] + "…"]
    return tuple(lines)


def _broken(name: str, length: int) -> list[str]:
    lines = [""]
    for word in name.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > length:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
        while len(lines[-1]) > length:  # a word longer than a line
            lines[-1:] = [lines[-1][:length], lines[-1][length:]]
    return lines


def _level(row: Stage) -> int:
    """0 for the image's resolution, 1 for half of it ..."""
    if set(row.size) == {1} and row.stride > 1:
        return ONE_CELL
    return max(0, round(math.log2(max(1.0, row.stride))))


def _trend(level: int, sources: list[int]) -> int:
    others = [source for source in sources if source != ONE_CELL] or sources
    if any(source > level for source in others):
        return 1
    return -1 if others and all(source < level for source in others) else 0


def _columns(names: list[str], edges: Sequence[Edge]) -> dict[str, int]:
    """Edges on the longest path from the image to each name; names are in the order of execution."""
    place = {name: number for number, name in enumerate(names)}
    columns = {name: 0 if name == IMAGE else 1 for name in names}
    for name in names:
        sources = [edge.source for edge in edges if edge.target == name and place[edge.source] < place[name]]
        columns[name] = max([columns[name], *(columns[source] + 1 for source in sources)])
    columns[LOGITS] = max(columns.values()) + (columns[LOGITS] < max(columns.values()))
    return columns


def _block(row: Stage) -> Block:
    facts = ["×".join(map(str, (row.channels, *row.size)))]
    if row.parameters:
        facts.append(short_count(row.parameters))
    height = SLAB_HEIGHTS[min(_level(row), len(SLAB_HEIGHTS) - 1)]
    return Block(row.name, wrapped(row.name), tuple(facts), 8 + 3.6 * math.log2(row.channels), height)


def _end_block(name: str, size: tuple[int, ...]) -> Block:
    return Block(name, (name,), ("×".join(map(str, size)),), 60.0, 60.0)


def _crowded(blocks: Iterable[Block], most: int) -> set[int]:
    columns: dict[int, set[int]] = {}
    for block in blocks:
        columns.setdefault(block.row, set()).add(block.column)
    return {row for row, taken in columns.items() if len(taken) > most}


def _place_columns(blocks: Mapping[str, Block], edges: Sequence[Edge], zigzag: set[int]) -> float:
    """Set lanes and x of all blocks; returns the width of the page."""
    _set_lanes(blocks.values(), zigzag)
    tops = {name: _top_ports(block, blocks, edges) for name, block in blocks.items()}
    ends: dict[tuple[int, int], float] = {}  # right end of what stands in a row (and lane, where it zigzags)
    x, before = 0.0, (0.0, 0.0)
    for column in range(max(block.column for block in blocks.values()) + 1):
        here = [block for block in blocks.values() if block.column == column]
        label = max((block.width / 2 for block in here), default=0.0)
        lines = max((tops[block.name] for block in here), default=0.0)
        step = max(before[0] + lines, label + before[1]) + CLEARANCE
        if _has_fan(column, blocks, edges):
            step = max(step, before[0] + label + 2 * CLEARANCE)
        x = x + step if column else GUTTER + label + 4
        for block in here:
            x = max(x, ends.get(_track(block, zigzag), 0.0) + GAP + block.width / 2)
        for block in here:
            block.x = x
            ends[_track(block, zigzag)] = x + block.width / 2
        before = (label, lines)
    return max(ends.values()) + RIGHT


def _set_lanes(blocks: Iterable[Block], zigzag: set[int]) -> None:
    cells: dict[tuple[int, int], list[Block]] = {}
    for block in blocks:
        cells.setdefault((block.row, block.column), []).append(block)
    turns = dict.fromkeys(zigzag, 0)
    for (row, _), cell in sorted(cells.items(), key=lambda item: item[0]):
        first = turns[row] % 2 if row in zigzag and len(cell) == 1 else 0
        for number, block in enumerate(cell):
            block.lane = first + number
        if row in zigzag:
            turns[row] += 1


def _top_ports(block: Block, blocks: Mapping[str, Block], edges: Sequence[Edge]) -> float:
    """Half the width of the bundle of upright lines that may stand on a block."""
    others = [blocks[e.target] for e in edges if e.source == block.name]
    others += [blocks[e.source] for e in edges if e.target == block.name]
    count = sum(
        (other.row, other.lane) < (block.row, block.lane) or _is_behind_others(block, other, blocks.values())
        for other in others
    )
    return max(0, count - 1) / 2 * PORT_STEP


def _is_behind_others(block: Block, other: Block, blocks: Iterable[Block]) -> bool:
    """Whether a line between two of one row and lane has to pass over something."""
    first, last = sorted((block.column, other.column))
    here = (block.row, block.lane)
    return here == (other.row, other.lane) and any(
        here == (each.row, each.lane) and first < each.column < last for each in blocks
    )


def _has_fan(column: int, blocks: Mapping[str, Block], edges: Sequence[Edge]) -> bool:
    """Whether lines fan out into a column, or in, so that they need room between the labels."""
    between = [e for e in edges if blocks[e.source].column == column - 1 and blocks[e.target].column == column]
    return len({e.source for e in between}) < len(between) or len({e.target for e in between}) < len(between)


def _track(block: Block, zigzag: set[int]) -> tuple[int, int]:
    return block.row, block.lane if block.row in zigzag else 0


def _place_rows(blocks: list[Block], names: Sequence[str], edges: Sequence[Edge]) -> tuple[Band, ...]:
    """Set y of all blocks; returns the bands."""
    arcs = arc_levels({block.name: block for block in blocks}, edges)
    bands, top = [], TOP
    for row, name in enumerate(names):
        bottom = top
        here = [block for block in blocks if block.row == row]
        for lane in range(max(block.lane for block in here) + 1):
            inside = {block.name: block for block in here if block.lane == lane}
            over = max((level for edge, level in arcs.items() if edge.source in inside), default=0)
            height = max(block.slab_height for block in inside.values())
            bottom += 12 + over * ARC_STEP
            for block in inside.values():
                block.y = bottom + height / 2
            bottom += height + max(block.label_height for block in inside.values())
        bands.append(Band(name, top, bottom + 6))
        top = bottom + 6
    return tuple(bands)


def _row_names(rows: Sequence[Stage], levels: Mapping[str, int], row_of: Mapping[int, int]) -> list[str]:
    names = []
    for level in row_of:
        here = [row for row in rows if levels[row.name] == level]
        strides, grids = {round(row.stride) for row in here}, {" × ".join(map(str, row.size)) for row in here}
        factor = strides.pop() if len(strides) == 1 else 2**level
        is_grid = (level == ONE_CELL or factor > COARSEST_FRACTION) and len(grids) == 1
        names.append(grids.pop() if is_grid else f"1/{factor}" if level else "1/1")
    return names
