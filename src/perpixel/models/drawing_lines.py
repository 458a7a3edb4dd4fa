"""How the lines of a drawing run: along tracks that they do not share, past slabs and labels.

A line is one of
    straight  from the right side of a slab to the left side of the next in its row
    down      to the right, then down onto the target
    up        up from the source, then to the right into the target
    step      to the right, up or down through a free gap beside a label, then to the right: fans of branches
    arc       over the slabs of its own row
    curve     where none of these is free
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perpixel.models.drawing_layout import ARC_STEP, CLEARANCE, PORT_STEP, Block, Layout, arc_levels, is_blocked
from perpixel.models.stages import Edge

CORNER = 7.0
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """An edge, its ends, and how it runs: its kind, the height of an arc, or the x of a step's gap."""

    edge: Edge
    source: Block
    target: Block
    kind: str
    arc: int = 0
    gap: float = 0.0


def run_lines(layout: Layout, edges: Sequence[Edge]) -> list[tuple[Edge, str]]:
    """Every edge with the data of its SVG path."""
    arcs = arc_levels(layout.blocks, edges)
    lines = []
    for edge in edges:
        source, target = layout.blocks[edge.source], layout.blocks[edge.target]
        if edge in arcs:
            lines.append(Line(edge, source, target, "arc", arc=arcs[edge]))
        else:
            kind, gap = _way(layout, source, target)
            lines.append(Line(edge, source, target, kind, gap=gap))
    ports = _Ports(lines)
    return [(line.edge, ports.path(line)) for line in lines]


def _way(layout: Layout, source: Block, target: Block) -> tuple[str, float]:
    """The kind of line between two blocks that no arc joins, and the gap of a step."""
    others = [block for block in layout.blocks.values() if block not in (source, target)]
    if source.column >= target.column:
        return "curve", 0.0
    if source.y == target.y:
        return "straight", 0.0
    left, right = target.x - target.slab_width / 2, source.x + source.slab_width / 2
    if target.y > source.y:
        is_clear = not is_blocked(others, source.row, source.lane, right, target.x) and right < target.x - CORNER
        if is_clear and not _is_crossed(others, target.x, source.y, target.y):
            return "down", 0.0
    else:
        is_clear = not is_blocked(others, target.row, target.lane, source.x, left) and source.x < left - CORNER
        if is_clear and not _is_crossed(others, source.x, target.y, source.y):
            return "up", 0.0
    top, bottom = min(source.y, target.y), max(source.y, target.y)
    for gap in (source.box[2] + CLEARANCE, target.box[0] - CLEARANCE):
        is_clear = (
            right < gap < left
            and not is_blocked(others, source.row, source.lane, right, gap)
            and not is_blocked(others, target.row, target.lane, gap, left)
            and not _is_crossed([*others, source, target], gap, top, bottom)
        )
        if is_clear:
            return "step", gap
    return "curve", 0.0


def _is_crossed(blocks: Sequence[Block], x: float, top: float, bottom: float) -> bool:
    """Whether an upright line at x from y `top` to `bottom` would meet a slab or a label."""
    return any(
        block.box[0] - 3 < x < block.box[2] + 3 and block.box[1] < bottom and top < block.box[3] for block in blocks
    )


@dataclass(frozen=True)
class _Segment:
    """A level piece of a line in one row, at the right side of a block ("out") or the left ("in")."""

    line: Line
    row: tuple[int, int]
    start: float
    end: float
    rank: tuple[float, ...]
    sides: tuple[tuple[str, str], ...]
    bundle: tuple[object, ...]  # segments of one bundle share a track


def _segments(line: Line) -> list[_Segment]:
    source, target = line.source, line.target
    right, left = source.x + source.slab_width / 2, target.x - target.slab_width / 2
    here, there = (source.row, source.lane), (target.row, target.lane)
    out, into = ("out", source.name), ("in", target.name)
    if line.kind == "straight":
        return [_Segment(line, here, right, left, (1,), (out, into), (line.edge,))]
    if line.kind == "down":
        return [_Segment(line, here, right, target.x, (2, -target.x), (out,), (line.edge,))]
    if line.kind == "up":
        return [_Segment(line, there, source.x, left, (3, source.x), (into,), (line.edge,))]
    if line.kind == "step":
        is_down = target.y > source.y
        first = _Segment(line, here, right, line.gap, (2, -line.gap) if is_down else (0,), (out,), (out, is_down))
        last = _Segment(line, there, line.gap, left, (0,) if is_down else (3, line.gap), (into,), (into, is_down))
        return [first, last]
    return []


