"""The real sets beside the repository, where they exist."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perpixel.data.check import check_dataset
from perpixel.data.dataset import Dataset, open_dataset


def sizes(dataset: Dataset) -> dict[str, int]:
    return {split: len(samples) for split, samples in dataset.splits.items()}


def test_camvid(shared_data: Path) -> None:
    dataset = open_dataset(shared_data / "camvid")
    assert dataset.format == "pairs" and sizes(dataset) == {"train": 367, "val": 101, "test": 233}
    assert dataset.classes.num_classes == 11 and "void" not in dataset.classes.names
    image, label_map = dataset.load(dataset.split("train")[0])
    assert image.shape == (360, 480, 3) and label_map.shape == (360, 480)
    assert set(np.unique(label_map)) <= {*range(11), 255}


@pytest.mark.slow
def test_camvid_shares_of_pixels(shared_data: Path) -> None:
    result = check_dataset(open_dataset(shared_data / "camvid"))
    assert result.errors == ()
    counts = np.array(result.fingerprint.class_pixels["train"])
    shares = 100 * counts / (counts.sum() + result.fingerprint.ignored_pixels["train"])
    # The table in the data's README.
    expected = [16.85, 23.26, 0.98, 31.66, 4.49, 9.72, 1.17, 1.13, 5.87, 0.64, 0.29]
    assert np.allclose(shares, expected, atol=0.006)


def test_isbi(shared_data: Path) -> None:
    dataset = open_dataset(shared_data / "isbi_em")
    assert sizes(dataset) == {"train": 22, "val": 4, "test": 4}
    assert list(dataset.classes.names) == ["membrane", "cell"]
    result = check_dataset(dataset)
    assert result.errors == () and result.fingerprint.channels == 1
    counts = np.sum(list(result.fingerprint.class_pixels.values()), axis=0)
    assert 100 * counts[0] / counts.sum() == pytest.approx(21.96, abs=0.01)


def test_nuclei_are_objects(shared_data: Path) -> None:
    dataset = open_dataset(shared_data / "nuclei")
    assert dataset.format == "pairs"
    assert sizes(dataset) == {"train": 178, "val": 32, "test": 50}
    assert list(dataset.classes.names) == ["background", "object"] and dataset.channels == 3
    assert any("masks number their objects" in note for note in dataset.notes)
    assert any("images are mixed" in note for note in dataset.notes)
    for sample in dataset.split("test")[:3]:
        image, label_map = dataset.load(sample)
        assert image.shape[2] == 3 and np.unique(label_map).tolist() == [0, 1]


def test_coco_subset(shared_data: Path) -> None:
    dataset = open_dataset(shared_data / "coco_subset")
    assert dataset.format == "coco" and sizes(dataset) == {"train": 128, "val": 80}
    assert dataset.classes.num_classes == 81
    person = list(dataset.classes.names).index("person")
    counts = np.zeros(82, dtype=np.int64)
    for sample in dataset.split("val"):
        assert sample.mask is not None
        label_map, unknown = dataset.encode_mask(sample)
        assert not unknown
        counts += np.bincount(np.minimum(label_map, 81).ravel(), minlength=82)
    # The README's 10.4 counts crowds and hidden parts too.
    assert 100 * counts[person] / counts.sum() == pytest.approx(10.4, abs=0.8)


def test_person(shared_data: Path) -> None:
    dataset = open_dataset(shared_data / "person")
    assert sizes(dataset) == {"train": 57, "val": 19} and list(dataset.classes.names) == ["background", "person"]
    shares = [float((dataset.load_label_map(sample) == 1).mean()) for sample in dataset.split("val")]
    assert 100 * np.mean(shares) == pytest.approx(20.8, abs=1.5)


def test_hippocampus_is_read(shared_data: Path) -> None:
    dataset = open_dataset(shared_data / "hippocampus", val_fraction=0)
    assert dataset.spatial_dims == 3 and dataset.channels == 1
    assert {split: len(samples) for split, samples in dataset.splits.items()} == {"train": 100, "test": 30}
    result = check_dataset(dataset)
    assert not result.errors and not result.warnings
    shares = {
        split: [round(100 * count / sum(counts), 2) for count in counts]
        for split, counts in result.fingerprint.class_pixels.items()
    }
    assert shares == {"train": [94.71, 2.76, 2.53], "test": [94.82, 2.72, 2.47]}  # as its page says
    volumes = result.fingerprint.volumes
    assert volumes is not None and volumes.modalities == ["mr"] and volumes.target_spacing_mm == [1, 1, 1]
    assert [problem.message for problem in result.problems if problem.code == "label_float"] == [
        "1 label maps are stored as float (hippocampus_003.nii.gz): whole numbers, read as such"
    ]
