"""The picture of a classifier made convolutional: 36 windows of an image against one pass over it.

    python docs/figures/convolutionalise.py docs/pictures/convolutionalise.png

A small classifier learns to tell whether the pixel in the middle of a 224 x 224 window belongs to a cell. It is then
asked 36 times, window by window, and once in its convolutional form. Everything but the two times is the same in every
run on one machine.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.data.synthetic import draw_scene
from perpixel.layers import convolutionalise

WINDOW, STEP, SIDE = 224, 32, 384
CELLS = (SIDE - WINDOW) // STEP + 1
SCENES, WINDOWS_A_SCENE, EPOCHS, BATCH = 48, 24, 8, 32
INK, ACCENT = "#1f2430", "#ffd23f"


@dataclass(frozen=True)
class Answers:
    """Both ways to ask: probabilities (6, 6) of a cell, the largest difference of any logit, and seconds."""

    image: np.ndarray
    windows: np.ndarray
    one_pass: np.ndarray
    difference: float
    windows_s: float
    one_pass_s: float


def make_classifier() -> nn.Sequential:
    """224 x 224 -> 7 x 7 at stride 32 without padding -> is the middle a cell?"""
    widths = (3, 32, 64, 128, 128)
    convs = [
        part
        for number, (before, width) in enumerate(pairwise(widths))
        for part in (nn.Conv2d(before, width, 4 if number == 0 else 2, 4 if number == 0 else 2), nn.ReLU())
    ]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(128 * 49, 64), nn.ReLU(), nn.Linear(64, 2))


def load_scene(seed: int) -> tuple[Tensor, np.ndarray]:
    """Image (3, 384, 384) around zero, and where cells are (384, 384)."""
    scene = draw_scene(seed, (SIDE, SIDE))
    return torch.from_numpy(scene.image).permute(2, 0, 1) / 255 - 0.3, scene.label_map > 0


def learn(classifier: nn.Sequential) -> None:
    """Windows at random places of drawn scenes, half of them with a cell in the middle."""
    rng = np.random.default_rng(0)
    windows, targets = [], []
    for seed in range(1, SCENES + 1):
        image, is_cell = load_scene(seed)
        middle = is_cell[WINDOW // 2 : WINDOW // 2 + SIDE - WINDOW, WINDOW // 2 : WINDOW // 2 + SIDE - WINDOW]
        for number in range(WINDOWS_A_SCENE):
            places = np.argwhere(middle == number % 2)
            row, col = places[rng.integers(len(places))]
            windows.append(image[:, row : row + WINDOW, col : col + WINDOW])
            targets.append(number % 2)
    labels = torch.tensor(targets)
    optimizer = torch.optim.Adam(classifier.parameters(), 1e-3)
    for _ in range(EPOCHS):
        for chosen in rng.permutation(len(windows)).reshape(-1, BATCH):
            batch = torch.stack([windows[index] for index in chosen])
            loss = F.cross_entropy(classifier(batch), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def window_by_window(classifier: nn.Module, image: Tensor) -> Tensor:
    """Logits (2, 6, 6), one window at a time."""
    answers = [
        classifier(image[..., row : row + WINDOW, col : col + WINDOW])[0]
        for row in range(0, STEP * CELLS, STEP)
        for col in range(0, STEP * CELLS, STEP)
    ]
    return torch.stack(answers, dim=1).reshape(2, CELLS, CELLS)


def seconds(*ways: Callable[[], Tensor], rounds: int = 25) -> list[float]:
    """Processor time of each way on one thread, the median of several rounds in which they take turns."""
    torch.set_num_threads(1)
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, taken in zip(ways, times):
            began = time.process_time()  # other processes on the machine do not count
            way()
            taken.append(time.process_time() - began)
    return [statistics.median(taken) for taken in times]


def compare() -> Answers:
    """Train the classifier, ask it in both ways, and time both."""
    torch.manual_seed(0)
    classifier = make_classifier()
    learn(classifier)
    classifier.eval()
    made = convolutionalise(classifier, input_size=WINDOW)
    image, _ = load_scene(0)
    batch = image[None]
    with torch.no_grad():
        windows, one_pass = window_by_window(classifier, batch), made(batch)[0]
        windows_s, one_pass_s = seconds(lambda: window_by_window(classifier, batch), lambda: made(batch))
    return Answers(
        image=draw_scene(0, (SIDE, SIDE)).image,
        windows=windows.softmax(0)[1].numpy(),
        one_pass=one_pass.softmax(0)[1].numpy(),
        difference=(windows - one_pass).abs().max().item(),
        windows_s=windows_s,
        one_pass_s=one_pass_s,
    )


def draw(answers: Answers, out: Path) -> None:
    """Image with two of the windows | 36 answers | the answers of one pass."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 10, "text.color": INK, "axes.edgecolor": INK, "axes.titlelocation": "left"})
    figure, axes = pyplot.subplots(1, 3, figsize=(9, 3.6), gridspec_kw={"wspace": 0.1})
    figure.subplots_adjust(left=0.012, right=0.935, top=0.85, bottom=0.09)
    _draw_image(axes[0], answers.image)
    faster = answers.windows_s / answers.one_pass_s
    titles = (
        f"{CELLS * CELLS} windows, one by one\n{1000 * answers.windows_s:.0f} ms on one core",
        f"one pass of the convolutional form\n{1000 * answers.one_pass_s:.1f} ms, {faster:.0f} times as fast",
    )
    for axis, values, title in zip(axes[1:], (answers.windows, answers.one_pass), titles):
        shown = axis.imshow(values, cmap="viridis", vmin=0, vmax=1)
        for (row, col), value in np.ndenumerate(values):
            axis.text(col, row, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.6 else INK)
        axis.set_title(title)
        axis.set_xticks([])
        axis.set_yticks([])
    place = axes[2].get_position()
    bar = figure.colorbar(shown, cax=figure.add_axes((0.945, place.y0, 0.014, place.height)), ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    figure.text(
        0.012, 0.035, f"Probability of a cell in the middle of each window (dots). "
        f"Largest difference of the two ways in any of the {2 * CELLS * CELLS} logits: {answers.difference:.1e}.",
    )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=200)
    pyplot.close(figure)


def _draw_image(axis: matplotlib.axes.Axes, image: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    axis.imshow(image)
    for row, col, style in ((0, 0, "-"), (0, STEP, (0, (4, 3)))):
        axis.add_patch(
            Rectangle((col, row), WINDOW, WINDOW, fill=False, edgecolor=ACCENT, linewidth=2, linestyle=style)
        )
    middles = WINDOW / 2 + STEP * np.arange(CELLS)
    cols, rows = np.meshgrid(middles, middles)
    axis.scatter(cols, rows, s=16, color=ACCENT, edgecolors=INK, linewidths=0.6, zorder=3)
    axis.set_xlim(-3, SIDE)
    axis.set_ylim(SIDE, -3)
    axis.set_axis_off()
    axis.set_title(f"{SIDE} x {SIDE} pixels\nwindows of {WINDOW}, {STEP} apart")


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/pictures/convolutionalise.png")
    answers = compare()
    draw(answers, out)
    times = f"{CELLS * CELLS} windows {1000 * answers.windows_s:.1f} ms, one pass {1000 * answers.one_pass_s:.1f} ms"
    print(f"{out}: {times}, largest difference {answers.difference:.1e}")


if __name__ == "__main__":
    main()
