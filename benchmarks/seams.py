"""Objects cut by tiles: how many are missed, false, merged or split after the tiles have been put together.

    python benchmarks/seams.py --data ../shared/data/nuclei --images 50 --tile 96

Detectors are given, not learnt, so that what is counted is the seams: the truth cut to each window; the same with
pieces as objects of their own; and one that errs as nets do, differently in each window (outlines move by `--shift`
pixels, what is seen less than half is often dropped, 2 % of the objects are missed and as many found where there is
nothing). Printed for each: errors of the whole image seen at once, of tiles put together by `merge_tiles`, and of two
simple ways: greedy suppression of all that overlap at IoU 0.5, and every tile's own core alone; the time of merging.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from perpixel.data.instances import open_instances
from perpixel.inference.instance_tiles import merge_tiles
from perpixel.inference.instance_views import Tile, Views, gather_views, tile_image
from perpixel.labels import Instances, Runs, cut_runs, overlaps
from perpixel.metrics import object_errors

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "inference"))
from object_scenes import draw_scene, look, look_as_a_net, look_in_pieces

Found = Sequence[Instances]


def suppress(size: tuple[int, int], tiles: Sequence[Tile], found: Found) -> Instances:
    """All views, the best first, without those that overlap a better one at IoU 0.5."""
    views = gather_views(size, tiles, found)
    masks = views.found.masks
    rows, cols, shared = overlaps(masks, masks)
    near = shared / (masks.areas[rows] + masks.areas[cols] - shared) >= 0.5
    order = np.argsort(-views.scores, kind="stable")
    gone = np.zeros(len(views), bool)
    for view in order:
        if not gone[view]:
            rivals = cols[near & (rows == view)]
            gone[rivals[rivals != view]] = True
    return as_instances(views, ~gone)


def cores(size: tuple[int, int], tiles: Sequence[Tile], found: Found) -> Instances:
    """What each tile sees in its own core."""
    views = gather_views(size, tiles, found)
    parts = [cut_runs(views.found.masks.take(views.tiles == n), tile.core) for n, tile in enumerate(tiles)]
    masks = Runs.join(size, [part.of(i) for part in parts for i in range(len(part))])
    whole = Instances.of(masks, views.found.classes)
    return whole.take(masks.areas > 0)


def as_instances(views: Views, kept: np.ndarray) -> Instances:
    return Instances.of(views.found.masks.take(kept), views.found.classes[kept])


def connected(scene: Instances) -> Instances:
    return look_in_pieces(scene, tile_image(scene.size, scene.size, 0.25)[0])


def measure(
    scenes: Sequence[Instances], tile: int, overlap: float, see: Callable[[Instances, Tile], Instances]
) -> None:
    totals: dict[str, Counter] = {}
    seconds, cut, longest = 0.0, 0, 0.0
    for scene in scenes:
        whole = tile_image(scene.size, scene.size, overlap)
        tiles = tile_image(scene.size, (tile, tile), overlap)
        found = [see(scene, each) for each in tiles]
        began = time.perf_counter()
        merged = merge_tiles(scene.size, tiles, found)
        longest = max(longest, time.perf_counter() - began)
        seconds += time.perf_counter() - began
        cut += cut_objects(scene, tiles)
        results = {
            "whole image": see(scene, whole[0]),
            "merge_tiles": merged,
            "suppression": suppress(scene.size, tiles, found),
            "cores alone": cores(scene.size, tiles, found),
        }
        for name, result in results.items():
            counts = object_errors(result, scene).counts()
            wrong = counts["predicted"] == counts["true"] == counts["matched"] and same(result, scene)
            totals.setdefault(name, Counter()).update(counts | {"exact images": int(wrong)})
    print(f"  {len(scenes)} images, {cut} objects reach over a border of cores")
    print(f"  {1000 * seconds / len(scenes):.1f} ms an image to merge, {1000 * longest:.0f} ms the slowest")
    names = ["true", "predicted", "matched", "missed", "false", "merged", "split", "exact images"]
    print("  " + " " * 12 + "".join(f"{name:>14}" for name in names))
    for way, counts in totals.items():
        print(f"  {way:12}" + "".join(f"{counts[name]:>14}" for name in names))


def cut_objects(scene: Instances, tiles: Sequence[Tile]) -> int:
    seen = sum((cut_runs(scene.masks, tile.core).areas > 0).astype(int) for tile in tiles)
    return int((seen > 1).sum())


def same(one: Instances, other: Instances) -> bool:
    masks = [{(int(o.classes[i]), o.masks.of(i).tobytes()) for i in range(len(o))} for o in (one, other)]
    return masks[0] == masks[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a data set of instances; drawn scenes where left out")
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--tile", type=int, default=96)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--shift", type=float, default=1.0)
    given = parser.parse_args()
    if given.data is None:
        drawn = (draw_scene(seed, (400, 500), 160, overlapping=seed % 2 == 0) for seed in range(given.images))
        scenes = [connected(scene) for scene in drawn]
    else:
        dataset = open_instances(given.data)
        samples = dataset.split(given.split)[: given.images]
        scenes = [connected(dataset.load_instances(sample).without_crowds()) for sample in samples]
    rng = np.random.default_rng(0)
    detectors: dict[str, Callable[[Instances, Tile], Instances]] = {
        "the truth in each window": look,
        "pieces as objects of their own": look_in_pieces,
        "as nets do": lambda scene, tile: look_as_a_net(scene, tile, rng, shift=given.shift),
    }
    for name, see in detectors.items():
        print(f"{name}, tiles of {given.tile}, overlap {given.overlap:g}")
        measure(scenes, given.tile, given.overlap, see)


if __name__ == "__main__":
    main()
