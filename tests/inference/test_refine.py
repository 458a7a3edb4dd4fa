"""Predictions refined by the CRF, and the image that it sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from perpixel.errors import InputError
from perpixel.images import Normalisation
from perpixel.inference import Predictor
from perpixel.inference.bundle import BundleConfig
from perpixel.inference.crf import CrfSettings, dense_crf
from perpixel.inference.refine import both_classes, crf_image
from perpixel.labels import ClassInfo, ClassTable

CLASSES = ClassTable((ClassInfo("dark", (0, 0, 0), (0,)), ClassInfo("bright", (250, 10, 20), (1,))))
LIMITS = Normalisation((0.0,) * 3, (255.0,) * 3, (0.0,) * 3, (1.0,) * 3)


class Brightness(nn.Module):
    """Logits that grow with the brightness, in as many maps as asked for."""

    def __init__(self, maps: int = 2) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        score = 6 * (image.mean(1, keepdim=True) - 0.5)
        return score if self.maps == 1 else torch.cat([-score, score], 1)


def predictor(maps: int = 2, crf: CrfSettings | None = None) -> Predictor:
    config = BundleConfig(
        model="none", options={}, channels=3, classes=CLASSES, normalisation=LIMITS, scale=1.0, tile=(64, 64),
        precision="fp32", crf=crf,
    )  # fmt: skip
    return Predictor(Brightness(maps), config)


def speckled() -> np.ndarray:
    """Left dark, right bright, with a bright speck on the left that is one pixel only."""
    image = np.full((30, 40, 3), 115, np.uint8)
    image[:, 20:] = 190
    image[14, 8] = 130
    return image


def test_specks_go_and_the_edge_stays() -> None:
    image = speckled()
    net = predictor().predict(image, probs=True, confidence=True, uncertainty=True)
    refined = predictor().predict(image, probs=True, confidence=True, uncertainty=True, crf=CrfSettings())
    assert net.label_map[14, 8] == 1
    assert (refined.label_map == (np.arange(40) >= 20)).all()
    assert refined.label_map.dtype == net.label_map.dtype
    assert refined.probs is not None and net.probs is not None and refined.confidence is not None
    assert (refined.probs == dense_crf(image, net.probs)).all()
    assert (refined.confidence == refined.probs.max(0)).all()
    assert (refined.uncertainty == net.uncertainty).all()  # the net's, as it was
    assert predictor().predict(image, crf=CrfSettings()).probs is None
    assert predictor().predict(image, crf=CrfSettings()).confidence is None


def test_volumes_of_probabilities_are_not_expected() -> None:
    from perpixel.inference.predictor import Prediction
    from perpixel.inference.refine import refined

    prediction = Prediction(np.zeros((2, 3, 4), np.uint8), CLASSES, probs=np.full((2, 2, 3, 4), 0.5))
    with pytest.raises(InputError, match="only label maps of images"):
        refined(prediction, speckled(), LIMITS, CrfSettings())


def test_the_model_s_own_settings() -> None:
    assert predictor().crf_settings() == CrfSettings()
    own = CrfSettings(iterations=3, bilateral_width=50)
    assert predictor(crf=own).crf_settings() == own
    config = predictor(crf=own).config
    assert BundleConfig.from_json(config.to_json(), "config.json").crf == own
    assert "crf" not in predictor().config.to_json()
    broken = {**config.to_json(), "crf": {"bilateral_widht": 3}}
    with pytest.raises(InputError, match=r"config.json: unknown CRF setting 'bilateral_widht'; did you mean"):
        BundleConfig.from_json(broken, "config.json")


def test_a_single_logit_is_class_1_against_class_0() -> None:
    one = np.full((1, 2, 3), 0.25, np.float32)
    assert both_classes(one)[:, 0, 0].tolist() == [0.75, 0.25]
    assert both_classes(both_classes(one)) is not one


def test_the_image_is_stretched_to_the_scale_of_the_widths() -> None:
    image = speckled()
    assert crf_image(image, LIMITS) is image
    deep = Normalisation((100.0,), (1100.0,), (0.5,), (0.2,))
    values = np.array([[[0], [100], [600], [1100], [4000]]], np.uint16)
    assert crf_image(values, deep).ravel() == pytest.approx([0, 0, 127.5, 255, 255])
