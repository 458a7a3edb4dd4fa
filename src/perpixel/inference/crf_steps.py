"""How the CRF works on one image, as one picture: coarse scores on the left, refined ones on the right.

Above, the image and the label map after each of a few iterations; below them the probability of the label, black 0 and
white 1, where the net's doubt along the borders can be seen to go (Chen et al., "DeepLab", ICLR 2015, figure 2).
"""

from __future__ import annotations

import numpy as np

from perpixel.images import resize_image, to_display
from perpixel.labels import ClassTable, colourise, resize_label_map

# Iterations that are shown, besides the last.
SHOWN = (0, 1, 2, 5)
# Longest side of one picture of the strip, and the gap between two.
SIDE, GAP = 320, 4


class CrfSteps:
    """Collects what `Predictor.predict(on_crf_step=...)` tells, a few small pictures of it.

    Args:
        image: (H, W, C) as it was predicted.
        iterations: of the CRF.
    """

    def __init__(self, image: np.ndarray, classes: ClassTable, iterations: int) -> None:
        height, width = image.shape[:2]
        factor = min(1.0, SIDE / max(height, width))
        self.size = max(1, round(height * factor)), max(1, round(width * factor))
        self.classes = classes
        self.shown = sorted({i for i in SHOWN if i < iterations} | {iterations})
        self.columns = [(resize_image(to_display(image), self.size), np.full((*self.size, 3), 255, np.uint8))]

    def __call__(self, iteration: int, marginals: np.ndarray) -> None:
        """Keep the label map and its probability, if this iteration is shown."""
        if iteration not in self.shown:
            return
        label_map = resize_label_map(marginals.argmax(0).astype(self.classes.dtype), self.size)
        chance = resize_image(marginals.max(0)[..., None].astype(np.float32), self.size).reshape(*self.size, 1)
        grey = np.clip(chance * 255, 0, 255).astype(np.uint8)
        self.columns.append((colourise(label_map, self.classes), np.repeat(grey, 3, axis=2)))

    def picture(self) -> np.ndarray:
        """(h, w, 3) uint8: a column for the image and for each iteration shown."""
        rows = [np.concatenate([_framed(part[row]) for part in self.columns], axis=1) for row in (0, 1)]
        return np.concatenate(rows, axis=0)


def _framed(picture: np.ndarray) -> np.ndarray:
    return np.pad(picture, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
