"""Watershed objects: time of a training step, of its parts, of prediction, and of the grouping.

    python benchmarks/watershed.py
    python benchmarks/watershed.py --size 1024x1024 --objects 2000 --rounds 5

Printed are medians of interleaved rounds, in milliseconds: the step of `unet_watershed` (forward, loss, backward) in
fp32 and in bf16, both channels_last, and their ratio; the targets of a crop; maps and grouping of an image of `--size`,
with the objects found; and the grouping alone without the compiled loop on a quarter of the sides.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from perpixel.data.object_targets import object_targets
from perpixel.engine.watershed import WatershedBatch, WatershedLoss
from perpixel.labels import Grouping, group_objects, watershed
from perpixel.models.unet_watershed import UNetWatershed


def cells(size: tuple[int, int], count: int, seed: int = 0) -> np.ndarray:
    """(H, W) int32 discs that touch, numbered."""
    random = np.random.default_rng(seed)
    radius = 0.45 * np.sqrt(size[0] * size[1] / count)
    numbers = np.zeros(size, np.int32)
    for number in range(1, count + 1):
        row, col = random.uniform(0, size[0]), random.uniform(0, size[1])
        top, left = max(0, int(row - radius)), max(0, int(col - radius))
        rows, cols = np.mgrid[top : int(row + radius) + 1, left : int(col + radius) + 1]
        inside = (np.hypot(rows - row, cols - col) < radius) & (rows < size[0]) & (cols < size[1])
        part = (rows[inside], cols[inside])
        numbers[part] = np.where(numbers[part] == 0, number, numbers[part])
    kept = np.unique(numbers)
    return np.searchsorted(kept, numbers).astype(np.int32)


def medians(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each, one after the other in every round; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for round_number in range(rounds + 1):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            if round_number:
                times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


def training(width: int, depth: int, crop: int, batch_size: int) -> dict[str, Callable[[], object]]:
    """Steps in both precisions, and the targets of one crop."""
    model = UNetWatershed(3, 2, width=width, depth=depth).to(memory_format=torch.channels_last).train()
    numbers = cells((crop, crop), 40)
    one = (numbers[None], np.ones(int(numbers.max()), np.int64), np.zeros(int(numbers.max()), bool))
    targets = object_targets(*one)
    image = torch.rand(batch_size, 3, crop, crop).contiguous(memory_format=torch.channels_last)
    target, height = torch.from_numpy(targets.label_map), torch.from_numpy(targets.height)
    maps = (each.expand(batch_size, crop, crop) for each in (target, height, torch.from_numpy(targets.contact).long()))
    batch, loss = WatershedBatch(image, *maps, []), WatershedLoss()

    def step(is_bf16: bool) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
            outputs = model(image)
        loss(outputs, batch).backward()
        model.zero_grad()

    return {"step fp32": lambda: step(False), "step bf16": lambda: step(True), "targets": lambda: object_targets(*one)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--crop", type=int, default=192)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    height, width = (int(side) for side in arguments.size.split("x"))
    torch.manual_seed(0)
    found = medians(training(arguments.width, arguments.depth, arguments.crop, arguments.batch), arguments.rounds)
    for name, value in found.items():
        print(f"{name:28} {value:9.1f} ms")
    print(f"{'fp32 / bf16':28} {found['step fp32'] / found['step bf16']:9.2f}")

    numbers = cells((height, width), arguments.objects)
    truth = object_targets(numbers[None], np.ones(int(numbers.max()), np.int64), np.zeros(int(numbers.max()), bool))
    probs = np.stack([truth.label_map == 0, truth.label_map == 1]).astype(np.float32)
    contact = truth.contact.astype(np.float32)
    model = UNetWatershed(3, 2, width=arguments.width, depth=arguments.depth)
    model = model.to(memory_format=torch.channels_last).eval()
    image = torch.rand(1, 3, height, width).contiguous(memory_format=torch.channels_last)

    def maps() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model.maps(image)

    tasks = {"maps bf16": maps, "grouping": lambda: group_objects(probs, truth.height, contact, Grouping())}
    for name, value in medians(tasks, arguments.rounds).items():
        print(f"{name:28} {value:9.1f} ms   {height} x {width}, {int(numbers.max())} objects")
    small = (slice(height // 4), slice(width // 4))
    part = (probs[:, *small], truth.height[small], contact[small], Grouping())
    compiled = watershed._compiled_flood
    plain = medians({"compiled": lambda: group_objects(*part)}, arguments.rounds)
    watershed._compiled_flood = lambda: None  # type: ignore[assignment]
    plain |= medians({"not compiled": lambda: group_objects(*part)}, 1)
    watershed._compiled_flood = compiled
    for name, value in plain.items():
        print(f"{'grouping, ' + name:28} {value:9.1f} ms   {height // 4} x {width // 4}")
    whole = group_objects(probs, truth.height, contact, Grouping())
    print(f"{len(whole)} objects from the maps of {int(numbers.max())}")


if __name__ == "__main__":
    main()
