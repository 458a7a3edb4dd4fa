"""The filter bank: SciPy's filters, eigenvalues worked by hand, and no seams."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from perpixel.classical.features import FEATURES, FilterBank, crop, gaussian_taps, mirrored, radius
from perpixel.classical.forms import TorchForm, array_form, eigenvalues
from perpixel.classical.tiles import tensor_features, tile_features, tiles
from perpixel.errors import InputError


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def planes(image: np.ndarray, bank: FilterBank) -> dict[str, np.ndarray]:
    """The features of a one-channel image by name."""
    tile = tuple((0, side) for side in image.shape)
    rows = tile_features(image[None], tile, bank)
    return dict(zip(bank.names(image.ndim), rows.reshape(-1, *image.shape)))


@pytest.mark.parametrize("shape", [(41, 30), (14, 17, 12)])
@pytest.mark.parametrize("sigma", [0.7, 1.6, 5.0])
def test_filters_are_scipy_s(shape: tuple[int, ...], sigma: float) -> None:
    image = noise(*shape)
    border = 60  # mirrored first, so that SciPy's own border does not matter
    padded = np.pad(image.astype(np.float64), border, mode="symmetric")[None]
    found = planes(image, FilterBank((sigma,)))

    def gaussian(order: tuple[int, ...], width: float = sigma, source: np.ndarray = padded[0]) -> np.ndarray:
        return ndimage.gaussian_filter(source, width, order=order, truncate=3.5)

    def axis(*axes: int) -> tuple[int, ...]:
        return tuple(axes.count(a) for a in range(len(shape)))

    def matrices(entries: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
        n = len(shape)
        rows = [[entries[min(i, j), max(i, j)] for j in range(n)] for i in range(n)]
        return np.linalg.eigvalsh(np.moveaxis(np.array(rows)[(..., *inner)], (0, 1), (-2, -1)))[..., ::-1]

    inner = [slice(border, -border)] * len(shape)
    pairs = [(i, j) for i in range(len(shape)) for j in range(i, len(shape))]
    wanted = {
        "smoothing": gaussian(axis()),
        "laplacian": ndimage.gaussian_laplace(padded[0], sigma, truncate=3.5),
        "gradient": ndimage.gaussian_gradient_magnitude(padded[0], sigma, truncate=3.5),
        "difference": gaussian(axis()) - gaussian(axis(), 0.66 * sigma),
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(found[f"{name} at sigma {sigma:g}"], crop(values[None], border)[0], atol=2e-6)
    hessian = matrices({pair: gaussian(axis(*pair)) for pair in pairs})
    gradient = [gaussian(axis(i)) for i in range(len(shape))]
    structure = matrices({(i, j): gaussian(axis(), sigma / 2, gradient[i] * gradient[j]) for i, j in pairs})
    for name, values in (("hessian", hessian), ("structure", structure)):
        for number in range(len(shape)):
            plane = found[f"{name} {number + 1} at sigma {sigma:g}"]
            np.testing.assert_allclose(plane, values[..., number], atol=2e-6)


def test_taps_by_hand() -> None:
    # sigma 1: radius 4 (3.5 rounded up); the second derivative at 0 is -1 / sigma^2 of the Gaussian.
    gaussian, slope, bend = (gaussian_taps(1.0, order) for order in range(3))
    assert radius(1.0) == 4 and len(gaussian) == 5
    assert gaussian[0] + 2 * gaussian[1:].sum() == pytest.approx(1)
    assert slope[0] == 0 and slope[1] == pytest.approx(gaussian[1])
    assert bend[0] == -gaussian[0] and bend[1] == 0


def test_a_ramp_has_one_slope_and_no_bend() -> None:
    """Values 0.1 a row, in the middle of the image: gradient 0.1, one structure eigenvalue of 0.01, Hessian 0."""
    ramp = np.broadcast_to(0.1 * np.arange(60, dtype=np.float32)[:, None], (60, 40)).copy()
    middle = {name: plane[30, 20] for name, plane in planes(ramp, FilterBank((1.6,))).items()}
    assert middle["smoothing at sigma 1.6"] == pytest.approx(3.0, abs=1e-5)
    assert middle["gradient at sigma 1.6"] == pytest.approx(0.1, rel=0.02)  # the window ends at 3.5 sigma
    assert middle["structure 1 at sigma 1.6"] == pytest.approx(0.01, rel=0.04)
    assert middle["structure 2 at sigma 1.6"] == pytest.approx(0, abs=1e-7)
    assert middle["difference at sigma 1.6"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("matrix", "wanted"),
    [
        ((2, 0, 5), (5, 2)),
        ((1, 2, 1), (3, -1)),
        ((0, 0, 0), (0, 0)),
        ((3, 0, 0, 1, 0, 2), (3, 2, 1)),
        ((2, 1, 0, 2, 0, -4), (3, 1, -4)),
        ((0, 1, 1, 0, 1, 0), (2, -1, -1)),
        ((7, 0, 0, 7, 0, 7), (7, 7, 7)),
        ((0, 0, 0, 0, 0, 0), (0, 0, 0)),
    ],
)
@pytest.mark.parametrize("kind", ["array", "torch"])
def test_eigenvalues_by_hand(matrix: tuple[float, ...], wanted: tuple[float, ...], kind: str) -> None:
    form = TorchForm() if kind == "torch" else array_form()
    assert form is not None
    entries = [np.full(3, value, np.float32) for value in matrix]
    given = [torch.from_numpy(each) for each in entries] if kind == "torch" else entries
    found = np.array([np.asarray(each) for each in eigenvalues(given, form)])
    np.testing.assert_allclose(found[:, 0], wanted, atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("shape", [(70, 45), (12, 15, 33), (3, 4), (1, 1)])
def test_tiles_leave_no_seams(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    bank, image = FilterBank((0.3, 0.7, 3.5)), noise(2, *shape)
    expected = tile_features(image, tuple((0, side) for side in shape), bank).reshape(-1, *shape)
    monkeypatch.setattr("perpixel.classical.tiles._TILES", {2: (16, 20), 3: (5, 8, 16)})
    parts = tiles(shape, 1)
    seen = np.zeros(shape, int)
    for tile in parts:
        where = tuple(slice(*span) for span in tile)
        seen[where] += 1
        found = tile_features(image, tile, bank)
        np.testing.assert_array_equal(found, expected[(slice(None), *where)].reshape(len(found), -1))
    assert (seen == 1).all() and (len(parts) > 1 or max(shape) < 16)


def test_tiles_shrink_with_the_number_of_features() -> None:
    parts = tiles((600, 600), 4000)
    assert max(4000 * (a[1] - a[0]) * (b[1] - b[0]) for a, b in parts) <= 1 << 24
    assert sum((a[1] - a[0]) * (b[1] - b[0]) for a, b in parts) == 600 * 600


@pytest.mark.parametrize("shape", [(2, 37, 50), (1, 9, 11, 13)])
def test_torch_gives_the_same_numbers(shape: tuple[int, ...]) -> None:
    bank, image = FilterBank((0.7, 1.6)), noise(*shape)
    tile = tuple((0, side) for side in shape[1:])
    loop = tile_features(image, tile, bank)
    torches = tensor_features(torch.from_numpy(image), bank).numpy()
    # In 3-D an arc cosine of another library may round another way.
    assert (loop != torches).mean() <= (0 if len(shape) == 3 else 1e-3)
    np.testing.assert_allclose(loop, torches, rtol=0, atol=1e-6)
    part = tuple((side // 3, side - 1) for side in shape[1:])
    inner = tensor_features(torch.from_numpy(image), bank, part).numpy()
    where = (slice(None), *(slice(*span) for span in part))
    np.testing.assert_array_equal(inner, torches.reshape(-1, *shape[1:])[where].reshape(len(inner), -1))


def test_without_numba_torch_computes_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    image, bank, tile = noise(1, 20, 20), FilterBank((1.0,)), ((3, 20), (0, 9))
    expected = tile_features(image, tile, bank)
    monkeypatch.setattr("perpixel.classical.tiles.array_form", lambda: None)
    np.testing.assert_array_equal(tile_features(image, tile, bank), expected)


def test_mirrored_positions() -> None:
    assert mirrored(-3, 7, 4).tolist() == [2, 1, 0, 0, 1, 2, 3, 3, 2, 1]
    assert mirrored(-4, 4, 1).tolist() == [0] * 8


def test_names_and_counts() -> None:
    assert len(FilterBank().names(2)) == 40 and len(FilterBank().names(3)) == 50
    bank = FilterBank((0.3, 1.0), ("hessian", "smoothing"))
    wanted = ["smoothing at sigma 0.3", "smoothing at sigma 1", "hessian 1 at sigma 1", "hessian 2 at sigma 1"]
    assert bank.names(2) == wanted
    assert FilterBank((5.0,)).halo == 18 + 9 and FilterBank((5.0,), ("smoothing",)).halo == 18


def test_a_bank_of_few_features_has_the_same_planes() -> None:
    image = noise(30, 26)
    full = planes(image, FilterBank((1.0,)))
    for name in FEATURES:
        for key, plane in planes(image, FilterBank((1.0,), (name,))).items():
            np.testing.assert_array_equal(plane, full[key])


@pytest.mark.parametrize(
    ("sigmas", "features", "match"),
    [
        ((1.0,), ("sobel",), "unknown feature 'sobel'"),
        ((1.0,), ("hesian",), "did you mean 'hessian'"),
        ((0.2,), FEATURES, r"sigmas holds 0.2: it must lie in 0.3..10"),
        ((12.0,), FEATURES, "sigmas holds 12"),
        ((float("nan"),), FEATURES, "sigmas holds nan"),
        ((), FEATURES, r"sigmas=\[\]: give one or more"),
        ((1.0, 1.0), FEATURES, "each once"),
        ((0.3,), ("hessian",), "'smoothing' is the only feature"),
    ],
)
def test_refused(sigmas: tuple[float, ...], features: tuple[str, ...], match: str) -> None:
    with pytest.raises(InputError, match=match):
        FilterBank(sigmas, features)
