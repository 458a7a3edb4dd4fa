"""Resampling of volumes: by hand, against SciPy's splines, and what must hold for any grid."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from perpixel.images import (
    Geometry,
    find_coarse_axis,
    plan_resampling,
    resample_image,
    resample_label_map,
    resample_probs,
    resampled_argmax,
    resampled_geometry,
    resampled_shape,
)
from perpixel.images.resample import axis_weights

SHAPES = [((8, 9, 7), (5, 14, 7)), ((12, 10, 11), (20, 20, 20)), ((16, 6, 9), (3, 2, 30)), ((70, 4, 4), (150, 3, 5))]


def random_labels(shape: tuple[int, int, int], values: tuple[int, ...] = (0, 1, 2, 5)) -> np.ndarray:
    """Smooth blobs: labels without thin noise."""
    noise = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(len(values), *shape)), (0, 1, 1, 1))
    return np.array(values, np.uint8)[noise.argmax(axis=0)]


def line(values: list[float]) -> np.ndarray:
    """(1, 1, 1, W)."""
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


def test_linear_weights_by_hand() -> None:
    # Twice as many: centres at -1/4, 1/4, 3/4, 5/4; beyond the border the axis is mirrored.
    expected = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_allclose(axis_weights("linear", 2, 4).matrix, expected, atol=1e-7)
    np.testing.assert_allclose(axis_weights("linear", 4, 2).matrix, [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]], atol=1e-7)


def test_nearest_weights_by_hand() -> None:
    np.testing.assert_array_equal(axis_weights("nearest", 2, 5).matrix.argmax(axis=1), [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(axis_weights("nearest", 6, 2).matrix.argmax(axis=1), [1, 4])


@pytest.mark.parametrize("side", [1, 2, 3, 7, 40])
def test_cubic_goes_through_its_samples(side: int) -> None:
    np.testing.assert_allclose(axis_weights("cubic", side, side).matrix, np.eye(side), atol=1e-7)


def test_cubic_by_hand() -> None:
    # Two samples 0 and 1, mirrored: (5 c0 + c1) / 6 = 0 and (c0 + 5 c1) / 6 = 1 give c0 = -1/4, c1 = 5/4. At -1/4 the
    # splines of c1 are those at 1 and at -2, 5/4 and 7/4 away, where b(d) = (2 - d)^3 / 6; all four sum to 1.
    value = resample_image(line([0, 1]), (1, 1, 4))[0, 0, 0, 0]
    assert value == pytest.approx(-0.25 + 1.5 * (0.75**3 + 0.25**3) / 6, abs=1e-6)


@pytest.mark.parametrize(("source", "target"), SHAPES[:2])
def test_as_scipy_does_it(source: tuple[int, int, int], target: tuple[int, int, int]) -> None:
    values = np.random.default_rng(0).normal(size=source).astype(np.float32)
    zoom = [there / here for here, there in zip(source, target)]
    cubic = ndimage.zoom(values.astype(float), zoom, order=3, mode="reflect", grid_mode=True)
    np.testing.assert_allclose(resample_image(values[None], target)[0], cubic, atol=1e-5)
    linear = ndimage.zoom(values.astype(float), zoom, order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(resample_probs(values[None], target)[0], linear, atol=1e-5)


@pytest.mark.parametrize("coarse_axis", [None, 0, 2])
@pytest.mark.parametrize(("source", "target"), SHAPES)
def test_what_always_holds(source: tuple[int, int, int], target: tuple[int, int, int], coarse_axis: int | None) -> None:
    constant = resample_image(np.full((2, *source), -3.25), target, coarse_axis=coarse_axis)
    np.testing.assert_allclose(constant, -3.25, rtol=1e-6)
    labels = random_labels(source)
    changed = resample_label_map(labels, target, coarse_axis=coarse_axis)
    assert changed.shape == target and changed.dtype == labels.dtype
    assert set(np.unique(changed)) <= set(np.unique(labels))
    probs = np.random.default_rng(0).dirichlet(np.ones(4), source).transpose(3, 0, 1, 2).astype(np.float32)
    back = resample_probs(probs, target, coarse_axis=coarse_axis)
    np.testing.assert_allclose(back.sum(axis=0), 1, atol=1e-6)
    assert back.min() >= 0


def test_the_same_grid_is_left_alone() -> None:
    values = np.random.default_rng(0).normal(size=(1, 5, 6, 7)).astype(np.float32)
    np.testing.assert_array_equal(resample_image(values, (5, 6, 7)), values)
    labels = random_labels((5, 6, 7))
    same = resample_label_map(labels, (5, 6, 7))
    np.testing.assert_array_equal(same, labels)
    assert not np.shares_memory(same, labels)


@pytest.mark.parametrize(("source", "target"), SHAPES)
def test_labels_are_the_argmax_of_their_one_hot_maps(
    source: tuple[int, int, int], target: tuple[int, int, int]
) -> None:
    labels = random_labels(source)
    values = np.unique(labels)
    shares = resample_probs((labels == values[:, None, None, None]).astype(np.float32), target)
    largest = shares.max(axis=0)
    chosen = np.take_along_axis(shares, np.searchsorted(values, resample_label_map(labels, target))[None], axis=0)[0]
    np.testing.assert_allclose(chosen, largest, atol=1e-6)  # ties may fall to either side


def test_argmax_slab_by_slab() -> None:
    probs = np.random.default_rng(2).random((5, 9, 8, 7), dtype=np.float32)
    whole = resample_probs(probs, (75, 9, 11)).argmax(axis=0)
    np.testing.assert_array_equal(resampled_argmax(probs, (75, 9, 11)), whole)
    coarse = resample_probs(probs, (75, 9, 11), coarse_axis=0).argmax(axis=0)
    np.testing.assert_array_equal(resampled_argmax(probs, (75, 9, 11), coarse_axis=0), coarse)


def test_along_the_coarse_axis_nothing_is_mixed() -> None:
    image = np.zeros((1, 2, 4, 4), np.float32)
    image[0, 1] = 8
    assert set(np.unique(resample_image(image, (5, 4, 4), coarse_axis=0))) == {0, 8}
    assert len(np.unique(resample_image(image, (5, 4, 4)))) > 2


def test_a_blob_stays_where_it_is_in_the_world() -> None:
    affine = np.array([[0.0, 0, -0.8, 12], [0, -1.1, 0, -7], [2.0, 0, 0, 5], [0, 0, 0, 1]])
    source = Geometry((24, 40, 36), affine)
    places = np.stack(np.indices(source.shape), axis=-1)
    centre = np.array([11.3, 19.8, 17.1])
    away = np.linalg.norm((places - centre) * source.spacing_mm, axis=-1)
    before = source.position_mm(centre)
    for spacing in ((1.0, 1.0, 1.0), (3.0, 0.5, 2.0), (1.3, 1.7, 0.6)):
        plan = plan_resampling(source, spacing)
        bright = plan.image(np.exp(-((away / 6) ** 2))[None])[0].astype(float)
        labels = plan.label_map((away < 8).astype(np.uint8))
        finest = min(*plan.target.spacing_mm, *source.spacing_mm)
        for weights, share in ((bright, 0.05), (labels.astype(float), 0.35)):
            index = np.array([(weights.sum(axis=tuple({0, 1, 2} - {a})) * np.arange(n)).sum() / weights.sum()
                              for a, n in enumerate(weights.shape)])  # fmt: skip
            assert np.linalg.norm(plan.target.position_mm(index) - before) < share * finest


def test_there_and_back_again() -> None:
    labels = random_labels((14, 30, 30), (0, 1, 2))
    geometry = Geometry(labels.shape, np.diag([3.0, 1.0, 1.0, 1.0]))  # type: ignore[arg-type]
    plan = plan_resampling(geometry, (1.0, 0.8, 0.8))
    finer = plan.label_map(labels)
    probs = np.stack([finer == value for value in range(3)]).astype(np.float32)
    back = plan.label_map_back(probs)
    assert back.shape == labels.shape
    assert (back == labels).mean() > 0.97
    np.testing.assert_array_equal(plan.probs_back(probs).argmax(axis=0), back)


def test_sizes_and_geometry_by_hand() -> None:
    assert resampled_shape((10, 20, 30), (3.0, 1.0, 1.0), (1.0, 1.0, 2.0)) == (30, 20, 15)
    assert resampled_shape((2, 2, 2), (1.0, 1.0, 1.0), (9.0, 9.0, 9.0)) == (1, 1, 1)
    doubled = resampled_geometry(Geometry((4, 4, 4), np.diag([2.0, 2.0, 2.0, 1.0])), (8, 4, 2))
    assert doubled.spacing_mm == (1.0, 2.0, 4.0)
    # The box from -1 to 7 mm stays: first centres at -0.5, 0 and 1.
    np.testing.assert_allclose(doubled.affine[:3, 3], (-0.5, 0, 1))


@pytest.mark.parametrize(
    ("spacing", "target", "axis"),
    [
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
        ((3.1, 1.0, 1.0), (1.0, 1.0, 1.0), 0),
        ((1.0, 5.0, 1.0), (1.0, 1.0, 1.0), 1),
        ((1.0, 1.0, 1.0), (1.0, 1.0, 4.0), 2),
        ((5.0, 5.0, 1.0), (1.0, 1.0, 1.0), None),
    ],
)
def test_coarse_axis(spacing: tuple[float, ...], target: tuple[float, ...], axis: int | None) -> None:
    assert find_coarse_axis(spacing, target) == axis
