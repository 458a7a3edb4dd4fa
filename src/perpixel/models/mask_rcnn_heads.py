"""The heads of Mask R-CNN: RoIAlign over the levels of a pyramid, boxes and classes from 7x7, masks from 14x14."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_area, roi_align

from perpixel.layers import ConvNormAct, he_normal_

# Lin et al. 2017, equation 1: a box of 224 pixels a side belongs to level 4, stride 16.
CANONICAL_SIDE, CANONICAL_LEVEL = 224, 4
SAMPLES = 2  # a side, in each cell


class PyramidRoIAlign(nn.Module):
    """Boxes -> cells of the level that fits their size, without rounding: (N, C, side, side), and the place of each.

    Cells come level by level, since putting them back into the order of the boxes would copy all of them: what the
    heads make of them is put back, `answers[places]`.

    Args:
        strides: of the levels, fine to coarse.
        aligned: sample where the pixels' centres are; False lies half a pixel off, as torchvision's weights want it.
    """

    def __init__(self, strides: Sequence[int], side: int, *, aligned: bool) -> None:
        super().__init__()
        self.strides, self.side, self.aligned = tuple(strides), side, aligned

    def forward(self, levels: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """[(B, C, H / strides[i], W / strides[i])] float32 and B times (N_b, 4) -> (N, C, side, side), (N,) int64.

        The cells of box i are those at places[i].
        """
        owner = torch.cat([box.new_full((len(box), 1), index) for index, box in enumerate(boxes)])
        rois = torch.cat([owner, torch.cat(list(boxes))], dim=1)
        level = self.level_of(rois[:, 1:])
        pooled, order = [], []
        for index, (maps, stride) in enumerate(zip(levels, self.strides, strict=True)):
            chosen = torch.nonzero(level == index)[:, 0]
            pooled.append(roi_align(maps, rois[chosen], self.side, 1 / stride, SAMPLES, self.aligned))
            order.append(chosen)
        return torch.cat(pooled), torch.cat(order).argsort()

    def level_of(self, boxes: Tensor) -> Tensor:
        """(N, 4) -> (N,) index of the level: one finer for each halving of the box's side, within those there are."""
        finest = self.strides[0].bit_length() - 1
        level = (CANONICAL_LEVEL + (box_area(boxes).sqrt() / CANONICAL_SIDE).log2() + 1e-6).floor()
        return (level - finest).clamp(0, len(self.strides) - 1).long()


class BoxHead(nn.Module):
    """(N, C, side, side) -> class logits (N, K) and box offsets (N, 4 K), float32.

    Args:
        convs: 3x3 convolutions before the linear layers; with any there is one linear layer less.
        norm: batch normalisation behind those.
    """

    def __init__(self, channels: int, side: int, width: int, num_classes: int, *, convs: int, norm: bool) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(ConvNormAct(channels, channels, norm=norm) for _ in range(convs)))
        self.fc1 = nn.Linear(channels * side * side, width)
        self.fc2 = None if convs else nn.Linear(width, width)
        self.classifier = nn.Linear(width, num_classes)
        self.offsets = nn.Linear(width, 4 * num_classes)
        he_normal_(self.convs, fan="out")

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        values = F.relu(self.fc1(self.convs(cells).flatten(1)), inplace=True)
        if self.fc2 is not None:
            values = F.relu(self.fc2(values), inplace=True)
        # Offsets of large boxes in bf16 would be off by pixels.
        return self.classifier(values).float(), self.offsets(values).float()


class MaskHead(nn.Module):
    """(N, C, side, side) and a class each -> mask logits (N, 2 side, 2 side) of that class, float32.

    The other classes' masks are never computed: neither the loss nor a prediction looks at them.
    """

    def __init__(self, channels: int, num_classes: int, *, convs: int = 4, norm: bool = False) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(ConvNormAct(channels, channels, norm=norm) for _ in range(convs)))
        self.up = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        he_normal_(self.convs, fan="out")
        for layer in (self.up, self.classifier):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, cells: Tensor, classes: Tensor) -> Tensor:
        """cells (N, C, side, side), classes (N,) int64 -> (N, 2 side, 2 side)."""
        maps = F.relu(self.up(self.convs(cells)), inplace=True)
        weight, bias = self.classifier.weight[classes].flatten(1), self.classifier.bias
        assert bias is not None
        logits = torch.bmm(weight[:, None], maps.flatten(2))[:, 0]
        return logits.float().unflatten(1, maps.shape[-2:]) + bias[classes, None, None]
