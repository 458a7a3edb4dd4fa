"""Arrays as pictures of an explanation: heat, signed scores, photographs, and points on them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image

# As in a report: uncertainty and other values from 0 on in this map, lines in these colours.
HEAT = "inferno"
FOR, AGAINST = (245, 158, 11), (59, 130, 246)
MAP_SIDE, PHOTO_SIDE = 360, 640
# Values beyond these shares of a map are drawn like those: one extreme value must not darken all others.
LOW_SHARE, HIGH_SHARE = 0.5, 99.5


def heat(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """(h, w) -> (h, w, 3) uint8, dark to bright from `low` to `high`."""
    unit = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return (matplotlib.colormaps[HEAT](unit)[..., :3] * 255).round().astype(np.uint8)


def signed(values: np.ndarray, limit: float) -> np.ndarray:
    """(h, w) -> (h, w, 4) uint8: orange above 0, blue below, the clearer the further; 0 shows the page behind it."""
    strength = np.clip(np.abs(values) / max(limit, 1e-12), 0, 1)
    colour = np.where((values > 0)[..., None], np.array(FOR), np.array(AGAINST))
    return np.concatenate([colour, (255 * strength).round()[..., None]], axis=2).astype(np.uint8)


def stretch(values: np.ndarray) -> tuple[float, float]:
    """Ends between which nearly all values lie."""
    low, high = np.percentile(values, (LOW_SHARE, HIGH_SHARE))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return float(low), float(high)


def over_grey(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values 0..1 (h, w) as heat over a dim grey copy of the image (h, w, 3)."""
    grey = image.astype(np.float32).mean(2)
    low, high = stretch(grey)
    dim = (np.clip((grey - low) / max(high - low, 1), 0, 1) * 110 + 20)[..., None]
    weight = np.clip(values * 1.5, 0, 0.9)[..., None]
    return (dim * (1 - weight) + heat(values, 0, 1) * weight).round().astype(np.uint8)


def mark(picture: np.ndarray, point: tuple[int, int], radii: Sequence[float]) -> np.ndarray:
    """The picture, enlarged where it is small, with circles around a point and a cross in it, white on black."""
    import cv2

    zoom = max(1, round(1.2 * PHOTO_SIDE / max(picture.shape[:2])))
    marked = np.ascontiguousarray(np.repeat(np.repeat(picture, zoom, axis=0), zoom, axis=1))
    row, col = (int((place + 0.5) * zoom) for place in point)
    for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 2)):
        for radius in radii:
            cv2.circle(marked, (col, row), max(1, round(radius * zoom)), colour, width, cv2.LINE_AA)
        cv2.drawMarker(marked, (col, row), colour, cv2.MARKER_CROSS, 18, width)
    return marked


def fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) uint8 resized to (height, width)."""
    if image.shape[:2] == size:
        return image
    shown = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return np.asarray(shown)


def embed_map(picture: np.ndarray, side: int = MAP_SIDE) -> str:
    """A `data:` address of (h, w, 3 or 4) uint8 with its colours kept; at most `side` long."""
    return _embed(picture, side, Image.Resampling.NEAREST, "png")


def embed_smooth(picture: np.ndarray, side: int = MAP_SIDE) -> str:
    """As `embed_map`, but shrunk by averages: for heat, of which no pixel may fall out."""
    return _embed(picture, side, Image.Resampling.BOX, "png")


def embed_photo(picture: np.ndarray, side: int = PHOTO_SIDE) -> str:
    """A `data:` address of a photograph."""
    return _embed(picture, side, Image.Resampling.LANCZOS, "jpeg")


def _embed(picture: np.ndarray, side: int, resampling: Image.Resampling, kind: str) -> str:
    shown = Image.fromarray(np.ascontiguousarray(picture))
    shrink = max(shown.size) / side
    if shrink > 1:
        size = (max(1, round(shown.width / shrink)), max(1, round(shown.height / shrink)))
        shown = shown.resize(size, resampling)
    buffer = io.BytesIO()
    if kind == "jpeg":
        shown.save(buffer, "JPEG", quality=88)
    else:
        shown.save(buffer, "PNG", optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
