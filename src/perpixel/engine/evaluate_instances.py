"""Scores of a predictor of objects on a split: COCO AP, matching, panoptic quality, a table and pictures of cases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perpixel.data import Sample
from perpixel.data.instances import InstanceDataset
from perpixel.engine.evaluate import CASES, check_classes, empty_folder, image_groups, write_csv
from perpixel.engine.instance_cases import case_pictures
from perpixel.engine.instance_measures import SCORE_DEFINITIONS, InstanceMeasures
from perpixel.files import write_json
from perpixel.images import write_png
from perpixel.inference.instance_files import display_bright
from perpixel.inference.instance_predictor import InstancePredictor, check_score
from perpixel.labels import Instances

# What images are ranked by for the pictures of best and worst ones.
RANKED_BY = "mean_f1"
OnImage = Callable[[int, int, str], None]


def evaluate_instances(
    predictor: InstancePredictor,
    dataset: InstanceDataset,
    split: str,
    out: str | Path,
    *,
    min_score: float | None = None,
    boundary: bool = True,
    seed: int = 0,
    on_image: OnImage | None = None,
) -> dict[str, Any]:
    """Find the objects of every image of a split at its full size, score them, and write the results to `out`.

    The results that stood in `out` before are removed first. Written: scores.json, per_image.csv and cases/, pictures
    of the best, the median and the worst images.

    Args:
        predictor: model with its classes; the data set must have the same ones, in the same order.
        split: a split of the data set; images without objects count.
        min_score: AP ranks all detections; everything else, and the pictures, look at those from this score on. None
            takes the predictor's own.
        boundary: also measure outlines (boundary AP, boundary IoU), which takes half of the time of measuring.
        seed: of the bootstrap.
        on_image: called with (done, total, name).
    Returns:
        What scores.json holds.
    Raises:
        InputError: classes differ, no such split, an image without annotation, or other files in `out`.
    """
    check_classes(predictor.classes, dataset.images)
    samples = dataset.split(split)
    least = predictor.min_score if min_score is None else check_score(min_score)
    folder = empty_folder(Path(out))
    measures = InstanceMeasures(dataset.classes, min_score=least, boundary=boundary)
    table: list[dict[str, Any]] = []
    found: list[Instances] = []
    timing = {"seconds": 0.0, "measuring_s": 0.0, "pixels": 0.0}
    for done, (sample, pred, target, seconds) in enumerate(_predict_all(predictor, dataset, samples)):
        began = time.perf_counter()
        measures.add(pred, target)
        found.append(measures.shown(pred))
        table.append({"name": sample.name, **measures.columns(done), "seconds": round(seconds, 4)})
        timing["seconds"] += seconds
        timing["pixels"] += target.size[0] * target.size[1]
        timing["measuring_s"] += time.perf_counter() - began
        if on_image is not None:
            on_image(done + 1, len(samples), sample.name)
    write_csv(folder / "per_image.csv", table)
    groups = image_groups(samples)
    result = {
        "task": "instances",
        "split": split,
        "num_images": len(samples),
        "classes": list(dataset.classes.names),
        "colours": dataset.classes.colours.tolist(),
        "scores": measures.summary(),
        "errors": measures.error_counts(),
        "min_score": least,
        "max_detections": measures.max_detections,
        "per_class": measures.per_class(),
        "intervals": measures.intervals(seed=seed, groups=groups),
        "intervals_over": "images" if groups is None else "groups",
        "curves": measures.curves(),
        "definitions": SCORE_DEFINITIONS,
        "cases": list(_write_cases(dataset, samples, found, table, folder)),
        "timing": _timing(timing, len(samples)),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / "scores.json", result)
    return result


def _predict_all(
    predictor: InstancePredictor, dataset: InstanceDataset, samples: Sequence[Sample]
) -> Iterator[tuple[Sample, Instances, Instances, float]]:
    """Sample, all detections whatever their score, truth, and the seconds of reading and predicting."""
    for sample in samples:
        began = time.perf_counter()
        image, target = dataset.load(sample)
        pred = predictor.predict(image, min_score=0.0).instances
        assert pred is not None
        yield sample, pred, target, time.perf_counter() - began


def _timing(timing: dict[str, float], images: int) -> dict[str, Any]:
    seconds = max(timing["seconds"], 1e-9)
    return {
        "images": images,
        "seconds": round(timing["seconds"], 3),
        "images_per_s": round(images / seconds, 3),
        "megapixels_per_s": round(timing["pixels"] / seconds / 1e6, 3),
        "measuring_s": round(timing["measuring_s"], 3),
    }


def _write_cases(
    dataset: InstanceDataset,
    samples: Sequence[Sample],
    found: Sequence[Instances],
    table: list[dict[str, Any]],
    folder: Path,
) -> Iterator[dict[str, Any]]:
    counts: dict[str, int] = {}
    for rank, place in choose_cases(table):
        counts[rank] = counts.get(rank, 0) + 1
        image, target = dataset.load(samples[place])
        pictures = case_pictures(display_bright(image), found[place], target, dataset.classes)
        files = {kind: f"cases/{rank}-{counts[rank]}_{kind}.png" for kind in pictures}
        for kind, picture in pictures.items():
            write_png(folder / files[kind], picture)
        row = table[place]
        errors = {name: row[name] for name in ("true", "matched", "missed", "false", "merged", "split")}
        yield {
            "name": row["name"], "rank": rank, "score": row[RANKED_BY], "measure": RANKED_BY, **errors, "files": files,
        }  # fmt: skip


def choose_cases(table: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """(rank, place in the table) of up to CASES best, median and worst images, no image twice.

    Images without objects in which nothing was found have no score; they are shown only where there are no others.
    """
    scored = [place for place, row in enumerate(table) if row[RANKED_BY] is not None]
    places = sorted(scored or range(len(table)), key=lambda place: -(table[place][RANKED_BY] or 0.0))
    count = min(CASES, max(1, len(places) // 3))
    middle = (len(places) - count) // 2
    parts = {"best": places[:count], "median": places[middle : middle + count], "worst": places[-count:]}
    chosen: list[tuple[str, int]] = []
    for rank, part in parts.items():
        known = [place for _, place in chosen]
        chosen += [(rank, place) for place in part if place not in known]
    return chosen
