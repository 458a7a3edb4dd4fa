"""What Mask R-CNN learns from the objects of a crop: boxes, classes, masks on demand, and where crowds lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torchvision.ops import roi_align

# A box of which a larger share lies in a crowd is no example of background.
CROWD_SHARE = 0.5


class ObjectLayers(Protocol):
    """The objects of one image, as training batches have them.

    Attributes:
        layers: (L, h, w) whole numbers; i marks the pixels of object i = 1..n, 0 is none.
        classes: (n,) int64; 0 only where nothing is known of a crowd.
        is_crowd: (n,) bool.
    """

    layers: Tensor
    classes: Tensor
    is_crowd: Tensor

    def boxes(self) -> Tensor:
        """(n, 4) float32 x0 y0 x1 y1."""


@dataclass(frozen=True, eq=False)
class Truth:
    """The n single objects of one image.

    Attributes:
        boxes: (n, 4) float32 x0 y0 x1 y1.
        classes: (n,) int64, 1..K-1.
        layers: (L, h, w) whole numbers.
        numbers: (n,) the number of each in the layers.
        crowd_sums: (h + 1, w + 1) pixels of crowds above and to the left; None where there is none.
    """

    boxes: Tensor
    classes: Tensor
    layers: Tensor
    numbers: Tensor
    crowd_sums: Tensor | None

    @classmethod
    def of(cls, objects: ObjectLayers, device: torch.device) -> Truth:
        """Single objects apart from crowds, on `device`."""
        is_single = ~objects.is_crowd & (objects.classes > 0)
        numbers = torch.arange(1, len(objects.classes) + 1)[is_single]
        sums = None
        if not is_single.all():
            is_crowd = torch.cat([torch.zeros(1, dtype=torch.bool), ~is_single])
            pixels = is_crowd[objects.layers.long()].any(0)
            sums = torch.zeros(pixels.shape[0] + 1, pixels.shape[1] + 1, dtype=torch.int64)
            sums[1:, 1:] = pixels.long().cumsum(0).cumsum(1)
            sums = sums.to(device)
        return cls(
            objects.boxes()[is_single].to(device),
            objects.classes[is_single].to(device),
            objects.layers.to(device),
            numbers.to(device),
            sums,
        )

    def as_dict(self) -> dict[str, Tensor]:
        """The names that torchvision's samplers know."""
        return {"boxes": self.boxes, "labels": self.classes}

    def in_crowd(self, boxes: Tensor) -> Tensor:
        """(N,) bool: whether more than half of the pixels of each box (N, 4) lie in a crowd."""
        if self.crowd_sums is None:
            return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        height, width = (side - 1 for side in self.crowd_sums.shape)
        cols, rows = boxes[:, 0::2].round().long().clamp(0, width), boxes[:, 1::2].round().long().clamp(0, height)
        (x0, x1), (y0, y1) = cols.unbind(1), rows.unbind(1)
        sums = self.crowd_sums
        pixels = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
        return pixels > CROWD_SHARE * (x1 - x0) * (y1 - y0)

    def masks_in(self, boxes: Tensor, objects: Tensor, side: int, *, aligned: bool) -> Tensor:
        """(N, side, side) float32: the share of each cell of box i that object `objects[i]` covers.

        Args:
            boxes: (N, 4).
            objects: (N,) places in `numbers`.
            aligned: as for the features: False samples half a pixel down and right, as torchvision does.
        """
        found = boxes.new_zeros((len(boxes), side, side))
        # One object at a time: all masks at full size would take more memory than the net.
        for index in objects.unique().tolist():
            chosen = objects == index
            mask = (self.layers == self.numbers[index]).any(0).to(boxes.dtype)
            found[chosen] = roi_align(mask[None, None], [boxes[chosen]], side, 1.0, -1, aligned)[:, 0]
        return found
