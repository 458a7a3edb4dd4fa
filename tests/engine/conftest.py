"""A tiny data set that every engine test trains on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perpixel.files import write_json
from perpixel.images import write_png

CLASSES = {"classes": ["background", "disc", "square"], "values": {"0": "background", "1": "disc", "2": "square"}}


def draw(seed: int, size: tuple[int, int] = (40, 48)) -> tuple[np.ndarray, np.ndarray]:
    """A grey image with a bright disc and a darker square, and its label map."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[: size[0], : size[1]]
    label_map = np.zeros(size, np.uint8)
    row, col = rng.integers(8, size[0] - 20), rng.integers(8, size[1] - 20)
    label_map[row : row + 12, col : col + 12] = 2
    centre = rng.integers(8, size[0] - 8), rng.integers(8, size[1] - 8)
    label_map[(rows - centre[0]) ** 2 + (cols - centre[1]) ** 2 < 49] = 1
    image = np.array([40, 210, 120])[label_map] + rng.normal(0, 12, size)
    return np.clip(image, 0, 255).astype(np.uint8), label_map


def write_shapes(root: Path, counts: dict[str, int]) -> Path:
    """A folder data set of `counts` images in each split."""
    seed = 0
    for split, count in counts.items():
        for index in range(count):
            image, label_map = draw(seed)
            write_png(root / split / "images" / f"{split}{index}.png", image)
            write_png(root / split / "masks" / f"{split}{index}.png", label_map)
            seed += 1
    write_json(root / "classes.json", CLASSES)
    return root


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), {"train": 6, "val": 2, "test": 4})


@pytest.fixture
def tiny() -> dict[str, object]:
    """Settings of a run that takes about a second."""
    return {"model": "unet", "options": {"width": 4, "depth": 3, "dropout": 0.2}, "batch_size": 2, "threads": 1}
