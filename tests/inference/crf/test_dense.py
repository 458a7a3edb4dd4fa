"""The CRF against its definition, and what must not change its answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inference.crf.lattice_by_dictionary import lattice_filter
from inference.crf.scenes import scene
from perpixel.errors import InputError
from perpixel.inference.crf import PRESETS, CrfSettings, dense_crf, exact_crf
from perpixel.inference.crf.coordinates import origin
from perpixel.inference.crf.exact import kernels

# Mild weights leave marginals between 0 and 1, where differences show.
MILD = {
    "bilateral_weight": 1.0,
    "spatial_weight": 0.7,
    "bilateral_width": 9.0,
    "bilateral_range": 20.0,
    "iterations": 4,
}


def by_definition(image: np.ndarray, probs: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """Mean field with the dictionary's lattice and a spatial kernel cut at three widths."""
    spatial, channels = image.shape[:-1], image.shape[-1]
    axes = len(spatial)
    places = np.stack(np.meshgrid(*(np.arange(side) for side in spatial), indexing="ij"), -1).reshape(-1, axes)
    colours = image.reshape(-1, channels) / settings.per_axis("bilateral_range", channels)
    features = np.concatenate([(places / settings.per_axis("bilateral_width", axes))[:, ::-1], colours], 1)
    features += origin(axes + channels)
    near = kernels(image, settings)[0][0]
    apart = np.abs(places[:, None] - places[None])
    near = near * (apart <= np.ceil(3 * settings.per_axis("spatial_width", axes))).all(-1)

    def normalised(apply: Any) -> Any:
        root = 1 / np.sqrt(apply(np.ones((len(places), 1))))
        return lambda values: root * apply(root * values)

    spatially = normalised(lambda values: near @ values)
    alike = normalised(lambda values: lattice_filter(features, values))
    logits = np.log(np.maximum(probs.reshape(len(probs), -1).T.astype(np.float64), 1e-5))
    matrix = 1 - np.eye(len(probs)) if settings.compatibility is None else np.array(settings.compatibility)
    marginals = softmax(logits)
    for _ in range(settings.iterations):
        heard = settings.spatial_weight * spatially(marginals) + settings.bilateral_weight * alike(marginals)
        marginals = softmax(logits - heard @ matrix.T)
    return marginals.T.reshape(probs.shape)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


MATRIX = [[0, 1, 2, 1], [0.5, 0, 1, 1], [1, 3, 0, 1], [1, 1, 1, -0.5]]


@pytest.mark.parametrize(
    ("spatial", "channels", "extra"),
    [
        ((13, 17), 3, {}),
        ((13, 17), 1, {"spatial_width": 40.0}),
        ((9, 11), 6, {"spatial_width": (1.0, 2.5), "bilateral_width": (20.0, 5.0)}),
        ((13, 17), 3, {"compatibility": MATRIX}),
        ((6, 7, 9), 1, {"spatial_width": (0.8, 2.0, 1.5)}),
    ],
)
def test_as_defined_exactly(spatial: tuple[int, ...], channels: int, extra: dict[str, Any]) -> None:
    image, probs = scene(spatial, channels=channels)
    settings = CrfSettings(**{**MILD, **extra})
    got = dense_crf(image, probs, **settings.to_json())
    assert np.abs(got - by_definition(image, probs, settings)).max() < 2e-5
    assert np.abs(got - probs).mean() > 0.02  # it did something


@pytest.mark.parametrize("normalisation", ["symmetric", "before", "after"])
def test_near_every_pair_of_pixels(normalisation: str) -> None:
    image, probs = scene((40, 50), labels=5)
    settings = CrfSettings(normalisation=normalisation, **MILD)
    exact = exact_crf(image, probs, settings)
    got = dense_crf(image, probs, **settings.to_json())
    assert np.abs(exact - probs).mean() > 0.02
    assert np.abs(got - exact).mean() < 0.01
    assert (got.argmax(0) == exact.argmax(0)).mean() > 0.98


def test_without_normalisation_the_lattice_is_a_gaussian_within_a_tenth() -> None:
    image, probs = scene((16, 20))
    settings = CrfSettings(**MILD | {"bilateral_weight": 0.01, "spatial_weight": 0.0}, normalisation="none")
    exact = exact_crf(image, probs, settings)
    assert np.abs(dense_crf(image, probs, **settings.to_json()) - exact).mean() < 0.02


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_near_every_pair_of_pixels(preset: str) -> None:
    image, probs = scene((32, 32), noise=2)
    settings = CrfSettings(**PRESETS[preset])
    got = dense_crf(image, probs, **settings.to_json())
    assert np.abs(got - exact_crf(image, probs, settings)).mean() < 0.01


