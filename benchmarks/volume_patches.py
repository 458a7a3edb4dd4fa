"""Patches of volumes: how many a second one thread draws, and the warp against torch's grid_sample.

    python benchmarks/volume_patches.py
    python benchmarks/volume_patches.py --patch 128x128x128 --rounds 10

Printed are seconds of processor time, which other processes disturb less than the clock: the warp of image and label
map (rotated, and rotated and bent) and torch's form of the same rotation (affine_grid, then grid_sample of the image
linearly and of the label map to the nearest voxel), medians of interleaved rounds; then each change of values; then
patches a second of whole draws, without changes, with nnU-Net's, and with every change made at every draw.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from perpixel.data.synthetic import draw_volume
from perpixel.data.volume_batches import VolumeCrops
from perpixel.data.volume_transforms import (
    NNUNET_AUGMENTATION,
    NO_VOLUME_AUGMENTATION,
    VolumeAugmentation,
    change_values,
    draw_volume_values,
    turn_matrix,
)
from perpixel.data.volume_warp import CONTROLS, VolumeGeometry, warp_volume

Patch = tuple[int, int, int]
EVERY_CHANGE = replace(
    NNUNET_AUGMENTATION,
    elastic=0.1,
    **{
        f"{name}_chance": 1.0
        for name in ("rotate", "scale", "elastic", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma")
    },
)


def scene(patch: Patch) -> tuple[np.ndarray, np.ndarray]:
    """(1, D, H, W) float32 around zero and (D, H, W) uint8, a quarter wider than the patch: drawn cells."""
    depth, height, width = (side + side // 4 for side in patch)
    drawn = draw_volume(0, (depth, height, width))
    image = drawn.image.astype(np.float32)[None]
    return (image - image.mean()) / image.std(), drawn.label_map


def seconds(forms: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median processor time of each form, in interleaved rounds; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(rounds + 1):
        for name, form in forms.items():
            began = time.process_time()
            form()
            if number:
                times[name].append(time.process_time() - began)
    return {name: statistics.median(each) for name, each in times.items()}


def torch_warp(image: np.ndarray, label_map: np.ndarray, geometry: VolumeGeometry, patch: Patch) -> object:
    """The same warp by torch, whose places run from -1 to 1 and are (column, row, depth)."""
    source, target = np.array(label_map.shape), np.array(patch)
    linear = geometry.matrix[:, :3] * (target / source[:, None])
    start = (2 * (geometry.matrix[:, 3] + geometry.matrix[:, :3] @ ((target - 1) / 2)) + 1) / source - 1
    theta = np.concatenate([linear[::-1, ::-1], start[::-1, None]], axis=1).astype(np.float32)
    grid = F.affine_grid(torch.from_numpy(theta)[None], [1, 1, *patch], align_corners=False)
    moved = F.grid_sample(torch.from_numpy(image)[None], grid, align_corners=False)
    labels = torch.from_numpy(label_map.astype(np.float32))[None, None]
    target_map = F.grid_sample(labels, grid, mode="nearest", align_corners=False)
    return moved[0].numpy(), target_map[0, 0].to(torch.uint8).numpy()


def show_warps(image: np.ndarray, label_map: np.ndarray, patch: Patch, rounds: int) -> None:
    turn = turn_matrix((20, 15, 10))
    start = (np.array(label_map.shape) - 1) / 2 - turn @ ((np.array(patch) - 1) / 2)
    turned = VolumeGeometry(np.concatenate([turn, start[:, None]], axis=1))
    bent = VolumeGeometry(
        turned.matrix, np.random.default_rng(0).normal(0, 2, (3, CONTROLS, CONTROLS, CONTROLS)).astype(np.float32)
    )
    ours, theirs = warp_volume(image, label_map, turned, patch)[0], torch_warp(image, label_map, turned, patch)[0]
    times = seconds(
        {
            "turned": lambda: warp_volume(image, label_map, turned, patch),
            "turned and bent": lambda: warp_volume(image, label_map, bent, patch),
            "grid_sample, turned": lambda: torch_warp(image, label_map, turned, patch),
        },
        rounds,
    )
    for name, value in times.items():
        print(f"  warp, {name:22} {1e3 * value:8.2f} ms  ({value / times['turned']:.2f}x)")
    print(f"  largest difference of the images: {np.abs(ours - theirs).max():.1e}")


def show_values(image: np.ndarray, rounds: int) -> None:
    off = replace(NO_VOLUME_AUGMENTATION, **{k: 1.0 for k in vars(NO_VOLUME_AUGMENTATION) if k.endswith("_chance")})
    wanted = {
        name: getattr(NNUNET_AUGMENTATION, name) for name in ("noise", "blur", "contrast", "low_resolution", "gamma")
    }
    forms: dict[str, Callable[[], object]] = {}
    for name, value in wanted.items():
        ranges = replace(off, inverted_gamma_chance=0.0, **{name: value})
        values = draw_volume_values(np.random.default_rng(0), ranges, 1)
        forms[name] = lambda values=values: change_values(image.copy(), values, rng=np.random.default_rng(1))  # type: ignore[misc]
    for name, time_s in seconds(forms, rounds).items():
        print(f"  {name:28} {1e3 * time_s:8.2f} ms")


def show_draws(image: np.ndarray, label_map: np.ndarray, patch: Patch, draws: int) -> None:
    sets: dict[str, VolumeAugmentation] = {
        "cut only": NO_VOLUME_AUGMENTATION,
        "nnU-Net's changes": NNUNET_AUGMENTATION,
        "every change at every draw": EVERY_CHANGE,
    }
    for name, ranges in sets.items():
        crops = VolumeCrops(
            lambda _: (image, label_map), ["drawn"], num_classes=4, patch=patch, augmentation=ranges, seed=0
        )
        crops[0, 1]
        began = time.process_time()
        for draw in range(draws):
            crops[draw, 1]
        print(f"  {name:28} {draws / (time.process_time() - began):8.1f} patches/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patch", action="append", help="such as 40x56x40; may come several times")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--draws", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for text in options.patch or ["40x56x40", "128x128x128"]:
        depth, height, width = (int(side) for side in text.split("x"))
        patch = (depth, height, width)
        image, label_map = scene(patch)
        print(f"patch {text}, one channel, one thread")
        show_warps(image, label_map, patch, options.rounds)
        show_values(np.ascontiguousarray(image[:, :depth, :height, :width]), options.rounds)
        show_draws(image, label_map, patch, options.draws)


if __name__ == "__main__":
    main()
