"""CT and MR normalisation, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.images import VolumeNormalisation, normalise_ct, normalise_mr


def volume(*values: float) -> np.ndarray:
    """(1, 1, 1, W)."""
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


def test_ct_is_clipped_then_scaled() -> None:
    found = normalise_ct(volume(-3000, -50, 100, 900), low=-100, high=300, mean=100, std=50)
    np.testing.assert_allclose(found.ravel(), [-4, -3, 0, 4])
    assert found.dtype == np.float32


def test_ct_takes_numbers_for_each_channel() -> None:
    image = np.concatenate([volume(0, 10), volume(0, 10)])
    found = normalise_ct(image, low=(0, 5), high=(10, 10), mean=(0, 5), std=(1, 5))
    np.testing.assert_allclose(found.reshape(2, 2), [[0, 10], [0, 1]])


def test_ct_of_whole_numbers_does_not_overflow() -> None:
    image = np.array([-1024, 3071], np.int16).reshape(1, 1, 1, 2)
    np.testing.assert_allclose(normalise_ct(image, low=-1024, high=3071, mean=-32768, std=1).ravel(), [31744, 35839])


def test_mr_of_each_channel() -> None:
    image = np.concatenate([volume(1, 3), volume(100, 500)])
    np.testing.assert_allclose(normalise_mr(image).reshape(2, 2), [[-1, 1], [-1, 1]], rtol=1e-6)


def test_mr_within_what_is_not_zero() -> None:
    found = normalise_mr(volume(0, 0, 2, 4), nonzero=True)
    np.testing.assert_allclose(found.ravel(), [0, 0, -1, 1], rtol=1e-6)
    # A voxel counts as soon as one channel has a value there.
    both = normalise_mr(np.concatenate([volume(0, 0, 2), volume(0, 1, 1)]), nonzero=True)
    np.testing.assert_allclose(both[0].ravel(), [0, -1, 1], rtol=1e-6)


@pytest.mark.parametrize("nonzero", [False, True])
@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_channel_becomes_0(value: float, nonzero: bool) -> None:
    assert (normalise_mr(volume(value, value), nonzero=nonzero) == 0).all()


def test_large_values_keep_their_spread() -> None:
    image = np.random.default_rng(0).normal(4e5, 10, (1, 30, 40, 50)).astype(np.float32)
    found = normalise_mr(image)
    assert abs(found.mean(dtype=np.float64)) < 1e-3 and found.std(dtype=np.float64) == pytest.approx(1, abs=1e-3)


def test_each_channel_has_its_own_rule() -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 500, (3, 4, 5, 6)).astype(np.int16)
    image[:, 0] = 0
    rules = VolumeNormalisation(
        ("ct", "each_case", "each_case_nonzero"),
        (10.0, 0.0, 0.0),
        (400.0, 1.0, 1.0),
        (200.0, 0.0, 0.0),
        (90.0, 1.0, 1.0),
    )
    found = rules.apply(image)
    assert np.allclose(found[0], (np.clip(image[0], 10, 400) - 200.0) / 90)
    assert abs(found[1].mean()) < 1e-5 and abs(found[1].std() - 1) < 1e-5
    inside = (image != 0).any(axis=0)
    assert np.all(found[2][~inside] == 0) and abs(found[2][inside].mean()) < 1e-5
    assert VolumeNormalisation.from_json(rules.to_json()) == rules


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(InputError, match="normalisation 'pet': choose ct"):
        VolumeNormalisation(("pet",), (0.0,), (1.0,), (0.0,), (1.0,))