class _Ports:
    """Where each line leaves and enters its blocks, so that lines do not lie on each other and few cross."""

    def __init__(self, lines: list[Line]) -> None:
        self.offsets: dict[tuple[Edge, str], float] = {}  # by edge and side "out" or "in": from a slab's centre
        rows: dict[tuple[int, int], list[_Segment]] = {}
        for segment in (segment for line in lines for segment in _segments(line)):
            rows.setdefault(segment.row, []).append(segment)
        for segments in rows.values():
            self._set_tracks(segments)
        for block in {id(block): block for line in lines for block in (line.source, line.target)}.values():
            self._spread_top([line for line in lines if self._is_on_top(line, block)], block)

    def _set_tracks(self, segments: list[_Segment]) -> None:
        """Give every level piece of one row the highest track that is free and below those that must lie above it."""
        tracks: list[tuple[int, _Segment]] = []
        for segment in sorted(segments, key=lambda each: (each.rank, each.start)):
            bundled = [track for track, other in tracks if other.bundle == segment.bundle]
            above = [track for track, other in tracks if set(other.sides) & set(segment.sides)]
            track = bundled[0] if bundled else max(above, default=-1) + 1
            while not bundled and any(track == other and _overlap(segment, each) for other, each in tracks):
                track += 1
            tracks.append((track, segment))
        last = max(track for track, _ in tracks)
        room = min(min(each.line.source.slab_height, each.line.target.slab_height) for each in segments)
        step = min(PORT_STEP, (room - 6) / max(1, last))
        for track, segment in tracks:
            for side, _ in segment.sides:
                self.offsets[segment.line.edge, side] = (track - last / 2) * step

    @staticmethod
    def _is_on_top(line: Line, block: Block) -> bool:
        if line.source is block:
            return line.kind in ("arc", "up")
        return line.target is block and line.kind in ("arc", "down")

    def _spread_top(self, lines: list[Line], block: Block) -> None:
        """Offsets along the top: arcs that come in, lines from above, lines to above, arcs that go out."""

        def order(line: Line) -> tuple[float, ...]:
            if line.kind == "arc":
                return (0, -line.arc) if line.target is block else (3, -line.arc)
            return (1, -line.source.y, line.source.x) if line.target is block else (2, line.target.y, -line.target.x)

        for number, line in enumerate(sorted(lines, key=order)):
            side = "in" if line.target is block else "out"
            self.offsets[line.edge, side] = (number - (len(lines) - 1) / 2) * PORT_STEP

    def path(self, line: Line) -> str:
        """The data of the line's SVG path."""
        source, target = line.source, line.target
        start, end = self.offsets.get((line.edge, "out"), 0.0), self.offsets.get((line.edge, "in"), 0.0)
        right, left = source.x + source.slab_width / 2, target.x - target.slab_width / 2
        source_top, target_top = source.y - source.slab_height / 2, target.y - target.slab_height / 2
        if line.kind == "straight":
            return _rounded([(right, source.y + start), (left, source.y + start)])
        if line.kind == "down":
            x, y = target.x + end, source.y + start
            return _rounded([(right, y), (x, y), (x, target_top)])
        if line.kind == "up":
            x, y = source.x + start, target.y + end
            return _rounded([(x, source_top), (x, y), (left, y)])
        if line.kind == "step":
            out, into = source.y + start, target.y + end
            return _rounded([(right, out), (line.gap, out), (line.gap, into), (left, into)])
        if line.kind == "arc":
            over = source_top - 3 - line.arc * ARC_STEP
            first, last = source.x + start, target.x + end
            return _rounded([(first, source_top), (first, over), (last, over), (last, target_top)])
        bend = max(24.0, abs(left - right) / 2)
        return (
            f"M{right:.1f} {source.y:.1f}C{right + bend:.1f} {source.y:.1f} "
            f"{left - bend:.1f} {target.y:.1f} {left:.1f} {target.y:.1f}"
        )


def _overlap(one: _Segment, other: _Segment) -> bool:
    return one.start < other.end + CORNER and other.start < one.end + CORNER


def _rounded(points: list[Point]) -> str:
    """A path through the points with rounded corners."""
    parts = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for before, corner, behind in zip(points, points[1:], points[2:]):
        start, end = _towards(corner, before), _towards(corner, behind)
        parts.append(f"L{start[0]:.1f} {start[1]:.1f}Q{corner[0]:.1f} {corner[1]:.1f} {end[0]:.1f} {end[1]:.1f}")
    return "".join(parts) + f"L{points[-1][0]:.1f} {points[-1][1]:.1f}"


def _towards(corner: Point, other: Point) -> Point:
    """The point at most CORNER away from a corner on the way to another point, and at most half way."""
    across, along = other[0] - corner[0], other[1] - corner[1]
    length = max(1e-6, (across**2 + along**2) ** 0.5)
    share = min(CORNER, length / 2) / length
    return corner[0] + across * share, corner[1] + along * share
