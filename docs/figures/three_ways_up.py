"""The pictures of docs/three_ways_up.md: every number in them is computed here, none is typed in.

python docs/figures/three_ways_up.py [FOLDER]      docs/pictures unless a folder is named
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perpixel.layers import bilinear_kernel
from perpixel.layers.unpool import max_pool_places, unpool_places

INK, GREY, PALE, PAPER = "#1f2430", "#7d8797", "#eef1f5", "#ffffff"
BLUE, ORANGE, GREEN, ROSE = "#bcd7f5", "#fbd79a", "#bfe5c8", "#f6c3cf"
PLACE_COLOURS = (BLUE, ORANGE, GREEN, ROSE)  # of the four places of a 2x2 window
FRAME = "#c2356b"


def main() -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 11, "text.color": INK, "font.family": "sans-serif"})
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for make in (three_ways_up, bilinear_kernels, transposed_full_padding, transposed_inserted_zeros, unpooling,
                 dilation):  # fmt: skip
        figure = make(pyplot)
        path = folder / f"{make.__name__}.png"
        figure.savefig(path, dpi=160, facecolor=PAPER, metadata={"Software": ""})
        pyplot.close(figure)
        print(path)


def three_ways_up(pyplot: Any) -> Any:
    """One coarse map and what each way makes of it at twice the size."""
    generator = torch.Generator().manual_seed(7)
    rows, cols = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    fine = torch.exp(-((rows - 2.6) ** 2 + (cols - 3.0) ** 2) / 5) + 0.7 * torch.exp(
        -((rows - 6.0) ** 2 + (cols - 5.6) ** 2) / 3
    )
    fine = fine + 0.08 * torch.rand(8, 8, generator=generator)
    pooled, places = max_pool_places(fine[None, None])
    kernel = torch.tensor([[0.5, 1.0, 0.5], [1.0, 1.2, 1.0], [0.5, 1.0, 0.5]])[None, None] / 2.4
    ways = {
        "a pooled map\n4 x 4": pooled,
        "bilinear\nno weights": F.interpolate(pooled, scale_factor=2, mode="bilinear", align_corners=False),
        "transposed, 3x3, stride 2\nlearned; uneven overlaps": F.conv_transpose2d(pooled, kernel, None, 2, 1, 1),
        "unpooled\nremembered places": unpool_places(pooled, places, (8, 8)),
    }
    figure, axes = pyplot.subplots(1, 4, figsize=(10, 3.1), gridspec_kw={"wspace": 0.12})
    figure.subplots_adjust(left=0.01, right=0.99, top=0.8, bottom=0.03)
    for axis, (title, values) in zip(axes, ways.items()):
        axis.imshow(values[0, 0].numpy(), cmap="viridis", vmin=0, vmax=1.1)
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_axis_off()
    return figure


def bilinear_kernels(pyplot: Any) -> Any:
    """The kernels of factors 2, 3 and 8."""
    figure, axes = pyplot.subplots(1, 3, figsize=(9, 3.4), gridspec_kw={"wspace": 0.1})
    figure.subplots_adjust(left=0.01, right=0.99, top=0.88, bottom=0.02)
    for axis, factor in zip(axes, (2, 3, 8)):
        kernel = bilinear_kernel(factor).numpy()
        size = kernel.shape[0]
        axis.pcolormesh(kernel, cmap="Blues", vmin=0, vmax=1.25, edgecolors=PAPER, linewidth=1.5)
        axis.set_aspect("equal")
        axis.invert_yaxis()
        if size < 8:
            scale = (2 * ((size + 1) // 2)) ** 2 // (1 if factor % 2 == 0 else 4)
            for (row, col), value in np.ndenumerate(kernel):
                colour = PAPER if value > 0.7 else INK
                axis.text(
                    col + 0.5,
                    row + 0.5,
                    f"{value * scale:.0f}/{scale}",
                    ha="center",
                    va="center",
                    color=colour,
                    fontsize=10,
                )
        axis.set_title(f"factor {factor}: {size}x{size}, stride {factor}", loc="left", fontsize=11)
        axis.set_axis_off()
    return figure


def transposed_full_padding(pyplot: Any) -> Any:
    """2x2 -> 4x4: stride 1, a frame of k - 1 zeros, the kernel turned by half a turn."""
    maps = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    kernel = torch.tensor([[1.0, 2.0, 1.0], [3.0, 1.0, 2.0], [2.0, 1.0, 4.0]])
    padded = F.pad(maps, (2, 2, 2, 2))
    result = F.conv_transpose2d(maps[None, None], kernel[None, None])[0, 0]
    figure, axis = _page(pyplot, 23.2, 6.9)
    _grid(axis, 0, 2, maps, BLUE, title="map 2x2")
    _grid(axis, 3.2, 1.5, kernel, ORANGE, title="kernel 3x3")
    turned = kernel.flip(0, 1)
    _grid(axis, 7.4, 1.5, turned, ORANGE, title="turned by 180°")
    _grid(axis, 11.6, 0, padded, PALE, title="map in a frame of k - 1 = 2 zeros", inner=(2, 2, 2, BLUE))
    _frame(axis, 11.6 + 1, 0 + 1, 3)
    _arrow(axis, 17.9, 3.0)
    _grid(axis, 19.0, 1, result, GREEN, title="result 4x4")
    _frame(axis, 19.0 + 1, 1 + 1, 1)
    axis.text(0, 6.4, _sum_text(padded[1:4, 1:4], turned, result[1, 1]), fontsize=11, va="center")
    return figure


def transposed_inserted_zeros(pyplot: Any) -> Any:
    """3x3 -> 5x5: stride 2 becomes a zero between neighbours, padding 1 a frame of k - 1 - p."""
    maps = torch.arange(1.0, 10.0).reshape(3, 3)
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 4
    spread = torch.zeros(7, 7)
    spread[1:6:2, 1:6:2] = maps
    result = F.conv_transpose2d(maps[None, None], kernel[None, None], None, 2, 1)[0, 0]
    figure, axis = _page(pyplot, 21.8, 7.9)
    _grid(axis, 0, 2, maps, BLUE, title="map 3x3")
    _grid(axis, 4.2, 2, kernel, ORANGE, title="kernel 3x3", digits=2, size=9)
    colours = [
        [PALE if {row, col} & {0, 6} else BLUE if row % 2 and col % 2 else ROSE for col in range(7)] for row in range(7)
    ]
    title = "a zero between neighbours, a frame of k - 1 - p = 1"
    _grid(axis, 8.4, 0, spread, PALE, title=title, colours=colours)
    _frame(axis, 8.4 + 1, 0 + 2, 3)
    _arrow(axis, 15.6, 3.5)
    _grid(axis, 16.7, 1, result, GREEN, title="result 5x5")
    _frame(axis, 16.7 + 1, 1 + 2, 1)
    axis.text(0, 7.45, _sum_text(spread[2:5, 1:4], kernel, result[2, 1]), fontsize=11, va="center")
    return figure


def unpooling(pyplot: Any) -> Any:
    """4x4 -> values and places 2x2 -> 4x4."""
    maps = torch.tensor([[3.0, 5, 0, 1], [2, 4, 1, 0], [1, 0, 2, 3], [7, 6, 5, 8]])
    values, places = max_pool_places(maps[None, None])
    unpooled = unpool_places(values, places, (4, 4))[0, 0]
    chosen = [[PLACE_COLOURS[int(place)] for place in row] for row in places[0, 0]]
    figure, axis = _page(pyplot, 19.2, 6.4)
    spread = _at_places(places[0, 0], chosen)
    _grid(axis, 0, 1, maps, PALE, title="before the pool, 4x4", colours=spread)
    _windows(axis, 0, 1)
    _arrow(axis, 4.5, 3)
    _grid(axis, 5.9, 0.4, values[0, 0], PAPER, title="values", colours=chosen)
    _grid(axis, 5.9, 3.9, places[0, 0].float(), PAPER, title="places", colours=chosen)
    axis.text(8.3, 1.4, "convolutions", fontsize=10, color=GREY, va="center")
    axis.text(8.3, 4.9, "kept aside", fontsize=10, color=GREY, va="center")
    _arrow(axis, 11.0, 1.4)
    _arrow(axis, 11.0, 4.9)
    _grid(axis, 12.4, 1, unpooled, PALE, title="unpooled, 4x4", colours=spread)
    _windows(axis, 12.4, 1)
    for number, colour in enumerate(PLACE_COLOURS):
        row, col = divmod(number, 2)
        _cell(axis, 17.0 + col, 2.0 + row, number, colour)
    axis.text(16.9, 1.7, "key to places", fontsize=10, color=GREY)
    return figure


def _at_places(places: Tensor, chosen: list[list[str]]) -> list[list[str]]:
    """The colour of every 2x2 window at its place in it."""
    colours = [[PALE] * 4 for _ in range(4)]
    for row in range(2):
        for col in range(2):
            down, right = divmod(int(places[row, col]), 2)
            colours[2 * row + down][2 * col + right] = chosen[row][col]
    return colours


def dilation(pyplot: Any) -> Any:
    """3x3 kernels with dilations 1, 2, 4 after one another: fields of 3, 7 and 15 pixels from nine weights each."""
    side, middle = 17, 8
    figure, axes = pyplot.subplots(1, 3, figsize=(9.6, 3.6), gridspec_kw={"wspace": 0.06})
    figure.subplots_adjust(left=0.01, right=0.99, top=0.83, bottom=0.03)
    paths = torch.zeros(1, 1, side, side, dtype=torch.float64)
    paths[0, 0, middle, middle] = 1
    field = 1
    for axis, step in zip(axes, (1, 2, 4)):
        ones = torch.ones(1, 1, 3, 3, dtype=torch.float64)
        paths = F.conv2d(paths, ones, padding=step, dilation=step)
        field += 2 * step
        seen = (paths[0, 0] > 0).numpy()
        axis.imshow(np.where(seen, 1.0, 0.0), cmap=matplotlib.colors.ListedColormap([PALE, BLUE]), vmin=0, vmax=1)
        axis.set_xticks(np.arange(side + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(side + 1) - 0.5, minor=True)
        axis.grid(which="minor", color=PAPER, linewidth=1)
        axis.tick_params(which="both", length=0, labelleft=False, labelbottom=False)
        for spine in axis.spines.values():
            spine.set_visible(False)
        taps = [middle - step, middle, middle + step]
        axis.scatter(*np.meshgrid(taps, taps), s=34, color=FRAME, zorder=3)
        axis.set_title(f"dilation {step}: taps {step} apart\nsees {field} x {field} so far", loc="left", fontsize=11)
    return figure


def _page(pyplot: Any, width: float, height: float) -> tuple[Any, Any]:
    """A page measured in cells, with room for titles above."""
    figure, axis = pyplot.subplots(figsize=(width * 0.47, (height + 0.9) * 0.47))
    figure.subplots_adjust(left=0, right=1, top=1, bottom=0)
    axis.set_xlim(-0.3, width)
    axis.set_ylim(height, -0.9)
    axis.set_aspect("equal")
    axis.set_axis_off()
    return figure, axis


def _grid(
    axis: Any,
    x: float,
    y: float,
    values: Tensor,
    colour: str,
    *,
    title: str,
    inner: tuple[int, int, int, str] | None = None,
    colours: list[list[str]] | None = None,
    digits: int = 0,
    size: float = 11,
) -> None:
    """Values in cells; `inner` (row, col, side, colour) is a square of another colour."""
    for row in range(values.shape[0]):
        for col in range(values.shape[1]):
            fill = colours[row][col] if colours else colour
            if inner and inner[0] <= row < inner[0] + inner[2] and inner[1] <= col < inner[1] + inner[2]:
                fill = inner[3]
            _cell(axis, x + col, y + row, values[row, col].item(), fill, digits=digits, size=size)
    axis.text(x, y - 0.25, title, fontsize=10, color=GREY)


def _cell(axis: Any, x: float, y: float, value: float, colour: str, *, digits: int = 0, size: float = 11) -> None:
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor=PAPER, linewidth=1.5))
    text = f"{value:.{digits}f}" if digits else f"{value:g}"
    is_zero = value == 0 and colour in (PALE, ROSE)
    axis.text(x + 0.5, y + 0.52, text, ha="center", va="center", fontsize=size, color=GREY if is_zero else INK)


def _frame(axis: Any, x: float, y: float, side: int) -> None:
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=FRAME, linewidth=2.4, zorder=4))


def _windows(axis: Any, x: float, y: float) -> None:
    from matplotlib.patches import Rectangle

    for row in range(2):
        for col in range(2):
            place = (x + 2 * col, y + 2 * row)
            axis.add_patch(Rectangle(place, 2, 2, fill=False, edgecolor=INK, linewidth=1.2, zorder=4))


def _arrow(axis: Any, x: float, y: float) -> None:
    style = {"arrowstyle": "-|>", "color": GREY, "linewidth": 1.6, "mutation_scale": 14}
    axis.annotate("", xy=(x + 0.95, y), xytext=(x, y), arrowprops=style)


def _sum_text(window: Tensor, kernel: Tensor, result: Tensor) -> str:
    """The framed cell as the sum that it is, zeros left out."""
    terms = [
        f"{value:g} · {weight:g}"
        for value, weight in zip(window.flatten().tolist(), kernel.flatten().tolist())
        if value and weight
    ]
    return f"framed: {' + '.join(terms)} = {result.item():g}"


if __name__ == "__main__":
    main()
