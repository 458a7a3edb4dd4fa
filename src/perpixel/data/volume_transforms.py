"""Random changes of a volume and its label map: drawn first, then applied once.

Geometry (crop, mirror, rotation, scale, a coarse elastic field) is one resampling, or none where a draw only cuts and
mirrors. Blur and low resolution are one separable linear map (`volume_taps.py`). The rest acts on values in place. All
changes but the mirror come with a chance, as in nnU-Net (Isensee et al., Nature Methods 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perpixel.data.volume_taps import smooth_volume
from perpixel.data.volume_warp import CELLS, CONTROLS, Patch, VolumeGeometry
from perpixel.images.resample import find_coarse_axis

# Displacements up to this share of the distance of control points never fold the volume: Choi and Lee, "Injectivity
# conditions of 2D and 3D uniform cubic B-spline functions", Graphical Models 62, 2000, give 0.403.
MOST_ELASTIC = 0.4
LEAST_STD = 1e-8

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class VolumeAugmentation:
    """Ranges of the random changes, each with the chance of its being made. Zero (or (1, 1) for `scale`) switches off.

    Values are of normalised images: 0 is their mean, 1 their standard deviation. What is drawn for values is drawn for
    each channel.

    Attributes:
        mirror: along (depth, row, column), each with probability 1/2.
        rotate_degrees: about each axis, uniform in -r..r.
        scale: zoom factor, log-uniform in (low, high); above 1 shows less of the volume, larger.
        elastic: standard deviation of displacements on a coarse grid, as a share of the distance of its points.
        noise: standard deviation of added Gaussian noise, uniform in 0..n.
        blur: standard deviation of a Gaussian in voxels, uniform in (low, high).
        brightness: factor in 1-b..1+b.
        contrast: factor in 1-c..1+c about the patch's mean, kept within the patch's range.
        low_resolution: voxels along each axis are averaged down to a share uniform in l..1 of their number, and
            interpolated back; 1 switches it off.
        gamma: exponent, log-uniform in (low, high), of values within the patch's range; mean and standard deviation of
            the patch stay.
        inverted_gamma_chance: the same with dark and bright exchanged; may come on top of the plain one.
    """

    mirror: tuple[bool, bool, bool] = (True, True, True)
    rotate_degrees: float = 0.0
    rotate_chance: float = 0.2
    scale: tuple[float, float] = (1.0, 1.0)
    scale_chance: float = 0.2
    elastic: float = 0.0
    elastic_chance: float = 0.2
    noise: float = 0.0
    noise_chance: float = 0.1
    blur: tuple[float, float] = (0.0, 0.0)
    blur_chance: float = 0.1
    brightness: float = 0.0
    brightness_chance: float = 0.15
    contrast: float = 0.0
    contrast_chance: float = 0.15
    low_resolution: float = 1.0
    low_resolution_chance: float = 0.125
    gamma: tuple[float, float] = (1.0, 1.0)
    gamma_chance: float = 0.3
    inverted_gamma_chance: float = 0.1


NO_VOLUME_AUGMENTATION = VolumeAugmentation(mirror=(False, False, False))
# The ranges of nnU-Net 2. There a blur or a low resolution of the patch (chances 0.2 and 0.25) reaches each channel
# with 1/2, noise comes before the blur, and displacements are off as here.
NNUNET_AUGMENTATION = VolumeAugmentation(
    rotate_degrees=30.0,
    scale=(0.7, 1.4),
    noise=0.316,
    blur=(0.5, 1.0),
    brightness=0.25,
    contrast=0.25,
    low_resolution=0.5,
    gamma=(0.7, 1.5),
)


@dataclass(frozen=True, eq=False)
class VolumeValues:
    """One drawn change of values; every array has one number a channel, applied in this order, the noise last.

    Attributes:
        blur: standard deviation in voxels, 0 for none.
        resolution: share of the voxels along each axis that are kept, 1 for all.
        gamma, inverted_gamma: exponents, 1 for none.
        noise: standard deviation.
    """

    blur: np.ndarray
    resolution: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    inverted_gamma: np.ndarray
    gamma: np.ndarray
    noise: float


def draw_volume_geometry(
    rng: np.random.Generator,
    augmentation: VolumeAugmentation,
    *,
    source: Sequence[int],
    patch: Patch,
    spacing: Triple = (1.0, 1.0, 1.0),
    centre: Sequence[int] | np.ndarray | None = None,
    shrink: int = 1,
) -> VolumeGeometry:
    """Draw one warp from a `source` (D, H, W) to a `patch` (d, h, w).

    Args:
        spacing: size of the source's voxels, in any unit, so that rotations turn bodies without shearing them. Volumes
            with a coarse axis (`images.resample`) are turned about it, and zoomed and bent across it only.
        centre: a voxel (depth, row, column) of the source that is exactly one of the patch, jittered inside it; None
            draws the place uniformly.
        shrink: source voxels for one voxel of the patch, before the drawn zoom; 1 along a coarse axis.
    """
    a, coarse = augmentation, find_coarse_axis(spacing, spacing)
    fine = np.array([axis != coarse for axis in range(3)])
    turn = _draw_turn(rng, a, coarse)
    zoom = float(np.exp(rng.uniform(*np.log(a.scale)))) if _happens(rng, a.scale_chance) else 1.0
    mirror = np.where(rng.random(3) < 0.5, -1.0, 1.0) if any(a.mirror) else np.ones(3)
    field = _draw_field(rng, a.elastic, patch, fine) if _happens(rng, a.elastic_chance) and a.elastic else None
    size = np.asarray(spacing, float)
    linear = turn * size / size[:, None]  # in millimetres: voxel -> mm, turned, mm -> voxel
    step = np.where(fine, shrink / zoom, 1.0)
    linear = linear @ np.diag(np.where(a.mirror, mirror, 1.0) * step)

    half = (np.asarray(patch) - 1) / 2
    # Half extent of the patch in the source before it is turned. A turned patch may reach out at its corners: kept
    # inside with its whole bounding box it would hardly move, or show little of a volume of its own size.
    reach = step * (half + 0.5)
    low, high = np.minimum(reach, source - reach) - 0.5, np.maximum(reach, source - reach) - 0.5
    if centre is None:
        start = rng.uniform(low, high) - linear @ half
        is_plain = field is None and bool((np.abs(linear) == np.eye(3)).all())
        start = np.rint(start) if is_plain else start
    else:
        middle = np.clip(np.asarray(centre) + rng.uniform(-0.8, 0.8, 3) * reach, low, high)
        # The place in the patch that this gives the centre, made a whole one, and then the start that it needs.
        place = np.rint(half + np.linalg.solve(linear, np.asarray(centre) - middle))
        place = np.clip(place, 0, np.asarray(patch) - 1)
        bent = VolumeGeometry(np.zeros((3, 4)), field).displacement(patch, place)
        start = np.asarray(centre) - linear @ (place + bent)
    return VolumeGeometry(np.concatenate([linear, start[:, None]], axis=1), field)


def turn_matrix(degrees: Sequence[float]) -> np.ndarray:
    """(3, 3) rotation by angles about the depth, then the row, then the column axis."""
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        if angle:
            one, other = [each for each in range(3) if each != axis]
            step = np.eye(3)
            step[one, one] = step[other, other] = np.cos(angle)
            step[one, other], step[other, one] = -np.sin(angle), np.sin(angle)
            result = step @ result
    return result


def _happens(rng: np.random.Generator, chance: float) -> bool:
    return bool(rng.random() < chance)


def _draw_turn(rng: np.random.Generator, augmentation: VolumeAugmentation, coarse: int | None) -> np.ndarray:
    limit = augmentation.rotate_degrees
    degrees = rng.uniform(-limit, limit, 3)
    if not _happens(rng, augmentation.rotate_chance):
        return np.eye(3)
    return turn_matrix([angle if coarse in (None, axis) else 0.0 for axis, angle in enumerate(degrees)])


def _draw_field(rng: np.random.Generator, elastic: float, patch: Patch, fine: np.ndarray) -> np.ndarray:
    """(3, CONTROLS, ...) displacements in voxels of the patch, so small that nothing folds."""
    shares = np.clip(rng.normal(0, elastic, (3, CONTROLS, CONTROLS, CONTROLS)), -MOST_ELASTIC, MOST_ELASTIC)
    cell = (np.asarray(patch) - 1) / CELLS * fine
    return np.asarray(shares * cell[:, None, None, None], np.float32)


def draw_volume_values(rng: np.random.Generator, augmentation: VolumeAugmentation, channels: int) -> VolumeValues:
    """Draw one change of values for volumes of `channels` channels."""
    a = augmentation

    def draw(low: float, high: float, chance: float, none: float) -> np.ndarray:
        drawn = rng.uniform(low, high, channels)
        return np.where(rng.random(channels) < chance, drawn, none)

    low, high = np.log(a.gamma)
    return VolumeValues(
        blur=draw(*a.blur, a.blur_chance, 0.0),
        resolution=draw(a.low_resolution, 1.0, a.low_resolution_chance, 1.0),
        brightness=draw(1 - a.brightness, 1 + a.brightness, a.brightness_chance, 1.0),
        contrast=draw(1 - a.contrast, 1 + a.contrast, a.contrast_chance, 1.0),
        inverted_gamma=np.exp(draw(low, high, a.inverted_gamma_chance, 0.0)),
        gamma=np.exp(draw(low, high, a.gamma_chance, 0.0)),
        noise=float(rng.uniform(0, a.noise)) if _happens(rng, a.noise_chance) else 0.0,
    )


def change_values(
    image: np.ndarray, values: VolumeValues, *, rng: np.random.Generator, coarse: int | None = None
) -> np.ndarray:
    """Apply a drawn change of values, in place where nothing is smoothed.

    Args:
        image: (C, d, h, w) float32, normalised.
        rng: source of the noise.
        coarse: axis along which nothing is smoothed.
    Returns:
        (C, d, h, w) float32.
    """
    for c in range(len(image)):
        if values.blur[c] > 0 or values.resolution[c] < 1:
            image[c] = smooth_volume(image[c], blur=values.blur[c], resolution=values.resolution[c], coarse=coarse)
        if values.brightness[c] != 1:
            image[c] *= np.float32(values.brightness[c])
        if values.contrast[c] != 1:
            _stretch(image[c], float(values.contrast[c]))
        if values.inverted_gamma[c] != 1:
            image[c] = -_bend_values(-image[c], float(values.inverted_gamma[c]))
        if values.gamma[c] != 1:
            image[c] = _bend_values(image[c], float(values.gamma[c]))
    if values.noise > 0:
        image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(values.noise)
    return image


def _stretch(channel: np.ndarray, factor: float) -> None:
    low, high, mean = channel.min(), channel.max(), channel.mean()
    channel -= mean
    channel *= np.float32(factor)
    channel += mean
    np.clip(channel, low, high, out=channel)


def _bend_values(channel: np.ndarray, gamma: float) -> np.ndarray:
    low, width, mean, std = channel.min(), np.ptp(channel), channel.mean(), channel.std()
    if width < LEAST_STD:
        return channel
    bent = ((channel - low) / width) ** np.float32(gamma)
    bent -= bent.mean()
    bent *= std / max(float(bent.std()), LEAST_STD)
    bent += mean
    return np.asarray(bent, np.float32)
