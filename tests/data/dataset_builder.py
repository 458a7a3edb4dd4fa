"""Builds tiny data sets on the disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (6, 8)


class Builder:
    """Writes images, masks and texts under one root; every image is different, by a counter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 0

    def image(self, name: str, size: tuple[int, int] = SIZE, channels: int = 3) -> Path:
        """A random 8-bit image, grey for one channel."""
        self.count += 1
        shape = size if channels == 1 else (*size, channels)
        return self.array(name, np.random.default_rng(self.count).integers(0, 256, shape, dtype=np.uint8))

    def array(self, name: str, values: np.ndarray | Sequence[Any], palette: Sequence[int] | None = None) -> Path:
        """An array as an image file, by suffix; with `palette` an indexed PNG."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.asarray(values))
        if palette is not None:
            picture = picture.convert("P") if picture.mode != "L" else picture
            picture.putpalette(list(palette))
        picture.save(path)
        return path

    def mask(self, name: str, *values: int, size: tuple[int, int] = SIZE, dtype: type = np.uint8) -> Path:
        """A mask of vertical bands, one per value."""
        return self.array(name, bands(values, size, dtype))

    def text(self, name: str, content: str) -> Path:
        """A text file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return path

    def json(self, name: str, content: Any) -> Path:
        """A JSON file."""
        return self.text(name, json.dumps(content))

    def pairs(self, image: str, mask: str, names: Sequence[str], values: Sequence[int] = (0, 1)) -> None:
        """Images and masks; `{}` in the two patterns stands for each name."""
        for name in names:
            self.image(image.format(name))
            self.mask(mask.format(name), *values)


def bands(values: Sequence[int], size: tuple[int, int] = SIZE, dtype: type = np.uint8) -> np.ndarray:
    """(H, W) with one vertical band per value, of equal width."""
    columns = np.arange(size[1]) * len(values) // size[1]
    return np.repeat(np.asarray(values, dtype=dtype)[columns][None], size[0], axis=0)
