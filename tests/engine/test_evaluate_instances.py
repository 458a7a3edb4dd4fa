"""Evaluation of objects: truth as prediction scores 1, errors are counted, images without objects are legal."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from perpixel.data.instances import InstanceDataset, open_instances
from perpixel.engine.evaluate_instances import choose_cases, evaluate_instances
from perpixel.engine.instance_cases import ERROR_COLOURS, draw_errors
from perpixel.engine.instance_measures import SCORE_DEFINITIONS, InstanceMeasures
from perpixel.errors import InputError
from perpixel.images import Normalisation, read_image, write_png
from perpixel.inference import InstancePredictor
from perpixel.labels import Instances
from perpixel.metrics import average_precision, detection_rows, precision_curves

SIZE = (60, 80)


def draw_map(seed: int, count: int) -> np.ndarray:
    """Rectangles apart from each other."""
    rng = np.random.default_rng(seed)
    label_map = np.zeros(SIZE, np.uint16)
    for number in range(1, count + 1):
        row, col = (int(rng.integers(1, side - 12)) for side in SIZE)
        part = label_map[row : row + rng.integers(5, 10), col : col + rng.integers(5, 10)]
        if not part.any():
            part[:] = number
    return label_map


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> InstanceDataset:
    """Objects are brighter than what is around them; one image of the test split has none."""
    root = tmp_path_factory.mktemp("objects")
    for split, counts in {"train": (5, 6), "test": (12, 9, 0, 7)}.items():
        for index, count in enumerate(counts):
            label_map = draw_map(10 * len(split) + index, count)
            image = np.where(label_map > 0, 120 + label_map, 20).astype(np.uint8)
            write_png(root / split / "images" / f"{index}.png", image)
            write_png(root / split / "masks" / f"{index}.png", label_map)
    return open_instances(root, val_fraction=0.5)


class Oracle(nn.Module):
    """Knows the truth of each image by its pixels; `spoil` may change it."""

    def __init__(self, dataset: InstanceDataset, spoil: object = None) -> None:
        super().__init__()
        self.known: dict[bytes, Instances] = {}
        for samples in dataset.splits.values():
            for sample in samples:
                image, truth = dataset.load(sample)
                found = replace(truth, scores=np.linspace(1, 0.5, len(truth)) if len(truth) else np.zeros(0))
                key = np.round(image[..., 0] / 255, 3).astype(np.float32).tobytes()
                self.known[key] = spoil(found) if callable(spoil) else found

    def detect(self, image: Tensor, *, size: tuple[int, int] | None = None) -> Instances:
        return self.known[np.round(image[0, 0].numpy(), 3).astype(np.float32).tobytes()]


def predictor_of(dataset: InstanceDataset, spoil: object = None, **more: object) -> InstancePredictor:
    settings: dict = {"channels": dataset.channels, "tile": (100, 100)} | more
    plain = Normalisation((0.0,), (255.0,), (0.0,), (1.0,))
    return InstancePredictor(Oracle(dataset, spoil), classes=dataset.classes, normalisation=plain, **settings)


def test_truth_as_prediction_scores_one(dataset: InstanceDataset, tmp_path: Path) -> None:
    result = evaluate_instances(predictor_of(dataset), dataset, "test", tmp_path / "out")
    scores = result["scores"]
    wrong = {name: value for name, value in scores.items() if value not in (1, None)}
    assert not wrong and scores["mask_ap"] == scores["box_ap"] == scores["pq"] == scores["aji"] == scores["f1_90"] == 1
    assert scores["boundary_ap"] == scores["matching_ap50"] == scores["boundary_iou"] == 1
    errors = result["errors"]
    assert errors["true"] == errors["matched"] > 15 and errors["missed"] == errors["false"] == errors["merged"] == 0
    assert all(low == high == 1 for low, high in result["intervals"].values())
    (row,) = result["per_class"]
    assert row["mask_ap"] == row["pq"] == 1 and row["images"] == 3 and row["true"] == errors["true"]


def test_what_is_written(dataset: InstanceDataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = evaluate_instances(predictor_of(dataset), dataset, "test", out)
    assert json.loads((out / "scores.json").read_text(encoding="utf-8")) == json.loads(json.dumps(result))
    assert set(result["scores"]) | {"missed", "false", "merged", "split"} == set(result["definitions"])
    with open(out / "per_image.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [sample.name for sample in dataset.split("test")]
    empty = rows[2]
    assert empty["true"] == "0" and empty["mean_f1"] == "" and empty["mask_ap"] == ""
    for case in result["cases"]:
        assert set(case["files"]) == {"image", "truth", "prediction", "error"} and case["score"] == 1
        assert read_image(out / case["files"]["error"]).shape[2] == 3
    assert {case["rank"] for case in result["cases"]} == {"best", "median", "worst"}
    assert result["timing"]["images"] == 4 and result["curves"]["f1"] == [1] * 10
    assert sum(result["curves"]["sides"]["true"]) == result["errors"]["true"]
    # Again: the old results go; other files stay.
    evaluate_instances(predictor_of(dataset), dataset, "test", out, boundary=False)
    (out / "mine.txt").write_text("x")
    with pytest.raises(InputError, match=r"other files than results \(mine\.txt\)"):
        evaluate_instances(predictor_of(dataset), dataset, "test", out)


def test_objects_that_are_missed(dataset: InstanceDataset, tmp_path: Path) -> None:
    def half(found: Instances) -> Instances:
        return found.take(np.arange(min(4, len(found))))

    result = evaluate_instances(predictor_of(dataset, half), dataset, "test", tmp_path / "out")
    errors, scores = result["errors"], result["scores"]
    assert errors["missed"] == errors["true"] - errors["matched"] > 5 and errors["false"] == 0
    assert scores["precision_50"] == 1 and scores["recall_50"] == errors["matched"] / errors["true"]
    assert scores["matching_ap50"] == scores["recall_50"]  # TP / (TP + 0 + FN)
    low, high = result["intervals"]["f1_50"]
    assert low <= scores["f1_50"] <= high and low < high
    low, high = result["intervals"]["mask_ap"]
    assert low <= scores["mask_ap"] <= high


def test_scores_decide_what_counts(dataset: InstanceDataset, tmp_path: Path) -> None:
    predictor = predictor_of(dataset, min_score=0.75)
    result = evaluate_instances(predictor, dataset, "test", tmp_path / "out")
    assert result["scores"]["mask_ap"] == 1 and result["scores"]["recall_50"] < 0.7 and result["min_score"] == 0.75
    result = evaluate_instances(predictor, dataset, "test", tmp_path / "out", min_score=0.0)
    assert result["scores"]["recall_50"] == 1


def test_nothing_is_found(dataset: InstanceDataset, tmp_path: Path) -> None:
    nothing = predictor_of(dataset, lambda found: found.take([]))
    result = evaluate_instances(nothing, dataset, "test", tmp_path / "out")
    assert result["scores"]["mask_ap"] == result["scores"]["f1_50"] == result["scores"]["pq"] == 0
    assert result["scores"]["precision_50"] is None


def test_a_split_without_any_object(dataset: InstanceDataset, tmp_path: Path) -> None:
    empty = [sample for sample in dataset.split("test") if not len(dataset.load_instances(sample))]
    images = replace(dataset.images, splits={"test": tuple(empty)})
    none = replace(dataset, images=images)
    result = evaluate_instances(predictor_of(none), none, "test", tmp_path / "out")
    assert result["scores"]["mask_ap"] is None and result["errors"]["true"] == 0 and len(result["cases"]) == 1


def test_other_classes_are_refused(dataset: InstanceDataset, tmp_path: Path) -> None:
    predictor = predictor_of(dataset)
    renamed = replace(dataset.classes.classes[1], name="cat")
    predictor.classes = replace(dataset.classes, classes=(dataset.classes.classes[0], renamed))
    with pytest.raises(InputError, match="the model's are background, cat"):
        evaluate_instances(predictor, dataset, "test", tmp_path / "out")


def test_crowded_images_are_ranked_whole(dataset: InstanceDataset) -> None:
    label_map = np.zeros((90, 90), int)
    label_map[::5, ::5] = np.arange(1, 325).reshape(18, 18)
    truth = Instances.from_label_map(label_map)
    measures = InstanceMeasures(dataset.classes)
    measures.add(replace(truth, scores=np.linspace(1, 0, 324)), truth)
    assert measures.max_detections == 324 and measures.summary()["mask_ap"] == 1


def test_the_area_under_the_curves_is_the_average_precision(dataset: InstanceDataset) -> None:
    rng = np.random.default_rng(3)
    rows = []
    for number, sample in enumerate(dataset.split("test")):
        truth = dataset.load_instances(sample)
        other = Instances.from_label_map(np.roll(truth.to_label_map(), rng.integers(0, 2, 2), (0, 1)))
        pred = replace(other, scores=rng.random(len(other)))
        rows.append(detection_rows(pred, truth, image=number, num_classes=2))
    curves, table = precision_curves(rows), average_precision(rows).table
    assert np.allclose(curves.mean(axis=2)[1], table[1, 0], atol=1e-12) and 0.05 < table[1, 0].mean() < 0.95
    assert np.isnan(curves[0]).all() and (np.diff(curves[1], axis=1) <= 0).all()


def test_a_set_drawn_as_it_is_has_the_average_precision_itself(dataset: InstanceDataset) -> None:
    rng = np.random.default_rng(4)
    measures = InstanceMeasures(dataset.classes, boundary=False)
    for sample in dataset.split("test"):
        truth = dataset.load_instances(sample)
        other = Instances.from_label_map(np.roll(truth.to_label_map(), rng.integers(0, 2, 2), (0, 1)))
        measures.add(replace(other, scores=rng.random(len(other))), truth)
    rows, truths = measures._kept("mask"), np.stack([part.truths[0] for part in measures.rows["mask"]])
    once = precision_curves(rows, times=np.ones(4, np.int64), truths=truths)[1].mean(axis=1)
    assert np.allclose(once, average_precision(rows).table[1, 0], atol=1e-12)
    twice = precision_curves(rows, times=np.array([2, 0, 1, 1]), truths=truths)[1].mean(axis=1)
    parts = [measures.rows["mask"][image] for image in (0, 0, 2, 3)]
    renumbered = [replace(part, images=np.full(len(part.images), n)) for n, part in enumerate(parts)]
    assert np.allclose(twice, average_precision(renumbered).table[1, 0], atol=0.02)  # ties rank in another order


def test_cases() -> None:
    table = [{"mean_f1": value} for value in (0.5, None, 0.9, 0.1, 0.7)]
    assert choose_cases(table) == [("best", 2), ("median", 4), ("worst", 3)]
    assert choose_cases([{"mean_f1": None}]) == [("best", 0)]


def test_errors_are_drawn_in_their_colours() -> None:
    target = np.zeros((100, 100), int)
    target[10:20, 10:40], target[40:60, 40:60], target[70:80, 10:20], target[70:80, 21:31] = 1, 2, 3, 4
    pred = np.zeros((100, 100), int)
    pred[10:20, 10:24], pred[10:20, 26:40] = 1, 2  # split
    pred[70:80, 10:31] = 3  # merged
    pred[80:90, 80:90] = 4  # false; the second true one is missed
    pictures = [Instances.from_label_map(each, scores=dict.fromkeys(range(1, 5), 1.0)) for each in (pred, target)]
    drawn = draw_errors(np.full((100, 100, 3), 128, np.uint8), *pictures)[:400].astype(int)
    for name in ("missed", "false", "merged", "split"):
        near = np.abs(drawn - ERROR_COLOURS[name]).max(axis=2) < 40
        assert near.sum() > 40, name
    assert not (np.abs(drawn - ERROR_COLOURS["matched"]).max(axis=2) < 30).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nuclei", "person"])
def test_real_truths(name: str, shared_data: Path, tmp_path: Path) -> None:
    whole = open_instances(shared_data / name)
    split = "test" if "test" in whole.splits else "val"
    few = replace(whole, images=replace(whole.images, splits={split: whole.split(split)[:5]}))

    class Known(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            loaded = (few.load_instances(sample).without_crowds() for sample in few.split(split))
            self.found = iter([replace(each, scores=np.full(len(each), 0.9)) for each in loaded])

        def detect(self, image: Tensor, *, size: tuple[int, int] | None = None) -> Instances:
            return next(self.found)

    plain = Normalisation(*(((v,) * few.channels) for v in (0.0, 255.0, 0.0, 1.0)))
    model = InstancePredictor(
        Known(), classes=few.classes, channels=few.channels, normalisation=plain, tile=(5000, 5000)
    )
    scores = evaluate_instances(model, few, split, tmp_path / "out")["scores"]
    assert {value for key, value in scores.items()} <= {1, None} and scores["mask_ap"] == scores["pq"] == 1
    assert set(scores) < set(SCORE_DEFINITIONS)
