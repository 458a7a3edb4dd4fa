"""What a pixel forest sees of a pixel: a bank of Gaussian filters at several widths, ilastik's set.

| name | planes a channel and sigma | what it is |
| --- | --- | --- |
| smoothing | 1 | Gaussian |
| laplacian | 1 | Laplacian of the Gaussian |
| gradient | 1 | length of the Gaussian gradient |
| difference | 1 | Gaussian of sigma less the one of 0.66 sigma |
| structure | one an axis | eigenvalues of the structure tensor: products of gradients, smoothed by half of sigma |
| hessian | one an axis | eigenvalues of the matrix of second derivatives |

Eigenvalues come largest first. A window ends at 3.5 sigma; beyond the border the image is mirrored. Sigmas below 0.5
have windows too narrow for derivatives: they give `smoothing` only.

The bank is written once for NumPy arrays and torch tensors; a form (`classical/forms.py`) lends it the operations that
differ, so that a tree decides alike on both.

Reference: the feature set of ilastik (Berg et al., "ilastik: interactive machine learning for (bio)image analysis",
Nature Methods 2019). Here every width is computed from the image itself, not from an already smoothed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from perpixel.classical.forms import ArrayForm, TorchForm, eigenvalues
from perpixel.errors import InputError, did_you_mean

FEATURES = ("smoothing", "laplacian", "gradient", "difference", "structure", "hessian")
# Windows end at this many sigmas.
WINDOW = 3.5
_SMALLEST, _LARGEST = 0.3, 10.0
# Below this sigma a derivative's window is three pixels wide, or less.
_SMALLEST_DERIVATIVE = 0.5
_DIFFERENCE_RATIO, _OUTER_RATIO = 0.66, 0.5


@dataclass(frozen=True)
class FilterBank:
    """Which filters at which widths.

    Args:
        sigmas: in pixels, 0.3 to 10.
        features: names from FEATURES.
    Raises:
        InputError: no or unknown names, no sigmas, one out of range, or one that gives nothing.
    """

    sigmas: tuple[float, ...] = (0.7, 1.0, 1.6, 3.5, 5.0)
    features: tuple[str, ...] = FEATURES

    def __post_init__(self) -> None:
        for name in self.features:
            if name not in FEATURES:
                raise InputError(f"unknown feature '{name}'{did_you_mean(name, FEATURES)}")
        for what, values in (("features", self.features), ("sigmas", self.sigmas)):
            if not values or len(set(values)) != len(values):
                raise InputError(f"{what}={list(values)}: give one or more, each once")
        for sigma in self.sigmas:
            if not _SMALLEST <= sigma <= _LARGEST:
                raise InputError(f"sigmas holds {sigma:g}: it must lie in {_SMALLEST}..{_LARGEST:g} pixels")
            if not self._at(sigma):
                raise InputError(
                    f"sigmas holds {sigma:g}, at which 'smoothing' is the only feature (below "
                    f"{_SMALLEST_DERIVATIVE}): leave it out, or add 'smoothing' to features"
                )

    def _at(self, sigma: float) -> tuple[str, ...]:
        """The features of one sigma, in the order of FEATURES."""
        few = sigma < _SMALLEST_DERIVATIVE
        return tuple(name for name in FEATURES if name in self.features and (not few or name == "smoothing"))

    def names(self, dims: int) -> list[str]:
        """What the planes of one channel are, in their order: 'hessian 2 at sigma 1.6'."""
        return [
            f"{name}{f' {number}' if planes > 1 else ''} at sigma {sigma:g}"
            for sigma in self.sigmas
            for name in self._at(sigma)
            for planes in [dims if name in ("structure", "hessian") else 1]
            for number in range(1, planes + 1)
        ]

    @property
    def halo(self) -> int:
        """How far from a pixel its features look."""
        return max(self._margin(sigma) + radius(sigma) for sigma in self.sigmas)

    def _margin(self, sigma: float) -> int:
        """How far beyond the pixels wanted the derivatives of `sigma` are needed."""
        return radius(_OUTER_RATIO * sigma) if "structure" in self._at(sigma) else 0

    def planes(self, image: Any, form: ArrayForm | TorchForm) -> list[Any]:
        """The features of all pixels but those within `halo` of the border.

        Args:
            image: (C, *spatial) float32, 2 or 3 spatial axes.
        Returns:
            For each of `names`, (C, *spatial less 2 halo) float32.
        """
        return [plane for sigma in self.sigmas for plane in self._planes(image, sigma, form)]

    def _planes(self, image: Any, sigma: float, form: ArrayForm | TorchForm) -> list[Any]:
        wanted, margin, dims = self._at(sigma), self._margin(sigma), image.ndim - 1
        derivatives = _Derivatives(crop(image, self.halo - radius(sigma) - margin), sigma, form)
        none = (0,) * dims
        found: dict[str, list[Any]] = {}
        inner = {orders: crop(derivatives(orders), margin) for orders in _needed(wanted, dims)}
        first, second = _unit_orders(dims, 1), _unit_orders(dims, 2)
        if "smoothing" in wanted:
            found["smoothing"] = [inner[none]]
        if "laplacian" in wanted:
            found["laplacian"] = [_sum([inner[orders] for orders in second])]
        if "gradient" in wanted:
            found["gradient"] = [form.sqrt(_sum([inner[orders] * inner[orders] for orders in first]))]
        if "difference" in wanted:
            narrow = _DIFFERENCE_RATIO * sigma
            source = crop(image, self.halo - radius(narrow))
            found["difference"] = [inner[none] - _Derivatives(source, narrow, form)(none)]
        if "structure" in wanted:
            gradient = [derivatives(orders) for orders in first]
            products = [a * b for a, b in combinations_with_replacement(gradient, 2)]
            outer = [_Derivatives(each, _OUTER_RATIO * sigma, form)(none) for each in products]
            found["structure"] = eigenvalues(outer, form)
        if "hessian" in wanted:
            pairs = combinations_with_replacement(first, 2)
            matrix = [inner[tuple(a + b for a, b in zip(one, other))] for one, other in pairs]
            found["hessian"] = eigenvalues(matrix, form)
        return [plane for name in wanted for plane in found[name]]


class _Derivatives:
    """Gaussian derivatives of one image at one sigma; what two of them share is computed once."""

    def __init__(self, image: Any, sigma: float, form: ArrayForm | TorchForm) -> None:
        self.sigma, self.form = sigma, form
        self._known: dict[tuple[int, ...], Any] = {(): image}

    def __call__(self, orders: tuple[int, ...]) -> Any:
        """Filtered along the first len(orders) axes, each of which loses 2 radii."""
        if orders not in self._known:
            before = self(orders[:-1])
            sign = -1 if orders[-1] == 1 else 1
            taps = gaussian_taps(self.sigma, orders[-1])
            self._known[orders] = self.form.correlate(before, taps, sign, len(orders) - 1)
        return self._known[orders]


def radius(sigma: float) -> int:
    """Taps on either side of the middle one."""
    return int(WINDOW * sigma + 0.5)


def gaussian_taps(sigma: float, order: int) -> np.ndarray:
    """(r + 1,) float32: taps 0, 1, ..., r of the Gaussian's derivative of this order; those on the other side mirror
    them, with the other sign for order 1."""
    reach = radius(sigma)
    x = np.arange(-reach, reach + 1, dtype=np.float64)
    gaussian = np.exp(-0.5 * (x / sigma) ** 2)
    gaussian /= gaussian.sum()
    factor = {0: np.ones_like(x), 1: x / sigma**2, 2: x**2 / sigma**4 - 1 / sigma**2}[order]
    return (factor * gaussian)[reach:].astype(np.float32)


def mirrored(begin: int, end: int, size: int) -> np.ndarray:
    """Positions begin..end - 1 of an axis, those outside 0..size - 1 mirrored: d c b a | a b c d | d c b a."""
    at = np.arange(begin, end) % (2 * size)
    return np.minimum(at, 2 * size - 1 - at)


def crop(image: Any, border: int) -> Any:
    """Without `border` pixels on every side of every axis but the first."""
    return image if border == 0 else image[(slice(None), *[slice(border, -border)] * (image.ndim - 1))]


def _unit_orders(dims: int, order: int) -> list[tuple[int, ...]]:
    """The derivatives of this order along one axis alone."""
    return [tuple(order if axis == own else 0 for axis in range(dims)) for own in range(dims)]


def _needed(wanted: Sequence[str], dims: int) -> list[tuple[int, ...]]:
    """The derivatives that the features are made of."""
    totals = {"smoothing": 0, "difference": 0, "gradient": 1, "laplacian": 2, "hessian": 2}
    orders: list[tuple[int, ...]] = []
    for total in sorted({totals[name] for name in wanted if name in totals}):
        for axes in combinations_with_replacement(range(dims), total):
            mixed = len(set(axes)) > 1
            if not mixed or "hessian" in wanted:
                orders.append(tuple(axes.count(axis) for axis in range(dims)))
    return orders


def _sum(terms: Sequence[Any]) -> Any:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
