"""What one pass saves: the patch CNN window by window against all its windows at once, on one image.

    python benchmarks/patches.py --side 48
    python benchmarks/patches.py --image slice.png --window 65

Both forms have the same weights and give the same numbers; the largest difference is printed. The window-by-window form
takes a second for a hundred pixels or fewer, so the image is cut to `--side` from its top left corner.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perpixel.data.synthetic import draw_scene
from perpixel.images import read_image
from perpixel.models import create_model
from perpixel.models.describe import describe
from perpixel.models.stages import short_count


def load(path: Path | None, side: int) -> Tensor:
    """(1, C, side, side) float around zero, of a file or of drawn cells in grey."""
    array = draw_scene(0, (side, side)).image.max(-1) if path is None else read_image(path)
    image = torch.from_numpy(np.atleast_3d(array)[:side, :side].astype(np.float32)).permute(2, 0, 1)[None]
    return (image - image.mean()) / image.std().clamp_min(1e-6)


def seconds(answer: Callable[[Tensor], Tensor], image: Tensor, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        answer(image)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, help="an image file; drawn cells where none is given")
    parser.add_argument("--side", type=int, default=48, help="pixels on a side that are classified")
    parser.add_argument("--window", type=int, default=95, choices=(95, 65))
    parser.add_argument("--rounds", type=int, default=3, help="repeats of the dense form; the naive one runs once")
    options = parser.parse_args()
    image = load(options.image, options.side)
    channels, (height, width) = image.shape[1], image.shape[2:]
    torch.manual_seed(0)
    dense, naive = (
        create_model("patch_cnn", in_channels=channels, num_classes=2, window=options.window, form=form).eval()
        for form in ("dense", "sliding")
    )
    naive.load_state_dict(dense.state_dict())
    costs = [describe(model, in_channels=channels, size=(height, width)).multiply_adds for model in (naive, dense)]
    with torch.no_grad():
        expected = dense(image)  # warms up as well
        dense_s = seconds(dense, image, options.rounds)
        began = time.perf_counter()
        answers = naive(image)
        naive_s = time.perf_counter() - began
    print(f"{height} x {width} pixels, windows of {options.window}, {torch.get_num_threads()} thread(s)")
    for name, taken, cost in (("window by window", naive_s, costs[0]), ("all at once", dense_s, costs[1])):
        print(f"{name:>17}: {taken:8.2f} s, {short_count(cost)} multiply-adds, {height * width / taken:,.0f} pixels/s")
    print(f"{naive_s / dense_s:.0f} times as fast, largest difference {(answers - expected).abs().max():.1e}")


if __name__ == "__main__":
    main()
