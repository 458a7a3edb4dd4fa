"""Pixel forest: time of features and trees against scikit-image's features and scikit-learn's prediction.

    python benchmarks/forest.py                                    drawn scenes of cells, 512x512
    python benchmarks/forest.py --data FOLDER --pixels 50000       trained and timed on FOLDER/images and FOLDER/masks
    python benchmarks/forest.py --size 4096 --only-ours            time and memory of a large image

Needs scikit-learn, and scikit-image but for --only-ours. Two sets of features, the same labelled pixels for both sides:

    45 features    three channels, smoothing and Hessian eigenvalues at five sigmas from 0.7 to 5, on both sides
    40 features    one channel, all of ours at our five sigmas; scikit-image's 44 (11 sigmas, all kinds) against them

Both forests are full trees. Rounds are interleaved; printed are the medians of the wall time and of the CPU time (which
a busy machine disturbs less) of every stage, and the ratios of the sums. "same forest" is scikit-learn's prediction by
the very trees and features that ours uses: the ratio of the two walks alone, and the largest difference of their
probabilities.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import sklearn
import torch
from sklearn.ensemble import RandomForestClassifier

from perpixel.classical import PixelForest
from perpixel.classical.tiles import tile_features, tiles
from perpixel.classical.tree_walk import PackedTrees
from perpixel.classical.trees import from_sklearn
from perpixel.compiled import Workers
from perpixel.data.synthetic import draw_scene
from perpixel.images import read_image

Pair = tuple[np.ndarray, np.ndarray]
SETS: dict[str, dict[str, Any]] = {
    "45 features": {
        "channels": 3,
        "ours": {"sigmas": tuple(np.geomspace(0.7, 5, 5).tolist()), "features": "smoothing+hessian"},
        "theirs": {"sigma_min": 0.7, "sigma_max": 5, "num_sigma": 5, "edges": False},
    },
    "40 features": {
        "channels": 1,
        "ours": {},
        "theirs": {"sigma_min": 0.7, "sigma_max": 5, "num_sigma": 11},
    },
}


def read_pairs(data: Path | None, size: int) -> list[Pair]:
    """(H, W, 3) float32 images of 0..1 and label maps; the last, repeated to `size`, is timed, the others train."""
    if data is None:
        scenes = [draw_scene(number, (512, 512)) for number in range(4)]
        pairs = [(scene.image.astype(np.float32) / 255, scene.label_map.astype(np.int64)) for scene in scenes]
    else:
        pairs = []
        for path in sorted((data / "images").iterdir()):
            image = np.repeat(np.atleast_3d(read_image(path)), 3, 2)[..., :3]
            label_map = np.asarray(read_image(data / "masks" / f"{path.stem}.png"))[..., 0]
            pairs.append((image.astype(np.float32) / 255, label_map.astype(np.int64)))
    image, label_map = pairs[-1]
    often = [-(-size // side) for side in image.shape[:2]]
    pairs[-1] = np.tile(image, (*often, 1))[:size, :size], label_map
    return pairs


def channels_of(image: np.ndarray, channels: int) -> np.ndarray:
    """(H, W, 3) -> (C, H, W)."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)[:channels] if channels == 3 else image.mean(2)[None])


def timed(task: Callable[[], Any]) -> tuple[float, float, Any]:
    wall, own = time.perf_counter(), time.process_time()
    result = task()
    return time.perf_counter() - wall, time.process_time() - own, result


def their_features(image: np.ndarray, threads: int, settings: dict[str, Any]) -> np.ndarray:
    from skimage.feature import multiscale_basic_features

    axis = None if len(image) == 1 else -1
    given = image[0] if axis is None else np.ascontiguousarray(image.transpose(1, 2, 0))
    features = multiscale_basic_features(given, workers=threads, channel_axis=axis, **settings)
    return np.ascontiguousarray(features.reshape(-1, features.shape[-1]), np.float32)


def our_features(model: PixelForest, image: np.ndarray, threads: int) -> list[np.ndarray]:
    parts = tiles(image.shape[1:], model.num_features(2))
    with Workers(threads) as workers:
        return workers.run(lambda number: tile_features(image, parts[number], model.bank), len(parts))


def our_trees(packed: PackedTrees, features: list[np.ndarray], threads: int) -> list[np.ndarray]:
    with Workers(threads) as workers:
        return workers.run(lambda number: packed.walk(features[number]), len(features))


def grow(model: PixelForest, pairs: list[Pair], channels: int) -> tuple[RandomForestClassifier, dict[str, Any]]:
    """Train ours, and keep the forest of scikit-learn that it was made from."""
    import perpixel.classical.pixel_forest as module

    kept: list[RandomForestClassifier] = []

    def keep(forest: RandomForestClassifier, num_classes: int) -> Any:
        kept.append(forest)
        return from_sklearn(forest, num_classes)

    original, module.from_sklearn = module.from_sklearn, keep
    try:
        load = lambda number: (channels_of(pairs[number][0], channels), pairs[number][1])  # noqa: E731
        facts = model.grow(load, len(pairs), ignore_index=255)
    finally:
        module.from_sklearn = original
    return kept[0], facts


