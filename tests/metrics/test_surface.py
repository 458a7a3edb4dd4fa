"""Surface distances: values worked by hand, MONAI's numbers, spacing, and maps that lack the class."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from perpixel.errors import InputError
from perpixel.metrics import surface_distances


def blobs(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """A few round masks, (shape) bool."""
    rng = np.random.default_rng(seed)
    return ndimage.gaussian_filter(rng.normal(size=shape), 2.5) > 0.02


def test_by_hand() -> None:
    pred, target = np.zeros((2, 9, 9), bool)
    pred[2, 2], target[2, 5] = True, True
    target[6, 2] = True
    found = surface_distances(pred, target)[1]
    assert found.from_pred.tolist() == [3]
    assert found.from_target.tolist() == [3, 4]
    assert found.hausdorff(100) == 4
    assert found.hausdorff(50) == 3.5
    assert found.hausdorff(50, of="pooled") == 3
    assert found.average() == pytest.approx(10 / 3)
    assert found.within(3) == pytest.approx(2 / 3)
    assert found.within(2.9) == 0 and found.within(4) == 1


def test_spacing_scales_each_axis() -> None:
    pred, target = np.zeros((2, 5, 5, 5), bool)
    pred[1, 1, 1], target[2, 3, 2] = True, True
    found = surface_distances(pred, target, spacing=(3.0, 0.5, 0.25))[1]
    assert found.from_pred.tolist() == pytest.approx([math.sqrt(9 + 1 + 0.0625)])
    assert surface_distances(pred, target)[1].hausdorff() == pytest.approx(math.sqrt(1 + 4 + 1))


def test_the_surface_of_a_solid_and_of_what_touches_the_frame() -> None:
    mask = np.ones((4, 4), bool)
    assert len(surface_distances(mask, mask)[1].from_pred) == 12
    cube = np.pad(np.ones((4, 4, 4), bool), 2)
    assert len(surface_distances(cube, cube)[1].from_pred) == 4**3 - 2**3
    assert surface_distances(cube, cube)[1].hausdorff(100) == 0


def test_where_the_class_is_missing() -> None:
    mask, empty = np.eye(4, dtype=bool), np.zeros((4, 4), bool)
    both = surface_distances(empty, empty)[1]
    assert both.is_absent and math.isnan(both.hausdorff()) and math.isnan(both.average()) and math.isnan(both.within(1))
    for one in (surface_distances(mask, empty)[1], surface_distances(empty, mask)[1]):
        assert one.is_one_sided
        assert one.hausdorff() == one.average() == math.inf
        assert one.hausdorff(one_sided=5.5) == one.average(one_sided=5.5) == 5.5
        assert one.within(1e9) == 0


def test_all_classes_at_once_are_each_by_itself() -> None:
    rng = np.random.default_rng(3)
    pred, target = np.kron(rng.integers(0, 4, (2, 5, 6)), np.ones((6, 6), int))
    for label, found in enumerate(surface_distances(pred, target, num_classes=4, spacing=(1, 2))):
        alone = surface_distances(pred == label, target == label, spacing=(1, 2))[1]
        assert found.from_pred.tolist() == alone.from_pred.tolist()
        assert found.from_target.tolist() == alone.from_target.tolist()


def test_ignored_pixels_are_in_neither_mask() -> None:
    target = np.zeros((8, 8), np.uint8)
    target[2:6, 2:6] = 1
    pred = target.copy()
    pred[2:6, 6:] = 1
    target[:, 6:] = 255
    assert surface_distances(pred, target, ignore_index=255)[1].hausdorff(100) == 0


@pytest.mark.parametrize("shape", [(40, 50), (14, 18, 16)])
@pytest.mark.parametrize("spacing", [None, (2.0, 0.7, 1.5)])
def test_it_agrees_with_a_distance_transform(shape: tuple[int, ...], spacing: Any) -> None:
    spacing = spacing and spacing[: len(shape)]
    pred, target = blobs(0, shape), blobs(1, shape)
    cross = ndimage.generate_binary_structure(len(shape), 1)
    edges = [mask & ~ndimage.binary_erosion(mask, cross) for mask in (pred, target)]
    expected = ndimage.distance_transform_edt(~edges[1], sampling=spacing)[edges[0]]
    found = surface_distances(pred, target, spacing=spacing)[1]
    np.testing.assert_allclose(found.from_pred, expected, rtol=1e-12)


@pytest.mark.slow  # importing MONAI takes seconds
@pytest.mark.parametrize("shape", [(48, 40), (20, 24, 18)])
def test_it_agrees_with_monai(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monai = pytest.importorskip("monai.metrics")
        for seed in range(3):
            for spacing in (None, (1.5, 0.5, 2.0)[: len(shape)]):
                pred, target = blobs(seed, shape), blobs(seed + 9, shape)
                found = surface_distances(pred, target, spacing=spacing)[1]
                maps = [torch.from_numpy(np.stack([~mask, mask])[None].astype(np.float32)) for mask in (pred, target)]
                options: dict[str, Any] = {"include_background": False, "spacing": spacing}
                for percentile in (95, 100):
                    theirs = monai.compute_hausdorff_distance(*maps, percentile=percentile, **options)
                    assert found.hausdorff(percentile) == pytest.approx(float(theirs[0, 0]), rel=1e-5)
                average = monai.compute_average_surface_distance(*maps, symmetric=True, **options)
                assert found.average() == pytest.approx(float(average[0, 0]), rel=1e-5)
                for tolerance in (0.9, 2.1):  # between the distances that occur, whatever the rounding
                    theirs = monai.compute_surface_dice(*maps, [tolerance], **options)
                    assert found.within(tolerance) == pytest.approx(float(theirs[0, 0]), abs=1e-6)


def test_errors() -> None:
    mask = np.eye(4, dtype=bool)
    for spacing in ((1.0,), (1.0, 0.0), (1.0, math.nan), (1, 1, 1)):
        with pytest.raises(InputError, match=r"spacing .*one positive number for each of the 2 axes"):
            surface_distances(mask, mask, spacing=spacing)
    found = surface_distances(mask, mask)[1]
    with pytest.raises(InputError, match="percentile is 101"):
        found.hausdorff(101)
    with pytest.raises(InputError, match="of is 'mean': choose one of directed, pooled"):
        found.hausdorff(of="mean")
    with pytest.raises(InputError, match="tolerance is -1"):
        found.within(-1)
