"""COCO's average precision: worked by hand, and the tables of pycocotools on random scenes."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.labels import Instances, Runs, coco_entries
from perpixel.metrics import AP_DEFINITIONS, DetectionRows, average_precision, detection_rows
from perpixel.metrics.coco_ap import SIZES, THRESHOLDS

K = 4


def boxes(*corners: tuple[int, int, int, int], size: tuple[int, int] = (40, 60), **more: Any) -> Instances:
    """Objects that fill their boxes x0 y0 x1 y1."""
    masks = np.zeros((len(corners), *size), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, corners):
        mask[y0:y1, x0:x1] = True
    return Instances.of(Runs.from_masks(masks, size), **more)


def score(pred: Instances, target: Instances, kind: str = "mask", **options: Any) -> dict[str, float]:
    return average_precision([detection_rows(pred, target, image=0, num_classes=K, kind=kind, **options)]).summary()


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_by_hand(kind: str) -> None:
    target = boxes((0, 0, 10, 10), (20, 0, 30, 10))
    # Best score: a false one. Then a perfect one, then one of IoU 80 / 100.
    pred = boxes((40, 20, 50, 30), (0, 0, 10, 10), (20, 0, 30, 8), scores=[0.9, 0.8, 0.7])
    found = score(pred, target, kind)
    # Up to IoU 0.80: precision 0, 1/2, 2/3 at recall 0, 1/2, 1: the envelope is 2/3 everywhere.
    # Above: one of two found, at precision 1/2: 51 of 101 recalls.
    high, low = 2 / 3, 0.5 * 51 / 101
    assert found["ap"] == pytest.approx((7 * high + 3 * low) / 10)
    assert found["ap50"] == pytest.approx(high) and found["ap75"] == pytest.approx(high)
    assert found["ap_small"] == pytest.approx(found["ap"]) and np.isnan(found["ap_large"])
    assert found["ar_1"] == 0 and found["ar_10"] == pytest.approx((7 * 1 + 3 * 0.5) / 10) == found["ar"]
    assert score(pred, target, kind, max_detections=1)["ap"] == 0


def test_one_object_is_found_once() -> None:
    target = boxes((0, 0, 10, 10))
    twice = boxes((0, 0, 10, 9), (0, 0, 10, 10), scores=[0.9, 0.8])
    # Up to 0.90 the first one takes it, and the better one is false, which costs nothing after full recall.
    assert score(twice, target)["ap"] == pytest.approx((9 * 1 + 1 * 0.5) / 10)


def test_crowds_and_void_leave_detections_out() -> None:
    target = boxes((0, 0, 10, 10), (20, 0, 60, 40), is_crowd=[False, True])
    pred = boxes((25, 5, 30, 9), (35, 5, 39, 9), (0, 0, 10, 10), scores=[0.9, 0.8, 0.7])
    assert score(pred, target)["ap"] == 1  # many may lie in one crowd
    other = replace(target, classes=np.array([1, 2]))
    assert score(pred, other)["ap"] == pytest.approx(1 / 3)  # a crowd of another class excuses nothing


def test_sizes() -> None:
    target = boxes((0, 0, 10, 10), (0, 0, 60, 40), areas=[100, 2400])
    assert score(replace(target, scores=np.array([0.5, 0.6])), target)["ap"] == 1
    missed = score(boxes((0, 0, 60, 40), scores=[0.6]), target)
    assert (missed["ap_small"], missed["ap_medium"]) == (0, 1)
    # The stated area tells the size: 32 x 32 belongs to both.
    edge = replace(target, areas=np.array([1024.0, 2400.0]))
    assert score(replace(edge, scores=np.array([0.5, 0.6])), edge)["ap_small"] == 1


def test_empty_truth_and_empty_prediction() -> None:
    some, none = boxes((0, 0, 10, 10)), Instances.none((40, 60))
    assert score(replace(none, scores=np.zeros(0)), some)["ap"] == 0
    assert np.isnan(score(replace(some, scores=np.ones(1)), none)["ap"])
    assert np.isnan(score(replace(none, scores=np.zeros(0)), none)["ap"])
    # Detections in an image without objects count against those elsewhere.
    rows = [
        detection_rows(replace(some, scores=np.array([s])), t, image=i, num_classes=K)
        for i, (s, t) in enumerate([(0.5, some), (0.9, none)])
    ]
    assert average_precision(rows).summary()["ap"] == pytest.approx(0.5)


def test_boundary_asks_more_of_large_objects() -> None:
    target = boxes((0, 0, 200, 150), size=(160, 240))
    pred = boxes((0, 0, 200, 144), size=(160, 240), scores=[1.0])
    assert score(pred, target)["ap"] == 1 - 0  # 144 / 150 = 0.96
    assert score(pred, target, "boundary")["ap"] < 0.5
    assert score(replace(target, scores=np.ones(1)), target, "boundary")["ap"] == 1
    small = boxes((3, 3, 5, 5), size=(160, 240))
    assert score(replace(small, scores=np.ones(1)), small, "boundary")["ap"] == 1


def scene(rng: np.random.Generator, count: int, size: tuple[int, int] = (120, 150)) -> Instances:
    """Ellipses of all sizes that overlap; some crowds; stated areas unlike the counted ones."""
    rows, cols = np.mgrid[: size[0], : size[1]]
    masks = np.zeros((count, *size), bool)
    for mask in masks:
        centre, radii = rng.uniform((0, 0), size), rng.uniform(2, rng.choice([20, 90]), 2)
        mask[...] = ((rows - centre[0]) / radii[0]) ** 2 + ((cols - centre[1]) / radii[1]) ** 2 <= 1
    runs = Runs.from_masks(masks[masks.any(axis=(1, 2))], size)
    areas = runs.areas * rng.uniform(0.7, 1.3, len(runs))
    return Instances.of(runs, rng.integers(1, K, len(runs)), is_crowd=rng.random(len(runs)) < 0.15, areas=areas)


def detections(rng: np.random.Generator, target: Instances, most: int) -> Instances:
    """Shifted copies of the objects, up to `most` of each, with tied scores."""
    masks, classes = [], []
    for index in range(len(target)):
        for _ in range(rng.integers(0, most + 1)):
            masks.append(np.roll(target.masks.mask(index), rng.integers(-6, 7, 2), (0, 1)))
            classes.append(target.classes[index] if rng.random() < 0.8 else rng.integers(1, K))
    runs = Runs.from_masks(masks, target.size)
    return Instances.of(runs, np.array(classes, int), scores=np.round(rng.random(len(runs)), 1))


def oracle_tables(truths: list[Instances], preds: list[Instances], kind: str, most: int) -> tuple[Any, Any]:
    """Average precision (K - 1, A, T) and recall (T, K - 1, A, 3) of pycocotools, NaN for its -1."""
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is the oracle: pip install pycocotools")
    from pycocotools.cocoeval import COCOeval

    ids = [None, *range(1, K)]
    annotations, results = [], []
    for number, (target, pred) in enumerate(zip(truths, preds)):
        first = len(annotations) + 1
        annotations += coco_entries(target, image_id=number, category_ids=ids, first_id=first)
        results += coco_entries(pred, image_id=number, category_ids=ids)
    dropped = "bbox" if kind == "segm" else "segmentation"
    results = [{key: value for key, value in entry.items() if key != dropped} for entry in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        images = [{"id": number, "height": 120, "width": 150} for number in range(len(truths))]
        categories = [{"id": number, "name": str(number)} for number in range(1, K)]
        truth.dataset = {"images": images, "annotations": annotations, "categories": categories}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.params.maxDets = [1, 10, most]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = (
        np.where(evaluation.eval[name] < 0, np.nan, evaluation.eval[name]) for name in ("precision", "recall")
    )
    return precision[..., 2].mean(axis=1).transpose(1, 2, 0), recall


@pytest.mark.parametrize(("kind", "theirs"), [("mask", "segm"), ("box", "bbox")])
@pytest.mark.parametrize(("copies", "most"), [(2, 100), (9, 12)])
def test_the_tables_are_those_of_pycocotools(kind: str, theirs: str, copies: int, most: int) -> None:
    rng = np.random.default_rng(copies)
    truths = [scene(rng, int(rng.integers(0, 15))) for _ in range(10)] + [Instances.none((120, 150))]
    preds = [detections(rng, target, copies) for target in truths[:-1]] + [detections(rng, truths[0], 1)]
    precision, recall = oracle_tables(truths, preds, theirs, most)
    rows = [
        detection_rows(pred, target, image=number, num_classes=K, kind=kind, max_detections=most)
        for number, (pred, target) in enumerate(zip(preds, truths))
    ]
    found = average_precision([rows[number] for number in rng.permutation(len(rows))])
    assert np.allclose(found.table[1:], precision, atol=1e-9, equal_nan=True)
    assert np.allclose(found.recall[1:], recall[..., 2].transpose(1, 2, 0), atol=1e-9, equal_nan=True)
    for place, count in enumerate((1, 10)):
        assert found.recall_at[count] == pytest.approx(np.nanmean(recall[:, :, 0, place]), abs=1e-9)
    assert np.isfinite(precision).any() and 0.02 < found.summary()["ap"] < 0.9


def test_images_in_any_order_give_the_same_bits() -> None:
    rng = np.random.default_rng(5)
    truths = [scene(rng, 6) for _ in range(5)]
    rows = [
        detection_rows(detections(rng, target, 3), target, image=number, num_classes=K)
        for number, target in enumerate(truths)
    ]
    whole = average_precision(rows)
    order = [rows[number] for number in (3, 0, 4)]
    nested = average_precision(DetectionRows.join([DetectionRows.join(order), rows[2], rows[1]]))
    assert np.array_equal(whole.table, nested.table, equal_nan=True) and whole.summary() == nested.summary()
    assert whole.table.shape == (K, len(SIZES), len(THRESHOLDS)) and np.isnan(whole.per_class[0])
    assert set(AP_DEFINITIONS) <= set(whole.summary())


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    target = scene(rng, 8)
    pred = detections(rng, target, 3)
    compiled = detection_rows(pred, target, image=0, num_classes=K)
    monkeypatch.setattr("perpixel.metrics.coco_ap._compiled_match", lambda: None)
    assert (detection_rows(pred, target, image=0, num_classes=K).states == compiled.states).all()


def test_errors() -> None:
    some = boxes((0, 0, 4, 4))
    scored = replace(some, scores=np.ones(1))
    for pred, options, message in (
        (some, {}, "pred has no scores"),
        (scored, {"kind": "pixel"}, "kind 'pixel': choose one of box, mask, boundary"),
        (scored, {"max_detections": 0}, "max_detections is 0"),
        (replace(scored, classes=np.array([K])), {}, r"pred holds class 4, outside 0\.\.3"),
        (replace(scored, scores=np.array([np.nan])), {}, "scores that are no numbers"),
    ):
        with pytest.raises(InputError, match=message):
            detection_rows(pred, some, image=0, num_classes=K, **options)
    with pytest.raises(InputError, match="no image was measured"):
        average_precision([])
