"""Ground truth fed as prediction scores 1 on every measure, for every reader."""

from __future__ import annotations

import importlib.util
import random
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from perpixel.data.instances import INSTANCE_FORMATS, InstanceDataset, check_instances, find_facts, open_instances
from perpixel.metrics import (
    average_precision,
    detection_rows,
    instance_counts,
    instance_scores,
    panoptic_counts,
    panoptic_quality,
)

LAYOUTS = Path(__file__).parents[2] / "fuzz" / "fuzz_instances.py"


@pytest.fixture(scope="module")
def layouts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_instances", LAYOUTS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def scores_of_truth(dataset: InstanceDataset, split: str, most: int, limit: int | None = None) -> dict[str, float]:
    """All scores, by measure and name, of the truth of a split as its own prediction."""
    num_classes = dataset.classes.num_classes
    rows: dict[str, list] = {"box": [], "mask": [], "boundary": []}
    counts, panoptic = None, 0
    for number, sample in enumerate(dataset.split(split)[:limit]):
        target = dataset.load_instances(sample)
        single = target.without_crowds()
        pred = replace(single, scores=np.ones(len(single)))
        for kind, found in rows.items():
            found.append(
                detection_rows(pred, target, image=number, num_classes=num_classes, kind=kind, max_detections=most)
            )
        one = instance_counts(pred, target, num_classes=num_classes)
        counts = one if counts is None else counts + one
        panoptic = panoptic + panoptic_counts(pred, target, num_classes=num_classes)
    assert counts is not None
    found = {
        f"{kind} {name}": value for kind in rows for name, value in average_precision(rows[kind]).summary().items()
    }
    found |= instance_scores(counts).summary()
    return found | panoptic_quality(panoptic).summary()


def assert_all_are_one(found: dict[str, float]) -> None:
    # One detection an image and class cannot find them all; sizes that do not occur have no score.
    wrong = {
        name: value
        for name, value in found.items()
        if value != 1 and not np.isnan(value) and not name.endswith(("ar_1", "ar_10"))
    }
    assert not wrong and found["mask ap"] == found["pq"] == found["f1_95"] == found["aji"] == 1


@pytest.mark.parametrize("name", sorted(INSTANCE_FORMATS))
def test_every_reader(name: str, layouts: ModuleType, tmp_path: Path) -> None:
    layouts.LAYOUTS[name](tmp_path, random.Random(3))
    dataset = open_instances(tmp_path)
    assert dataset.format == name
    assert not check_instances(dataset, workers=1).errors
    assert_all_are_one(scores_of_truth(dataset, "train", 100))


def test_nuclei(shared_data: Path) -> None:
    dataset = open_instances(shared_data / "nuclei")
    assert dataset.format == "label_images" and len(dataset.split("test")) == 50
    assert_all_are_one(scores_of_truth(dataset, "test", 300, limit=6))


@pytest.mark.slow
def test_all_nuclei(shared_data: Path) -> None:
    dataset = open_instances(shared_data / "nuclei")
    assert_all_are_one(scores_of_truth(dataset, "test", 300))
    facts = find_facts(dataset, "test")
    assert facts.objects == 1772 + 330 + 95 and facts.most_objects == 289  # the data's README
    assert facts.overlap_share == 0 and 0.2 < facts.contact_share < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco_subset", "person"])
def test_photographs(name: str, shared_data: Path) -> None:
    dataset = open_instances(shared_data / name)
    result = check_instances(dataset, workers=1)
    assert not result.errors
    assert sum(sum(row) for row in result.class_objects.values()) == {"coco_subset": 929 + 804, "person": 210}[name]
    assert_all_are_one(scores_of_truth(dataset, "val", 100))
    assert result.facts["train"].size_spread > 5
