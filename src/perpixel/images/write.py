"""Arrays -> PNG files, never half written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from perpixel.files import atomic


def write_png(path: str | Path, array: np.ndarray, *, palette: np.ndarray | None = None) -> Path:
    """Write a PNG atomically.

    Args:
        array: (H, W) uint8 or uint16, or (H, W, 3) uint8.
        palette: (N, 3) uint8 colours, N <= 256; makes an indexed PNG of an (H, W) uint8 array.
    """
    values = np.ascontiguousarray(array)
    assert values.dtype in (np.uint8, np.uint16), f"cannot write {values.dtype} as PNG"
    image = Image.fromarray(values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values)
    if palette is not None:
        image.putpalette(np.ascontiguousarray(palette, np.uint8).tobytes(), "RGB")
    with atomic(path) as temporary:
        image.save(temporary, format="PNG", compress_level=4)
    return Path(path)
