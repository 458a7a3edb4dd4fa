"""Models of objects that need no training."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from perpixel.labels import Instances


class Bright(nn.Module):
    """Each connected bright part is an object, of class 1, or 2 where it is brightest; the score is its mean value."""

    def __init__(self, first_class: int = 1) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.0))
        self.first_class = first_class
        self.seen: list[Tensor] = []

    def detect(self, image: Tensor, *, size: tuple[int, int] | None = None) -> Instances:
        self.seen.append(image)
        assert image.ndim == 4 and not torch.is_grad_enabled() and not self.training
        if size is not None and tuple(image.shape[2:]) != size:
            image = F.interpolate(image, size, mode="bilinear")
        values = image[0].mean(0).float().cpu().numpy()
        numbered, count = ndimage.label(values > float(self.level))
        means = ndimage.mean(values, numbered, np.arange(1, count + 1)) if count else np.zeros(0)
        kinds = {number: self.first_class + int(means[number - 1] > 0.9) for number in range(1, count + 1)}
        scores = {number: float(np.clip(means[number - 1], 0, 1)) for number in range(1, count + 1)}
        found = Instances.from_label_map(numbered, kinds, scores=scores)
        return found.take(np.argsort(-np.asarray(found.scores), kind="stable"))