def train_theirs(pairs: list[Pair], entry: dict[str, Any], pixels: int, trees: int) -> RandomForestClassifier:
    random, columns, classes = np.random.default_rng(0), [], []
    for image, label_map in pairs:
        chosen = random.choice(label_map.size, pixels // len(pairs), replace=False)
        columns.append(their_features(channels_of(image, entry["channels"]), 1, entry["theirs"])[chosen])
        classes.append(label_map.reshape(-1)[chosen])
    return RandomForestClassifier(trees, random_state=0).fit(np.concatenate(columns), np.concatenate(classes))


def measure(name: str, pairs: list[Pair], options: argparse.Namespace) -> None:
    entry = SETS[name]
    classes = 1 + max(int(label_map.max()) for _, label_map in pairs)
    model = PixelForest(entry["channels"], classes, max_pixels=options.pixels, trees=options.trees, **entry["ours"])
    same, facts = grow(model, pairs[:-1], entry["channels"])
    print(f"\n{name}: {facts}")
    image = channels_of(pairs[-1][0], entry["channels"])
    packed = PackedTrees(model._arrays())
    if options.only_ours:
        large(model, image, options.threads)
        return
    theirs = train_theirs(pairs[:-1], entry, options.pixels, options.trees)
    print(f"  scikit-learn's own: {sum(each.tree_.node_count for each in theirs.estimators_)} nodes")
    for threads in sorted({1, options.threads}):
        theirs.n_jobs = same.n_jobs = threads
        seen: dict[str, list[tuple[float, float]]] = {}
        torch.set_num_threads(threads)

        def note(stage: str, task: Callable[[], Any], seen: dict[str, list[tuple[float, float]]] = seen) -> Any:
            wall, own, result = timed(task)
            seen.setdefault(stage, []).append((wall, own))
            return result

        for _ in range(options.rounds + 1):
            table = note("their features", lambda t=threads: their_features(image, t, entry["theirs"]))
            note("their trees", lambda: theirs.predict_proba(table))  # noqa: B023
            rows = note("our features", lambda t=threads: our_features(model, image, t))
            sums = note("our trees", lambda t=threads: our_trees(packed, rows, t))  # noqa: B023
            note("our forward", lambda: model(torch.from_numpy(image)[None]))
            turned = np.ascontiguousarray(np.concatenate(rows, 1).T)
            probs = note("same forest", lambda: same.predict_proba(turned))  # noqa: B023
        ours = np.concatenate(sums, 1).T / (model.trees * ((2**31 - 1) // model.trees))
        show(threads, table.shape[1], {stage: times[1:] for stage, times in seen.items()})
        print(f"  largest difference of probabilities to the same forest: {np.abs(ours - probs).max():.1e}")


def show(threads: int, their_count: int, seen: dict[str, list[tuple[float, float]]]) -> None:
    middle = {stage: [statistics.median(column) for column in zip(*times)] for stage, times in seen.items()}
    print(f"  {threads} thread(s), theirs with {their_count} features{'wall ms':>20}{'CPU ms':>10}")
    for stage, (wall, own) in middle.items():
        print(f"    {stage:<46}{1e3 * wall:>10.0f}{1e3 * own:>10.0f}")
    for what, top, bottom in (
        ("features", ["their features"], ["our features"]),
        ("trees", ["their trees"], ["our trees"]),
        ("trees, same forest", ["same forest"], ["our trees"]),
        ("features + trees", ["their features", "their trees"], ["our features", "our trees"]),
        ("features + trees against forward", ["their features", "their trees"], ["our forward"]),
    ):
        ratios = [sum(middle[s][i] for s in top) / sum(middle[s][i] for s in bottom) for i in (0, 1)]
        print(f"    times as fast: {what:<33}{ratios[0]:>8.1f}x{ratios[1]:>9.1f}x")


def large(model: PixelForest, image: np.ndarray, threads: int) -> None:
    """Time of a forward, and what it adds to the resident memory at its peak (the answer itself included)."""
    torch.set_num_threads(threads)
    given = torch.from_numpy(image)[None]
    model(given[..., :64, :64])
    pages, stop, most = Path("/proc/self/statm"), threading.Event(), [0]

    def watch() -> None:
        while not stop.wait(0.01):
            most[0] = max(most[0], int(pages.read_text().split()[1]))

    before = int(pages.read_text().split()[1])
    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, own, logits = timed(lambda: model(given))
    stop.set()
    watcher.join()
    unit = resource.getpagesize() / 2**20
    answer = logits.numel() * 4 / 2**20
    print(f"  {tuple(image.shape)}, {threads} thread(s): {wall:.1f} s, {own:.1f} s of CPU")
    print(
        f"  at its peak {unit * (most[0] - before):.0f} MiB more than before, of which the answer is {answer:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with images/ and masks/ (PNG, class ids)")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--pixels", type=int, default=20_000, help="training pixels")
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--only-ours", action="store_true")
    options = parser.parse_args()
    pairs = read_pairs(options.data, options.size)
    print(
        f"numpy {np.__version__}, torch {torch.__version__}, numba {numba.__version__}, sklearn {sklearn.__version__}"
    )
    if not options.only_ours:
        import skimage

        print(f"scikit-image {skimage.__version__}")
    for name in options.sets:
        measure(name, pairs, options)


if __name__ == "__main__":
    main()
