"""The heads of Mask R-CNN: boxes and classes from cells of 7x7, masks from cells of 14x14."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.layers import ConvNormAct, he_normal_


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
