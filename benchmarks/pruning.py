"""What does a U-Net++ lose, and what does it save, when it is pruned to level 1, 2 or 3?

    perpixel train DATA -O deep_supervision=true --model unet_plus_plus --budget 1h --out RUN
    python benchmarks/pruning.py RUN

One row a level: parameters, multiply-adds and milliseconds for an image of the bundle's tile (the median of rounds in
which every level has its turn, so that a busy machine is busy for all), and the mIoU on the test images. The last row
is the full net with the mean of its heads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import perpixel
from perpixel.apps.options import parse_size
from perpixel.inference.predictor import Predictor
from perpixel.models.describe import describe

LEVELS = (1, 2, 3, 4)
ALL_HEADS = "mean of heads"


@dataclass(frozen=True)
class Row:
    level: str
    parameters: int
    multiply_adds: int
    milliseconds: float
    miou: float | None


def measure(
    run: Path, data: Path | None = None, *, split: str = "test", rounds: int = 15, size: tuple[int, int] | None = None
) -> list[Row]:
    """The rows of the table for a run or bundle; `data` is needed where the run does not say it.

    Raises:
        InputError: not a U-Net++ that was trained with deep supervision.
    """
    levels = {f"L{level}": level for level in LEVELS} | {ALL_HEADS: None}
    predictors = {name: perpixel.load(run, device="cpu", prune_level=level) for name, level in levels.items()}
    height, width = size or predictors[ALL_HEADS].config.tile
    times = milliseconds(predictors, (height, width), rounds)
    rows = []
    for name, level in levels.items():
        model, channels = predictors[name].model, predictors[name].config.channels
        costs = describe(model, in_channels=channels, size=(height, width))
        with tempfile.TemporaryDirectory() as folder:
            scores = perpixel.evaluate(run, data, split=split, prune_level=level, out=Path(folder) / "scores").scores
        rows.append(Row(name, costs.parameters, costs.multiply_adds, times[name], scores["scores"]["miou"]))
    return rows


def milliseconds(predictors: dict[str, Predictor], size: tuple[int, int], rounds: int) -> dict[str, float]:
    """Median time of `predict` on one noise image of `size` (height, width), after a first call that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in predictors}
    for number in range(rounds + 1):
        for name, predictor in predictors.items():
            shape = (*size, predictor.config.channels)
            image = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
            began = time.perf_counter()
            predictor.predict(image)
            times[name].append(time.perf_counter() - began)
    return {name: 1000 * statistics.median(values[1:]) for name, values in times.items()}


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = ["| level | parameters | multiply-adds | ms an image | mIoU |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        miou = "-" if row.miou is None else f"{row.miou:.4f}"
        counts = f"{row.parameters:,} | {row.multiply_adds / 1e9:.2f}G"
        lines.append(f"| {row.level} | {counts} | {row.milliseconds:.1f} | {miou} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run or bundle of a unet_plus_plus trained with deep supervision")
    parser.add_argument("--data", type=Path, help="data set, where the run does not say it")
    parser.add_argument("--split", default="test")
    parser.add_argument("--size", help="HEIGHTxWIDTH of the timed image; default: the bundle's tile")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    size = parse_size(options.size, "--size", "HEIGHTxWIDTH") if options.size else None
    rows = measure(options.run, options.data, split=options.split, rounds=options.rounds, size=size)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
