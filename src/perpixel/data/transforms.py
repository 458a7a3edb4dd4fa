"""Random changes of an image and its label map: drawn first, then applied once.

Geometry is one fused warp (crop, flip, rotation, scale, and a coarse elastic field where asked), colour is one affine
map fused with the normalisation. Doing each once instead of one pass per change is what makes it cheap.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# cv2 warps at most four channels in one call.
MAX_WARP_CHANNELS = 4


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes. Zero (or (1, 1) for `scale`) switches one off.

    Attributes:
        flip_horizontal, flip_vertical: mirrored with probability 1/2.
        quarter_turns: turned by a random multiple of 90 degrees (for images without an upright).
        rotate_degrees: turned by an angle uniform in -r..r.
        scale: zoom factor, log-uniform in (low, high); above 1 shows less of the image, larger.
        aspect: log-uniform stretch of width against height within 1/(1+a)..1+a.
        contrast, brightness: factor in 1-c..1+c and offset in -b..b, in units of the value range 0..1.
        saturation: mix with the grey image, factor in 1-s..1+s; three channels only.
        invert: probability that bright and dark change places, for objects that are brighter than their surroundings in
            some images and darker in others.
        gamma: exponent, log-uniform in 1/(1+g)..1+g.
        noise: standard deviation of added Gaussian noise, uniform in 0..n, units of the value range.
        elastic_px: standard deviation in source pixels of displacements on a coarse 3x3 grid, bicubic between
            (Ronneberger et al. 2015), applied to half of the samples.
    """

    flip_horizontal: bool = True
    flip_vertical: bool = False
    quarter_turns: bool = False
    rotate_degrees: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    aspect: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    saturation: float = 0.0
    invert: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    elastic_px: float = 0.0


NO_AUGMENTATION = Augmentation(flip_horizontal=False)


@dataclass(frozen=True)
class Geometry:
    """One drawn warp: `matrix` (2, 3) maps output (x, y) to source (x, y); `field` (3, 3, 2) source px or None."""

    matrix: np.ndarray
    field: np.ndarray | None

    def keeping(self, offset: tuple[float, float]) -> Geometry:
        """The warp for a label map that lies `offset` (down, right) px beside its image, mirrored or not.

        A mirror would turn the offset round with the picture. With this the output's label map lies as far, and on the
        same side, of the output's image as the source's does, so that a net can learn the offset.
        """
        if offset == (0.0, 0.0):
            return self
        beside = np.array([offset[1], offset[0]])
        matrix = self.matrix.copy()
        zoom = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
        matrix[:, 2] += beside - matrix[:, :2] @ (beside / zoom)
        return Geometry(matrix, self.field)

    def on(self, source: tuple[int, ...], other: tuple[int, ...]) -> Geometry:
        """The same warp of a map that shows the (H, W) `source` in the size `other`; centres of pixels correspond."""
        if tuple(source) == tuple(other):
            return self
        factor = np.array([other[1] / source[1], other[0] / source[0]])
        matrix = self.matrix * factor[:, None]
        matrix[:, 2] += (factor - 1) / 2
        return Geometry(matrix, None if self.field is None else self.field * factor)


@dataclass(frozen=True)
class Colour:
    """One drawn change of values in 0..1: values ** gamma, then `matrix` (C, C) and `offset` (C,), then noise."""

    gamma: float
    matrix: np.ndarray
    offset: np.ndarray
    noise: float


def draw_geometry(
    rng: np.random.Generator,
    augmentation: Augmentation,
    *,
    source: tuple[int, int],
    crop: tuple[int, int],
    centre: tuple[float, float] | None = None,
    shrink: float = 1.0,
) -> Geometry:
    """Draw one warp from a `source` (H, W) image to a `crop` (h, w).

    Args:
        centre: (row, col) in the source that the crop must contain, jittered inside it; None draws the place uniformly.
        shrink: source pixels for one pixel of the crop, before the drawn zoom.
    """
    a = augmentation
    zoom = float(np.exp(rng.uniform(*np.log(a.scale)))) if a.scale[0] != a.scale[1] else a.scale[0]
    stretch = float(np.exp(rng.uniform(-1, 1) * np.log1p(a.aspect)))
    angle = np.deg2rad(rng.uniform(-a.rotate_degrees, a.rotate_degrees)) if a.rotate_degrees else 0.0
    if a.quarter_turns:
        angle += rng.integers(4) * np.pi / 2
    mirror_x = -1.0 if a.flip_horizontal and rng.random() < 0.5 else 1.0
    mirror_y = -1.0 if a.flip_vertical and rng.random() < 0.5 else 1.0

    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag([mirror_x / (zoom * np.sqrt(stretch)), mirror_y * np.sqrt(stretch) / zoom]) * shrink
    half = np.array([(crop[1] - 1) / 2, (crop[0] - 1) / 2])
    reach = np.abs(linear) @ (half + 0.5)  # half extent of the crop's bounding box in the source, (x, y)
    size = np.array([source[1], source[0]], float)
    if centre is None:
        middle = _uniform_middle(rng, size, reach)
    else:
        jitter = rng.uniform(-0.8, 0.8, 2) * reach
        middle = _keep_inside(np.array([centre[1], centre[0]], float) + jitter, size, reach)
    matrix = np.concatenate([linear, (middle - linear @ half)[:, None]], axis=1)
    field = rng.normal(0, a.elastic_px, (3, 3, 2)) if a.elastic_px and rng.random() < 0.5 else None
    return Geometry(matrix, field)


