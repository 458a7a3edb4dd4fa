"""Settings survive being stored, and say what is wrong with them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.inference.crf import PRESETS, CrfSettings


def test_stored_settings_are_the_same() -> None:
    for settings in (
        CrfSettings(),
        CrfSettings(iterations=3, spatial_width=(1, 2.5), bilateral_range=np.array([3, 4, 5.0])),  # type: ignore[arg-type]
        CrfSettings(compatibility=np.array([[0, 1], [2, 0]])),  # type: ignore[arg-type]
        *(CrfSettings(**preset) for preset in PRESETS.values()),
    ):
        stored = json.loads(json.dumps(settings.to_json()))
        assert CrfSettings.from_json(stored, "config.json") == settings
        assert hash(settings) == hash(CrfSettings.from_json(stored, "config.json"))


def test_published_settings() -> None:
    # kazuto1011/deeplab-pytorch, configs/voc12.yaml, and the script of DeepLab's release.
    second = CrfSettings(**PRESETS["deeplab_v2"])
    assert (second.bilateral_weight, second.bilateral_width, second.bilateral_range) == (4, 67, 3)
    assert (second.spatial_weight, second.spatial_width, second.iterations) == (3, 1, 10)
    first = CrfSettings(**PRESETS["deeplab_v1"])
    assert (first.bilateral_weight, first.bilateral_width, first.bilateral_range) == (4, 49, 5)
    assert (first.spatial_weight, first.spatial_width) == (3, 3)


def test_one_width_is_that_of_every_axis() -> None:
    assert CrfSettings(spatial_width=2).per_axis("spatial_width", 3).tolist() == [2, 2, 2]
    assert CrfSettings(spatial_width=(1, 2)).per_axis("spatial_width", 2).tolist() == [1, 2]
    with pytest.raises(InputError, match="spatial_width has 2 numbers for 3 axes"):
        CrfSettings(spatial_width=(1, 2)).per_axis("spatial_width", 3)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "where a table of CRF settings is needed"),
        ({"iterations": 5, "witdh": 3}, "config.json: unknown CRF setting 'witdh'"),
        ({"iterations": "5"}, "config.json: iterations is '5'"),
        ({"spatial_weight": None}, "config.json: spatial_weight is None"),
        ({"spatial_width": []}, r"config.json: spatial_width is \[\]"),
    ],
)
def test_stored_nonsense_is_refused(value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CrfSettings.from_json(value, "config.json")
