"""Objects of an image of any size, whatever its channels, scale and tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fake_detectors import Bright

from perpixel.errors import InputError
from perpixel.images import Normalisation, write_png
from perpixel.inference import InstancePredictor
from perpixel.labels import ClassInfo, ClassTable

CLASSES = ClassTable(
    (
        ClassInfo("background", (0, 0, 0), ()),
        ClassInfo("dim", (250, 10, 20), (7,)),
        ClassInfo("lit", (20, 10, 250), (9,)),
    )
)
PLAIN = Normalisation((0.0,), (255.0,), (0.5,), (0.5,))


def predictor(**more: object) -> InstancePredictor:
    settings: dict = {"classes": CLASSES, "channels": 1, "normalisation": PLAIN, "tile": (64, 64)}
    return InstancePredictor(Bright(), **(settings | more))


def picture(height: int = 150, width: int = 130) -> np.ndarray:
    """Nine squares of two brightnesses on black, some of them in the seams of tiles, and a bar larger than a tile."""
    image = np.zeros((height, width), np.uint8)
    for row in (10, 52, 100):
        for col in (5, 54, 100):
            image[row : row + 14, col : col + 12] = 200 if col == 54 else 255
    image[130:140, 3:120] = 250
    return image


@pytest.mark.parametrize("tile", [(64, 64), (1000, 1000), (40, 64)])
def test_each_object_once(tile: tuple[int, int]) -> None:
    prediction = predictor(tile=tile, overlap=0.3).predict(picture())
    found = prediction.instances
    assert found is not None and len(found) == 10 and sorted(found.areas.tolist()) == [14 * 12] * 9 + [1170]
    assert prediction.label_map.dtype == np.uint8 and prediction.classes is CLASSES
    wanted = np.select([picture() == 200, picture() > 200], [1, 2], 0)
    assert np.array_equal(prediction.label_map, wanted)
    assert found.scores is not None and (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (37, 53)])
def test_any_size(size: tuple[int, int]) -> None:
    prediction = predictor().predict(np.full(size, 255, np.uint8))
    assert prediction.label_map.shape == size and (prediction.label_map == 2).all()
    empty = predictor().predict(np.zeros(size, np.uint8)).instances
    assert empty is not None and len(empty) == 0 and empty.size == size


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_working_scale(scale: float) -> None:
    ours = predictor(scale=scale)
    found = ours.predict(picture()).instances
    assert found is not None and len(found) == 10 and found.size == (150, 130)
    assert max(max(each.shape) for each in ours.model.seen) == 64 * scale
    assert np.allclose(np.sort(found.areas)[:9], 14 * 12, rtol=0.35)


def test_limits_are_those_of_the_whole_image() -> None:
    image = np.full((64, 300), 1000, np.uint16)
    image[20:30, 20:30] = 3000
    ours = predictor(normalisation=Normalisation((0.0,), (1.0,), (0.5,), (0.5,), per_image=True))
    found = ours.predict(image).instances
    # A tile without an object, normalised by itself, would be noise stretched to full range.
    assert found is not None and len(found) == 1
    assert all(float(each.max()) <= -0.9 for each in ours.model.seen[1:])


def test_files_and_channels(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", np.repeat(picture()[..., None], 3, axis=2))
    found = predictor().predict(path).instances
    assert found is not None and len(found) == 10
    many = predictor(channels=5, normalisation=Normalisation(*([(v,) * 5 for v in (0.0, 255.0, 0.5, 0.5)])))
    found = many.predict(np.repeat(picture()[..., None], 5, axis=2)).instances
    assert found is not None and len(found) == 10
    with pytest.raises(InputError, match=r"a\.png: 3 channels, but the model was trained on 5"):
        many.predict(path)


def test_scores_and_numbers() -> None:
    found = predictor(min_score=0.9).predict(picture()).instances
    assert found is not None and len(found) == 7
    assert len(predictor(min_score=0.9).predict(picture(), min_score=0.0).instances or ()) == 10
    best = predictor(max_objects=3).predict(picture()).instances
    assert best is not None and best.scores is not None and len(best) == 3 and (best.scores == 1).all()


def test_crowded_images_are_not_cut_short() -> None:
    image = np.zeros((320, 320), np.uint8)
    image[::4, ::4] = 255
    found = predictor(tile=(200, 200)).predict(image).instances
    assert found is not None and len(found) == 80 * 80


def test_tiles_are_told() -> None:
    told: list[tuple[int, int]] = []
    predictor().predict(picture(), on_tile=lambda done, total: told.append((done, total)))
    assert told == [(number, len(told)) for number in range(1, len(told) + 1)] and len(told) == 9


def test_precision_and_fingerprint() -> None:
    found = predictor(precision="bf16").predict(picture()).instances
    assert found is not None and len(found) == 10
    assert predictor().fingerprint() == predictor().fingerprint() != predictor(min_score=0.5).fingerprint()
    other = predictor()
    with torch.no_grad():
        other.model.level += 0.1
    assert other.fingerprint() != predictor().fingerprint()


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="Linear finds no objects"):
        InstancePredictor(torch.nn.Linear(1, 1), classes=CLASSES, channels=1, normalisation=PLAIN)
    with pytest.raises(InputError, match=r"overlap 1\.0"):
        predictor(overlap=1.0)
    with pytest.raises(InputError, match="min_score is 2"):
        predictor(min_score=2)
    with pytest.raises(InputError, match="max_objects is 0"):
        predictor(max_objects=0)
    with pytest.raises(InputError, match=r"3 of 64 values are NaN"):
        predictor().predict(np.where(np.arange(64) < 3, np.nan, 0.0).reshape(8, 8))
    with pytest.raises(InputError, match="found class 4, but the objects are of classes 1 to 2"):
        InstancePredictor(Bright(3), classes=CLASSES, channels=1, normalisation=PLAIN).predict(picture())