def test_one_kernel_alone_and_none() -> None:
    image, probs = scene((20, 24))
    for off in ("spatial_weight", "bilateral_weight"):
        settings = replace(CrfSettings(**MILD), **{off: 0.0})
        got = dense_crf(image, probs, **settings.to_json())
        assert np.abs(got - exact_crf(image, probs, settings)).mean() < 0.01
    left = dense_crf(image, probs, spatial_weight=0, bilateral_weight=0)
    assert left == pytest.approx(np.maximum(probs, 1e-5), abs=1e-6)
    assert dense_crf(image, probs, iterations=0) == pytest.approx(probs, abs=1e-6)


@pytest.mark.parametrize("labels", [1, 2, 8, 9, 21, 70])
def test_marginals_add_up_to_one(labels: int) -> None:
    image, probs = scene((12, 10), labels=labels)
    got = dense_crf(image, probs)
    assert got.shape == probs.shape and got.dtype == np.float32
    assert got.min() >= 0
    assert np.abs(got.sum(0) - 1).max() < 1e-5


def test_labels_may_be_numbered_in_any_order() -> None:
    image, probs = scene(labels=11)
    order = np.random.default_rng(5).permutation(11)
    assert dense_crf(image, probs[order], **MILD) == pytest.approx(dense_crf(image, probs, **MILD)[order], abs=1e-5)


