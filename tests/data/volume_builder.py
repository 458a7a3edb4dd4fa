"""Builds tiny data sets of volumes on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

SHAPE = (10, 12, 9)


class VolumeBuilder:
    """Writes NIfTI files under one root; every image is different, by a counter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 0

    def image(self, name: str, shape: tuple[int, ...] = SHAPE, **options: Any) -> Path:
        """Random whole numbers up to 999."""
        self.count += 1
        return self.array(name, np.random.default_rng(self.count).integers(0, 1000, shape).astype(np.int16), **options)

    def label(self, name: str, *values: int, shape: tuple[int, int, int] = SHAPE, **options: Any) -> Path:
        """0, and a block of every value one after the other along the first axis."""
        array = np.zeros(shape, options.pop("dtype", np.uint8))
        for number, value in enumerate(values):
            array[1 + 2 * number : 3 + 2 * number, 3:8, 2:6] = value
        return self.array(name, array, **options)

    def array(self, name: str, values: np.ndarray, affine: Any = (1.0, 1.0, 1.0, 1.0), *, bare: bool = False) -> Path:
        """A NIfTI file; `affine` may be its diagonal; `bare` = without any orientation."""
        import nibabel

        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(
            values, np.asarray(affine) if np.ndim(affine) == 2 else np.diag(affine), dtype=values.dtype
        )
        if bare:
            image.set_sform(None, code=0)
            image.set_qform(None, code=0)
        nibabel.save(image, path)
        return path

    def json(self, name: str, content: Any) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    def cases(self, names: str, *values: int, **options: Any) -> None:
        """images/NAME.nii.gz and labels/NAME.nii.gz for each letter."""
        for name in names:
            self.image(f"images/{name}.nii.gz", **options)
            self.label(f"labels/{name}.nii.gz", *(values or (1, 2)), **options)
