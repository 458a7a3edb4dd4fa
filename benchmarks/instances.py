"""Scores of objects: COCO's mask and box AP against pycocotools and faster-coco-eval, and label maps of many objects.

    pip install pycocotools faster-coco-eval
    python benchmarks/instances.py --images 200 --objects 20 --rounds 5

All start from the compressed run lengths of truths and detections, and end with the table of average precisions; the
index that both tools want first is counted, reading JSON files is not. Rounds are interleaved in one process. Printed:
the median time of each, its ratio to pycocotools round by round, and the largest difference between the tables. Then
the time of matching two label maps of `--cells` cells at ten thresholds, with and without outlines.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from perpixel.labels import Instances, Runs, coco_entries
from perpixel.metrics import average_precision, detection_rows, instance_counts, instance_scores

CLASSES = 5
SIZE = (480, 640)


def draw_image(rng: np.random.Generator, count: int) -> tuple[Instances, Instances]:
    """Ellipses, and as many detections, shifted, a tenth of them of another class."""
    rows, cols = np.mgrid[: SIZE[0], : SIZE[1]]
    truths, found = [], []
    for _ in range(count):
        centre, radii = rng.uniform((0, 0), SIZE), rng.uniform(6, 60, 2)
        truths.append(np.square((rows - centre[0]) / radii[0]) + np.square((cols - centre[1]) / radii[1]) <= 1)
        found.append(np.roll(truths[-1], rng.integers(-5, 6, 2), axis=(0, 1)))
    truths[0][:2, :2] = True
    kinds = rng.integers(1, CLASSES, count)
    other = np.where(rng.random(count) < 0.1, rng.integers(1, CLASSES, count), kinds)
    target = Instances.of(Runs.from_masks(np.array(truths)), kinds)
    pred = Instances.of(Runs.from_masks(np.array(found)), other, scores=rng.random(count))
    keep = target.masks.areas > 0
    return pred.take(pred.masks.areas > 0), target.take(keep)


def run_ours(images: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]], kind: str) -> np.ndarray:
    rows = []
    for number, (pred, target) in enumerate(images):
        both = [_read(pred), _read(target)]
        rows.append(detection_rows(*both, image=number, num_classes=CLASSES, kind=kind))
    return average_precision(rows).table[1:]


def _read(entries: list[dict[str, Any]]) -> Instances:
    masks = Runs.from_texts([entry["segmentation"]["counts"] for entry in entries], SIZE)
    boxes = np.array([entry["bbox"] for entry in entries])
    boxes[:, 2:] += boxes[:, :2]
    scores = [entry["score"] for entry in entries] if "score" in entries[0] else None
    return Instances.of(masks, [entry["category_id"] for entry in entries], boxes=boxes, scores=scores)


def run_tool(images: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]], kind: str, tool: str) -> np.ndarray:
    if tool == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as Evaluation
    what = {"mask": "segm", "box": "bbox"}[kind]
    dropped = {"mask": "bbox", "box": "segmentation"}[kind]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": number, "height": SIZE[0], "width": SIZE[1]} for number in range(len(images))],
            "categories": [{"id": kind, "name": str(kind)} for kind in range(1, CLASSES)],
            "annotations": [dict(entry) for _, target in images for entry in target],
        }
        truth.createIndex()
        results = [{k: v for k, v in e.items() if k != dropped} for pred, _ in images for e in pred]
        evaluation = Evaluation(truth, truth.loadRes(results), what)
        evaluation.evaluate()
        evaluation.accumulate()
    table = evaluation.eval["precision"][..., 2].mean(axis=1).transpose(1, 2, 0)
    return np.where(table < 0, np.nan, table)


def time_ap(images: list[tuple[Instances, Instances]], rounds: int) -> None:
    ids = [None, *range(1, CLASSES)]
    entries, first = [], 1
    for number, (pred, target) in enumerate(images):
        truths = coco_entries(target, image_id=number, category_ids=ids, first_id=first)
        first += len(truths)
        entries.append((coco_entries(pred, image_id=number, category_ids=ids), truths))
    forms: dict[str, Callable[[str], np.ndarray]] = {"perpixel": lambda kind: run_ours(entries, kind)}
    for tool in ("pycocotools", "faster_coco_eval"):
        try:
            __import__(tool)
        except ImportError:
            print(f"{tool} is not installed, so that it is left out")
        else:
            forms[tool] = lambda kind, tool=tool: run_tool(entries, kind, tool)
    for kind in ("mask", "box"):
        times: dict[str, list[float]] = {name: [] for name in forms}
        tables = {}
        for turn in range(rounds + 1):  # the first round compiles and warms up
            for name, run in forms.items():
                began = time.perf_counter()
                tables[name] = run(kind)
                if turn:
                    times[name].append(time.perf_counter() - began)
        print(f"{kind} AP of {len(images)} images, {sum(len(t) for _, t in images)} objects:")
        for name, seconds in times.items():
            text = f"  {name}: median {statistics.median(seconds):.3f} s, best {min(seconds):.3f} s"
            if "pycocotools" in times and name != "pycocotools":
                ratios = [a / b for a, b in zip(times["pycocotools"], seconds)]
                text += f", {statistics.median(ratios):.1f}x pycocotools ({min(ratios):.1f} to {max(ratios):.1f})"
            if name != "perpixel":
                text += f", differs by {np.nanmax(np.abs(tables[name] - tables['perpixel'])):.1e}"
            print(text)


def time_label_maps(cells: int, rounds: int) -> None:
    side = 1024
    rng = np.random.default_rng(1)
    rows, cols = np.mgrid[:side, :side]
    step = side / np.ceil(np.sqrt(cells))
    target = (rows // step * np.ceil(np.sqrt(cells)) + cols // step).astype(np.int32) + 1
    target[(rows % step < 3) | (cols % step < 3) | (target > cells)] = 0
    pred = np.roll(target, rng.integers(-4, 5, 2), axis=(0, 1))
    for boundary in (False, True):
        times = []
        for _ in range(rounds + 1):
            began = time.perf_counter()
            scores = instance_scores(instance_counts(pred, target, boundary=boundary))
            times.append(time.perf_counter() - began)
        print(
            f"label maps of {side} squared, {len(np.unique(target)) - 1} objects, "
            f"{'with' if boundary else 'without'} outlines: median {1000 * statistics.median(times[1:]):.0f} ms, best "
            f"{1000 * min(times[1:]):.0f} ms (F1 at 0.5: {scores.summary()['f1_50']:.3f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--objects", type=int, default=20)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    time_ap([draw_image(rng, options.objects) for _ in range(options.images)], options.rounds)
    time_label_maps(options.cells, options.rounds)


if __name__ == "__main__":
    main()
