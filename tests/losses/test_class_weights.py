from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.labels import read_mask
from perpixel.losses import CLASS_WEIGHTS, class_weights, positive_weight

# CamVid, 367 training masks of 480 x 360 as the SegNet authors prepared them: pixels of each class, images with it.
CAMVID_PIXELS = [10682767, 14750079, 623349, 20076880, 2845085, 6166762, 743859, 714595, 3719877, 405385, 184967]
CAMVID_IMAGES = [366, 365, 366, 367, 349, 319, 351, 173, 360, 317, 201]
CAMVID_VOID_PIXELS, CAMVID_VOID_IMAGES = 2503995, 367
# The weights that they released, alexgkendall/SegNet-Tutorial:Models/segnet_train.prototxt.
SEGNET = [0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614]
SIGN = 6  # the released weight fits no count of these masks; on the other ten, formula and release agree to a fifth


def test_by_hand() -> None:
    pixels = [60, 30, 10]
    assert class_weights("none", pixels).tolist() == [1, 1, 1]
    np.testing.assert_allclose(class_weights("inverse", pixels), [100 / 180, 100 / 90, 100 / 30], rtol=1e-6)
    np.testing.assert_allclose(
        class_weights("sqrt_inverse", pixels), np.sqrt([100 / 180, 100 / 90, 100 / 30]), rtol=1e-6
    )
    np.testing.assert_allclose(
        class_weights("enet", pixels), [1 / math.log(1.62), 1 / math.log(1.32), 1 / math.log(1.12)], rtol=1e-6
    )
    # frequencies 60/200, 30/100, 10/100 in images of 100 pixels
    np.testing.assert_allclose(class_weights("median_frequency", pixels, [2, 1, 1]), [1, 1, 3], rtol=1e-6)


def test_median_frequency_with_images_of_different_sizes() -> None:
    weights = class_weights("median_frequency", [60, 30, 10], image_pixels=[200, 50, 200])
    np.testing.assert_allclose(weights, [1, 0.5, 6], rtol=1e-6)
    one_size = class_weights("median_frequency", [60, 30, 10], [2, 1, 1], image_pixels=100)
    np.testing.assert_allclose(one_size, class_weights("median_frequency", [60, 30, 10], [2, 1, 1]))


def test_median_frequency_is_what_segnet_released() -> None:
    ours = class_weights("median_frequency", CAMVID_PIXELS, CAMVID_IMAGES).numpy()
    others = np.arange(11) != SIGN
    np.testing.assert_allclose(ours[others], np.array(SEGNET)[others], rtol=0.21)
    without_sign = np.argsort(ours[others])
    assert (without_sign == np.argsort(np.array(SEGNET)[others])).all()


def test_segnet_counted_void_as_a_class() -> None:
    """No released weight is 1, as the median class of eleven would have: with void there are twelve.

    Then sky, building, pole, road, pavement, tree and fence agree to 4 %, car and pedestrian to 7 %, bicyclist to 11 %.
    The released weight of sign is 2.7 times ours.
    """
    pixels, images = [*CAMVID_PIXELS, CAMVID_VOID_PIXELS], [*CAMVID_IMAGES, CAMVID_VOID_IMAGES]
    ratios = class_weights("median_frequency", pixels, images).numpy()[:11] / np.array(SEGNET)
    off = np.abs(ratios - 1)
    assert off[[0, 1, 2, 3, 4, 5, 7]].max() < 0.04
    assert off[[8, 9]].max() < 0.07 and off[10] < 0.11
    assert ratios[SIGN] == pytest.approx(0.366, abs=0.001)


def test_the_counts_are_those_of_the_masks(shared_data: Path) -> None:
    folder = shared_data / "camvid" / "train" / "masks"
    if not folder.is_dir():
        pytest.skip("CamVid is not there")
    counts = np.array([np.bincount(read_mask(path).values.ravel(), minlength=12) for path in folder.glob("*.png")])
    assert counts.sum(axis=0).tolist() == [*CAMVID_PIXELS, CAMVID_VOID_PIXELS]
    assert (counts > 0).sum(axis=0).tolist() == [*CAMVID_IMAGES, CAMVID_VOID_IMAGES]


def test_effective_number_by_hand() -> None:
    # 1 / (1 - 0.9^n) for n = 1, 2: 10 and 1 / 0.19, scaled to a mean of 1; times (1 - b) alike for both.
    each = np.array([10, 1 / 0.19])
    np.testing.assert_allclose(class_weights("effective_number", [1, 2], beta=0.9), each / each.mean(), rtol=1e-6)
    assert class_weights("effective_number", [60, 0, 20], beta=0).tolist() == [1, 0, 1]
    almost = class_weights("effective_number", [60, 30, 10], beta=1 - 1e-9).numpy()
    inverse = class_weights("inverse", [60, 30, 10]).numpy()
    np.testing.assert_allclose(almost / almost[0], inverse / inverse[0], rtol=1e-5)


def test_effective_number_lies_between_none_and_inverse_and_does_not_depend_on_the_scale() -> None:
    small, large = (class_weights("effective_number", np.array([90, 9, 1]) * factor) for factor in (10**4, 10**8))
    np.testing.assert_allclose(small, large, rtol=1e-3)
    assert 1 < small[2] / small[0] < 90


def test_a_class_never_seen() -> None:
    assert class_weights("median_frequency", [60, 0, 20], [1, 0, 1]).tolist() == pytest.approx([40 / 60, 0, 2])
    assert class_weights("inverse", [60, 0, 20]).tolist() == pytest.approx([80 / 120, 0, 2])
    assert class_weights("enet", [60, 0, 20])[1].item() == pytest.approx(50.498, abs=1e-3)


def test_enet_stays_in_its_range() -> None:
    weights = class_weights("enet", [10**9, 1])
    assert 1.42 < weights[0] < 1.43
    assert 50 < weights[1] < 51


def test_rarer_classes_never_weigh_less() -> None:
    for kind in CLASS_WEIGHTS:
        weights = class_weights(kind, [1000, 500, 20, 1], [1, 1, 1, 1])
        assert (weights.diff() >= 0).all(), kind


def test_positive_weight() -> None:
    assert positive_weight(20, 60) == 3
    assert positive_weight(0, 60) == 1


def test_errors() -> None:
    with pytest.raises(InputError, match="unknown class weights 'median'; did you mean 'median_frequency'"):
        class_weights("median", [1, 2])
    with pytest.raises(InputError, match="'median_frequency' need class_images"):
        class_weights("median_frequency", [1, 2])
    with pytest.raises(InputError, match="class_pixels holds -1"):
        class_weights("inverse", [1, -1])
    with pytest.raises(InputError, match="class_pixels are all 0"):
        class_weights("inverse", [0, 0])
    with pytest.raises(InputError, match="beta is 1: give 0 up to 1"):
        class_weights("effective_number", [1, 2], beta=1)
    with pytest.raises(InputError, match=r"beta is 0\.5.*only with 'effective_number'"):
        class_weights("inverse", [1, 2], beta=0.5)
    with pytest.raises(InputError, match=r"class_images has shape \(3,\): give one count a class, 2"):
        class_weights("median_frequency", [1, 2], [1, 1, 1])