def test_compatibility_moves_with_the_labels() -> None:
    image, probs = scene()
    order = np.array([2, 0, 3, 1])
    matrix = np.array(MATRIX)
    turned = dense_crf(image, probs[order], compatibility=matrix[order][:, order], **MILD)
    assert turned == pytest.approx(dense_crf(image, probs, compatibility=matrix, **MILD)[order], abs=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_flips_turn_the_answer_round(axis: int) -> None:
    """Exactly where only the grid filter works; the lattice lies askew, so that there its known error shows."""
    image, probs = scene()
    for settings, tolerance in ((MILD | {"bilateral_weight": 0.0}, 1e-5), (MILD, 0.02)):
        flipped = dense_crf(np.flip(image, axis), np.flip(probs, axis + 1), **settings)
        straight = dense_crf(image, probs, **settings)
        assert np.abs(np.flip(flipped, axis + 1) - straight).mean() < tolerance


def test_potts_is_the_matrix_of_ones_without_diagonal() -> None:
    image, probs = scene()
    potts = dense_crf(image, probs, **MILD)
    assert dense_crf(image, probs, compatibility=1 - np.eye(4), **MILD) == pytest.approx(potts, abs=1e-5)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    image, probs = scene((190, 200), labels=3)
    once, *others = (dense_crf(image, probs, iterations=3, threads=threads) for threads in (1, 2, 5))
    assert all((once == other).all() for other in others)


@pytest.mark.slow
def test_four_megapixels() -> None:
    image, probs = scene((2048, 2048), labels=5)
    got = dense_crf(image, probs, iterations=2)
    assert np.abs(got.sum(0) - 1).max() < 1e-5


def test_steps_are_told() -> None:
    image, probs = scene()
    steps: list[tuple[int, np.ndarray]] = []
    last = dense_crf(image, probs, iterations=3, on_step=lambda i, marginals: steps.append((i, marginals)))
    assert [i for i, _ in steps] == [0, 1, 2, 3]
    assert steps[0][1] == pytest.approx(probs, abs=1e-6)
    for i, marginals in steps[1:]:
        assert (marginals == dense_crf(image, probs, iterations=i)).all()
    assert (steps[-1][1] == last).all()


def test_clears_noise_and_keeps_the_edge() -> None:
    random = np.random.default_rng(0)
    truth = np.zeros((40, 40), int)
    truth[:, 17:] = 1
    image = np.where(truth, 180, 60)[..., None] + random.normal(0, 4, (40, 40, 3))
    wrong = random.random((40, 40)) < 0.25
    probs = np.where((np.arange(2)[:, None, None] == truth) ^ wrong, 0.7, 0.3).astype(np.float32)
    assert (dense_crf(image.astype(np.uint8), probs).argmax(0) == truth).mean() > 0.99


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
def test_images_of_any_numbers(dtype: Any) -> None:
    image, probs = scene()
    assert dense_crf(image.astype(dtype) + dtype(30), probs, **MILD) == pytest.approx(
        dense_crf(image, probs, **MILD), abs=0.1
    )
    assert dense_crf(image, probs.astype(np.float16), **MILD) == pytest.approx(
        dense_crf(image, probs, **MILD), abs=0.01
    )


def test_defined_results_at_the_limits() -> None:
    image, probs = scene((8, 9))
    assert (dense_crf(image, np.ones((1, 8, 9), np.float32)) == 1).all()
    constant = np.full_like(image, 77)
    settings = CrfSettings(**MILD)
    flat = dense_crf(constant, probs, **settings.to_json())
    assert np.abs(flat - exact_crf(constant, probs, settings)).mean() < 0.01
    wide = dense_crf(image, probs, bilateral_width=1e4, spatial_width=1e4, bilateral_range=1e4, iterations=1)
    # Everything is beside everything: all pixels hear the mean.
    heard = 13 * probs.mean((1, 2))
    expected = np.log(probs) + heard[:, None, None]
    expected = np.exp(expected - expected.max(0))
    assert wide == pytest.approx(expected / expected.sum(0), abs=0.02)
    one_pixel = dense_crf(image[:1, :1], probs[:, :1, :1])
    assert one_pixel.shape == (4, 1, 1) and np.isfinite(one_pixel).all()
    certain = np.zeros((2, 8, 9), np.float32)
    certain[0] = 1
    assert dense_crf(image, certain)[0] == pytest.approx(np.ones((8, 9)), abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((8, 10, 3))}, r"image of \(8, 10\) and probs of \(8, 9\) pixels: resize"),
        ({"image": np.zeros((8, 9))}, r"image: shape \(8, 9\)"),
        ({"image": np.full((8, 9, 1), np.nan)}, "image: 72 of 72 values are NaN"),
        ({"image": np.full((8, 9, 1), "x")}, "image: shape .* give numbers"),
        ({"probs": np.full((4, 8, 9), 0.5)}, r"add up to 2 over the classes at pixel \(0, 0\)"),
        ({"probs": np.full((4, 8, 9), np.nan)}, r"probs: NaN or infinite at pixel \(0, 0\)"),
        ({"probs": np.stack([np.full((8, 9), v) for v in (-1.0, 2.0, 0, 0)])}, r"probs: -1 at pixel \(0, 0\).*softmax"),
        ({"probs": np.ones((4, 8, 9), int)}, "probs: shape .* int64: give floats"),
        ({"probs": np.zeros((0, 8, 9))}, r"probs: shape \(0, 8, 9\)"),
        ({"probs": np.full((2, 9), 0.5)}, r"probs: shape \(2, 9\)"),
        ({"spatial_width": 0}, "spatial_width is 0: give more than 0"),
        ({"bilateral_range": -1.0}, "bilateral_range is -1.0"),
        ({"bilateral_width": float("nan")}, "bilateral_width is nan"),
        ({"bilateral_width": "wide"}, "bilateral_width is 'wide'"),
        ({"bilateral_width": (1, 2, 3)}, "bilateral_width has 3 numbers for 2 axes"),
        ({"bilateral_range": (1, 2)}, "bilateral_range has 2 numbers for 3 channels"),
        ({"bilateral_range": 1e-7}, "widths of a kernel: make the widths larger"),
        ({"bilateral_weight": -2}, "bilateral_weight is -2: give 0"),
        ({"iterations": -1}, "iterations is -1"),
        ({"iterations": 2.5}, "iterations is 2.5"),
        ({"normalisation": "symetric"}, "did you mean 'symmetric'"),
        ({"compatibility": [[0, 1], [1, 0]]}, "compatibility of 2 classes for 4 in probs"),
        ({"compatibility": [[0, 1]]}, r"compatibility of shape \(1, 2\)"),
        ({"compatibility": "potts"}, "compatibility of shape"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_bad_input_is_said_in_one_sentence(change: dict[str, Any], message: str) -> None:
    image, probs = scene((8, 9))
    with pytest.raises(InputError, match=message) as error:
        dense_crf(**{"image": image, "probs": probs, **change})
    assert "\n" not in str(error.value)


def test_the_first_bad_pixel_is_named() -> None:
    image, probs = scene((100, 200), labels=2)
    probs[:, 80, 7] = np.nan
    with pytest.raises(InputError, match=r"pixel \(80, 7\)"):
        dense_crf(image, probs)


def test_large_images_are_refused_by_the_exact_form() -> None:
    image, probs = scene((70, 70))
    with pytest.raises(InputError, match="image of 4900 pixels: pairs of at most 4096"):
        exact_crf(image, probs)
