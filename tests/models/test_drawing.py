"""Drawings: edges by hand, every stage named, nothing on top of anything else."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perpixel.models import create_model
from perpixel.models.describe import describe
from perpixel.models.drawing import draw
from perpixel.models.drawing_layout import lay_out, wrapped
from perpixel.models.drawing_lines import run_lines
from perpixel.models.stages import Edge, Stage

SIDE = 512


def stage(name: str, channels: int, stride: int) -> Stage:
    return Stage(name, channels, SIDE // stride, SIDE // stride, float(stride), 99, 1000, 10**6)


def chain(*names: str) -> list[Edge]:
    return [Edge(source, target) for source, target in itertools.pairwise(names)]


def nested() -> tuple[list[Stage], list[Edge]]:
    """U-Net++: every node gets all nodes of its row before it and one from below."""
    nodes = sorted(((i, j) for i in range(5) for j in range(5 - i)), key=lambda node: (sum(node), node[1]))
    rows = [stage(f"X{i},{j}", 32 * 2**i, 2**i) for i, j in nodes]
    edges = [Edge("image", "X0,0"), Edge("X0,4", "logits")]
    edges += [Edge(f"X{i - 1},0", f"X{i},0", "", "pool") for i in range(1, 5)]
    for i, j in nodes:
        if j:
            edges += [Edge(f"X{i},{k}", f"X{i},{j}", "concatenation") for k in range(j)]
            edges.append(Edge(f"X{i + 1},{j - 1}", f"X{i},{j}", "concatenation"))
    return rows, edges


def full_scale() -> tuple[list[Stage], list[Edge]]:
    """UNet 3+: every decoder gets all finer encoders and all coarser decoders."""
    rows = [stage(f"encoder {i}", 32 * 2**i, 2 ** (i - 1)) for i in range(1, 6)]
    rows += [stage(f"decoder {i}", 320, 2 ** (i - 1)) for i in (4, 3, 2, 1)]
    edges = chain("image", *(f"encoder {i}" for i in range(1, 6))) + [Edge("decoder 1", "logits")]
    for d in range(1, 5):
        coarser = [f"decoder {i}" for i in range(d + 1, 5)] + ["encoder 5"]
        edges += [Edge(f"encoder {i}", f"decoder {d}", "concatenation") for i in range(1, d + 1)]
        edges += [Edge(name, f"decoder {d}", "concatenation", "interpolation") for name in coarser]
    return rows, edges


def pyramid() -> tuple[list[Stage], list[Edge]]:
    """A trunk, branches of it beside each other, one of them a single cell, and a fusion with the trunk itself."""
    branches = ["1x1", "3x3 rate 6", "3x3 rate 12", "3x3 rate 18"]
    rows = [stage("stem", 64, 4), stage("layer1", 256, 4), stage("layer2", 512, 8), stage("low level", 48, 4)]
    rows += [stage(name, 256, 8) for name in branches] + [Stage("image pooling", 256, 1, 1, 8.0, None, 10, 10)]
    rows += [stage("project", 256, 8), stage("fuse", 256, 4)]
    edges = [*chain("image", "stem", "layer1", "layer2"), Edge("layer1", "low level")]
    for name in (*branches, "image pooling"):
        edges += [Edge("layer2", name), Edge(name, "project", "concatenation")]
    edges += [Edge("layer2", "project", "concatenation"), Edge("project", "fuse", "sum", "interpolation")]
    return rows, [*edges, Edge("low level", "fuse", "sum"), Edge("fuse", "logits", "", "interpolation")]


def dense() -> tuple[list[Stage], list[Edge]]:
    """FC-DenseNet: 23 stages down and up, in pairs of one size."""
    names, rows = ["first convolution"], [stage("first convolution", 48, 1)]
    for i in range(1, 6):
        rows += [stage(f"dense block {i}", 192, 2 ** (i - 1)), stage(f"transition down {i}", 192, 2**i)]
    rows.append(stage("bottleneck", 240, 32))
    for i in range(5, 0, -1):
        rows += [
            stage(f"transition up {6 - i}", 240, 2 ** (i - 1)),
            stage(f"dense block {12 - i}", 1000, 2 ** (i - 1)),
        ]
    names = [row.name for row in rows]
    skips = [Edge(f"dense block {i}", f"dense block {12 - i}", "concatenation") for i in range(1, 6)]
    return rows, chain("image", *names, "logits") + skips


def long_chain() -> tuple[list[Stage], list[Edge]]:
    """25 stages of one size, with a long name."""
    names = [f"convolution number {i} with a name of some length" for i in range(25)]
    return [stage(name, 4096, 8) for name in names], chain("image", *names, "logits")


NETS = {build.__name__: build for build in (nested, full_scale, pyramid, dense, long_chain)}


def edges_of(name: str, **options) -> list[tuple[str, str, str]]:
    model = create_model(name, num_classes=2, **options)
    return [(e.source, e.target, e.join) for e in describe(model, in_channels=3, size=(64, 64)).edges]


def test_edges_of_unet_are_its_figure():
    cat = "concatenation"
    assert edges_of("unet", width=2, depth=4) == [
        ("image", "down 1", ""),
        ("down 1", "down 2", ""),
        ("down 2", "down 3", ""),
        ("down 3", "down 4", ""),
        ("down 3", "up 1", cat),
        ("down 4", "up 1", cat),
        ("down 2", "up 2", cat),
        ("up 1", "up 2", cat),
        ("down 1", "up 3", cat),
        ("up 2", "up 3", cat),
        ("up 3", "head", ""),
        ("head", "logits", ""),
    ]


def test_edges_of_fcn8s_are_sums_of_scores():
    edges = edges_of("fcn8s", fc_channels=4)
    assert [edge for edge in edges if edge[2]] == [
        ("block4", "skip pool4", "sum"),
        ("score", "skip pool4", "sum"),
        ("block3", "skip pool3", "sum"),
        ("skip pool4", "skip pool3", "sum"),
    ]
    assert ("skip pool3", "upsample", "") in edges
    assert len(edges) == 14


class Joined(nn.Module):
    """Pools with indices, an unused-looking identity, a residual, and two joins between the stages."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.same = nn.Identity()
        self.second = nn.Conv2d(4, 4, 1)
        self.third = nn.Conv2d(8, 4, 1)
        self.gate = nn.Conv2d(4, 4, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first = self.same(self.first(image))
        pooled, indices = F.max_pool2d(first, 2, return_indices=True)
        second = self.second(pooled)
        second = second + torch.relu(second)  # no join: one and the same origin
        unpooled = F.max_unpool2d(second, indices, 2)
        third = self.third(torch.cat([first, F.interpolate(pooled, scale_factor=2)], 1))
        return unpooled * torch.sigmoid(self.gate(third))


def test_joins_and_resizes_between_stages():
    described = describe(Joined(), in_channels=1, size=(8, 8))
    assert [row.name for row in described.rows] == ["first", "second", "third", "gate"]
    assert [(e.source, e.target, e.join, e.resize) for e in described.edges] == [
        ("image", "first", "", ""),
        ("first", "second", "", "pool"),
        ("first", "third", "", "pool"),
        ("third", "gate", "", ""),
        ("first", "logits", "indices", "pool"),
        ("second", "logits", "indices", "unpooling"),
        ("gate", "logits", "product", ""),
    ]
    assert described.output == (4, 8, 8)
    assert described.to_json()["edges"][1] == {"source": "first", "target": "second", "join": "", "resize": "pool"}


def test_edges_of_segnet_are_indices_of_its_pools():
    edges = edges_of("segnet", width=2)
    for number in range(1, 6):
        assert (f"encoder {number}", f"pool {number}", "") in edges
        skips = [edge for edge in edges if edge[1] == f"decoder {number}" and not edge[0].startswith("decoder")]
        assert skips == [(f"pool {number}", f"decoder {number}", "indices")]


def test_edges_of_fpn_are_its_ladder():
    edges = edges_of("fpn", encoder="resnet18")
    assert {edge for edge in edges if edge[1].startswith("sum at")} == {
        *((f"1x1 at {stride}", f"sum at {stride}", "sum") for stride in (4, 8, 16)),
        ("sum at 8", "sum at 4", "sum"),
        ("sum at 16", "sum at 8", "sum"),
        ("1x1 at 32", "sum at 16", "sum"),
    }
    assert {edge[0] for edge in edges if edge[1:] == ("classifier", "sum")} == {f"{s} to 4" for s in (4, 8, 16, 32)}


def test_pooled_grids_are_named_by_their_cells():
    rows = [stage("layer", 64, 8), *(Stage(f"bins {n}", 8, n, n, SIDE / n, 99, 10, 10) for n in (6, 3, 2, 1))]
    edges = [Edge("image", "layer"), Edge("layer", "logits")]
    for row in rows[1:]:
        edges += [Edge("layer", row.name), Edge(row.name, "logits", "concatenation", "interpolation")]
    bands = [band.name for band in lay_out(rows, edges, (3, SIDE, SIDE), (21, SIDE, SIDE)).bands]
    assert bands == ["1/1", "1/8", "6 × 6", "3 × 3", "2 × 2", "1 × 1"]


@pytest.mark.parametrize("net", NETS)
def test_no_two_boxes_overlap(net):
    layout = lay_out(*NETS[net](), (3, SIDE, SIDE), (21, SIDE, SIDE))
    for one, other in itertools.combinations(layout.blocks.values(), 2):
        a, b = one.box, other.box
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{one.name} {a} lies on {other.name} {b}"
    for block in layout.blocks.values():
        x0, y0, x1, y1 = block.box
        band = layout.bands[block.row]
        assert x0 >= 0 and x1 <= layout.width and band.top <= y0 and y1 <= band.bottom


@pytest.mark.parametrize("net", NETS)
def test_no_line_lies_on_another(net):
    """Level and upright pieces of two lines may only share a place where the lines share an end."""
    rows, edges = NETS[net]()
    lines = run_lines(lay_out(rows, edges, (3, SIDE, SIDE), (21, SIDE, SIDE)), edges)
    assert [edge for edge, _ in lines] == edges
    pieces = [(edge, piece) for edge, path in lines for piece in straight_pieces(path)]
    for (edge, (axis, at, start, end)), (other, (axis2, at2, start2, end2)) in itertools.combinations(pieces, 2):
        if axis == axis2 and abs(at - at2) < 1 and max(start, start2) < min(end, end2) - 1:
            assert edge.source == other.source or edge.target == other.target, f"{edge} lies on {other}"


def straight_pieces(path: str) -> list[tuple[str, float, float, float]]:
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d", path)]
    points = list(zip(numbers[::2], numbers[1::2]))
    pieces = []
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if y0 == y1:
            pieces.append(("level", y0, min(x0, x1), max(x0, x1)))
        elif x0 == x1:
            pieces.append(("upright", x0, min(y0, y1), max(y0, y1)))
    return pieces


@pytest.mark.parametrize("net", ["nested", "full_scale", "dense", "pyramid"])
def test_lines_are_not_drawn_as_curves_where_a_way_is_free(net):
    rows, edges = NETS[net]()
    lines = run_lines(lay_out(rows, edges, (3, SIDE, SIDE), (21, SIDE, SIDE)), edges)
    assert not [edge for edge, path in lines if "C" in path]


def test_a_u_net_looks_like_a_u():
    described = describe(create_model("unet", width=2, depth=4), in_channels=3, size=(64, 64))
    blocks = lay_out(described.rows, described.edges, (3, 64, 64), described.output).blocks
    down, up = [blocks[f"down {i}"] for i in (1, 2, 3, 4)], [blocks[f"up {i}"] for i in (1, 2, 3)]
    assert [block.y for block in down] == sorted(block.y for block in down)
    assert [block.y for block in up] == [down[2].y, down[1].y, down[0].y]
    assert [b.x for b in down + up] == sorted(b.x for b in down + up)
    assert [block.trend for block in down + up] == [0, -1, -1, -1, 1, 1, 1]
    assert down[0].slab_height > down[3].slab_height
    assert down[0].slab_width < down[3].slab_width


def test_25_stages_fit_a_page():
    rows, edges = dense()
    assert lay_out(rows, edges, (3, SIDE, SIDE), (21, SIDE, SIDE)).width < 1200


@pytest.mark.parametrize("net", NETS)
def test_svg_is_xml_and_names_every_stage(net):
    rows, edges = NETS[net]()
    text = draw("a net", rows, edges, (3, SIDE, SIDE), (21, SIDE, SIDE), parameters=5, multiply_adds=7)
    root = ET.fromstring(text)
    space = {"svg": "http://www.w3.org/2000/svg"}
    titles = [node.text for node in root.findall("svg:g/svg:title", space)]
    assert [title.split(", ")[0] for title in titles] == ["image", *(row.name for row in rows), "logits"]
    assert len(root.findall("svg:path/svg:title", space)) == len(edges)
    assert "prefers-color-scheme: dark" in text


def test_the_page_is_as_wide_as_its_title_and_legend():
    rows, edges = [stage("only", 1, 1)], chain("image", "only", "logits")
    short = draw("a net", rows, edges, (3, 9, 9), (3, 9, 9), parameters=0, multiply_adds=0)
    wide = draw("a net with a title " * 8, rows, edges, (3, 9, 9), (3, 9, 9), parameters=0, multiply_adds=0)
    assert 600 < float(ET.fromstring(short).attrib["width"]) < 720
    assert float(ET.fromstring(wide).attrib["width"]) > 1300


def test_names_are_escaped_and_wrapped():
    text = draw("<net>", [stage("a<b & c", 1, 1)], chain("image", "a<b & c", "logits"), (1, 9, 9), (1, 9, 9),
                parameters=0, multiply_adds=0)  # fmt: skip
    assert ET.fromstring(text)[0].text == "<net>"
    assert wrapped("boundary refinement 2") == ("boundary", "refinement 2")
    assert wrapped("head") == ("head",)
    assert wrapped("aspp 3x3 rate 18") == ("aspp 3x3", "rate 18")
    assert all(len(line) <= 12 for line in wrapped("averyveryverylongnameindeedwithoutblanks and more of it"))
    assert wrapped("averyveryverylongnameindeedwithoutblanks and more of it")[-1].endswith("…")