def _uniform_middle(rng: np.random.Generator, size: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """A middle such that the crop lies inside the source where it fits, and the source inside the crop where not."""
    low, high = np.minimum(reach, size - reach), np.maximum(reach, size - reach)
    return rng.uniform(low, high) - 0.5


def _keep_inside(middle: np.ndarray, size: np.ndarray, reach: np.ndarray) -> np.ndarray:
    low, high = np.minimum(reach, size - reach), np.maximum(reach, size - reach)
    return np.clip(middle, low - 0.5, high - 0.5)


def draw_colour(rng: np.random.Generator, augmentation: Augmentation, channels: int) -> Colour:
    """Draw one change of values for images of `channels` channels."""
    a = augmentation
    contrast = 1 + rng.uniform(-a.contrast, a.contrast)
    brightness = rng.uniform(-a.brightness, a.brightness)
    matrix = np.eye(channels) * contrast
    if channels == 3 and a.saturation:
        saturation = 1 + rng.uniform(-a.saturation, a.saturation)
        grey = np.tile([0.299, 0.587, 0.114], (3, 1))
        matrix = contrast * (saturation * np.eye(3) + (1 - saturation) * grey)
    # Contrast turns about mid-range, so that it does not also brighten.
    offset = np.full(channels, brightness + 0.5 * (1 - contrast))
    gamma = float(np.exp(rng.uniform(-1, 1) * np.log1p(a.gamma)))
    noise = float(rng.uniform(0, a.noise))
    if a.invert and rng.random() < a.invert:
        matrix, offset = -matrix, 1 - offset
    return Colour(gamma, matrix, offset, noise)


def warp(image: np.ndarray, geometry: Geometry, crop: tuple[int, int], *, nearest: bool = False) -> np.ndarray:
    """Apply a drawn warp. What lies outside the source is mirrored.

    Args:
        image: (H, W, C) or (H, W), uint8, uint16 or float32.
        nearest: for label maps; otherwise bilinear.
    Returns:
        (h, w, C) or (h, w) of the same dtype.
    """
    flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    maps = None if geometry.field is None else source_places(geometry, crop)

    def one(part: np.ndarray) -> np.ndarray:
        if maps is not None:
            return cv2.remap(part, maps[0], maps[1], flags, borderMode=cv2.BORDER_REFLECT_101)
        size = (crop[1], crop[0])
        flags_inverse = flags | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(part, geometry.matrix, size, flags=flags_inverse, borderMode=cv2.BORDER_REFLECT_101)

    if image.ndim == 2:
        return one(image)
    parts = [
        one(np.ascontiguousarray(image[..., start : start + MAX_WARP_CHANNELS]))
        for start in range(0, image.shape[2], MAX_WARP_CHANNELS)
    ]
    return np.concatenate([part.reshape(*crop, -1) for part in parts], axis=2)


def source_places(geometry: Geometry, crop: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """x and y (h, w) float32 in the source of each pixel of the crop."""
    cols, rows = np.meshgrid(np.arange(crop[1], dtype=np.float32), np.arange(crop[0], dtype=np.float32))
    (a, b, c), (d, e, f) = geometry.matrix.astype(np.float32)
    if geometry.field is None:
        return a * cols + b * rows + c, d * cols + e * rows + f
    smooth = cv2.resize(geometry.field.astype(np.float32), (crop[1], crop[0]), interpolation=cv2.INTER_CUBIC)
    return a * cols + b * rows + c + smooth[..., 0], d * cols + e * rows + f + smooth[..., 1]


def recolour(
    image: np.ndarray,
    colour: Colour,
    *,
    low: np.ndarray,
    high: np.ndarray,
    mean: np.ndarray,
    std: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Scale values from low..high to 0..1, change them as drawn, subtract `mean`, divide by `std`: one affine map.

    Args:
        image: (h, w, C) raw values.
        low, high, mean, std: (C,); mean and std in units of the scaled values.
        rng: source of the pixel noise.
    Returns:
        (h, w, C) float32.
    """
    width = np.maximum(high - low, 1e-12)
    values = image
    if colour.gamma != 1.0:
        unit = np.clip((image.astype(np.float32) - low.astype(np.float32)) / width.astype(np.float32), 0, 1)
        values, low, width = cv2.pow(unit, colour.gamma).reshape(image.shape), np.zeros_like(low), np.ones_like(width)
    matrix = colour.matrix / width[None, :] / std[:, None]
    offset = (colour.offset - colour.matrix @ (low / width) - mean) / std
    result = _affine_colour(values, matrix, offset)
    if colour.noise > 0:
        result += rng.standard_normal(result.shape, dtype=np.float32) * (colour.noise / std).astype(np.float32)
    return result


def _affine_colour(image: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    values = image.astype(np.float32)
    if np.count_nonzero(matrix - np.diag(np.diag(matrix))) == 0:
        return values * np.diag(matrix).astype(np.float32) + offset.astype(np.float32)
    return cv2.transform(values, np.concatenate([matrix, offset[:, None]], axis=1).astype(np.float32))
