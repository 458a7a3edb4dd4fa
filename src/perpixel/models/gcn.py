"""GCN: class scores from large kernels at four resolutions, refined and upsampled from the coarsest to the finest.

Peng, Zhang, Yu, Luo, Sun, "Large kernel matters: Improve semantic segmentation by global convolutional network", CVPR
2017, arXiv 1703.02719.

    res5 (1/32) -> GCN -> BR -> x2 -+
    res4 (1/16) -> GCN -> BR -------+-> BR -> x2 -+
    res3 (1/8)  -> GCN -> BR ---------------------+-> BR -> x2 -+
    res2 (1/4)  -> GCN -> BR -----------------------------------+-> BR -> x2 -> BR -> x2 -> BR -> logits

    GCN:  maps --+-- k x 1 -- 1 x k --+-- sum            BR:  scores + 3x3(ReLU(3x3(scores)))
                 +-- 1 x k -- k x 1 --+
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import BilinearUpsample, fit_like, he_normal_
from perpixel.models.card import Card, Count
from perpixel.models.dilated_encoder import dilated_encoder, encoder_parts, fit_image
from perpixel.models.taps import taps

FINEST = 4

CARD = Card(
    title="GCN (Large Kernel Matters)",
    paper=(
        'Peng, Zhang, Yu, Luo, Sun, "Large kernel matters: Improve semantic segmentation by global convolutional '
        'network", CVPR 2017, arXiv 1703.02719'
    ),
    counts=(
        Count("ResNet-152, 21 classes", 60_723_364),
        Count("ResNet-101, 21 classes", 45_079_716, options={"encoder": "resnet101"}),
        Count("ResNet-50, 21 classes", 26_087_588, options={"encoder": "resnet50"}),
    ),
    scores=(
        "Pascal VOC 2012 val: 69.0 mIoU without large kernels, 74.5 with k = 15, 74.7 with boundary refinement",
        "Pascal VOC 2012 val: 81.0 mIoU, test: 82.2, pretrained on COCO and SBD",
        "Cityscapes test: 76.9 mIoU",
    ),
    training=(
        "SGD with batch 1, momentum 0.99, weight decay 5e-4, in three stages: COCO with SBD and VOC, SBD with VOC, "
        "VOC; images padded to 640 pixels, 512 in the last stage."
    ),
    deviations=(
        "There is no release by the authors. Nine boundary refinements are the usual reading of the figure: one behind "
        "each GCN, one behind each upsampling.",
        "Upsamplers are dense learned deconvolutions of 4x4 that start bilinear; two popular ports interpolate and use "
        "k = 7.",
        "The convolutions have biases.",
    ),
)


class GlobalConvolution(nn.Module):
    """A k x k kernel in two separable halves, (k x 1, 1 x k) + (1 x k, k x 1): (B, C, H, W) -> (B, K, H, W).

    No activation and no normalisation in between.
    """

    def __init__(self, in_channels: int, num_classes: int, kernel: int) -> None:
        super().__init__()
        tall, wide = (kernel, 1), (1, kernel)
        self.left = nn.Sequential(_conv(in_channels, num_classes, tall), _conv(num_classes, num_classes, wide))
        self.right = nn.Sequential(_conv(in_channels, num_classes, wide), _conv(num_classes, num_classes, tall))

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        return self.left(maps) + self.right(maps)


def _conv(in_channels: int, out_channels: int, size: tuple[int, int]) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, padding=(size[0] // 2, size[1] // 2))


class BoundaryRefinement(nn.Module):
    """scores + conv(ReLU(conv(scores))): (B, K, H, W) -> the same shape."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_classes, num_classes, 3, padding=1)
        self.conv2 = nn.Conv2d(num_classes, num_classes, 3, padding=1)

    def forward(self, scores: Tensor) -> Tensor:
        """See the class."""
        return scores + self.conv2(F.relu(self.conv1(scores)))


class GCN(nn.Module):
    """Global convolutional network: class scores from separable 15x15 kernels at four resolutions.

    image (B, C, H, W) of any size -> logits (B, K, H, W).

    Args:
        encoder: "resnet152", "resnet101", "resnet50", any other ResNet, or a name for `create_encoder`.
        variant: of a ResNet, "a", "b" or "c"; None takes timm's.
        weights: of the encoder: None, "imagenet" or a file.
        kernel: k, odd.
    Raises:
        InputError: an even kernel, or an encoder without a feature at every stride from 4 on.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        encoder: str = "resnet152",
        variant: str | None = "b",
        weights: str | Path | None = None,
        kernel: int = 15,
    ) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise InputError(f"option kernel={kernel} of gcn: choose an odd number, such as 15")
        self.encoder = dilated_encoder(
            "gcn", encoder, in_channels=in_channels, weights=weights, output_stride=32, variant=variant
        )
        self.taps = taps(self.encoder, "gcn", finest=FINEST)
        self.scores = nn.ModuleList(
            GlobalConvolution(self.encoder.channels[tap], num_classes, kernel) for tap in self.taps
        )
        ups = len(self.taps) - 1 + FINEST.bit_length() - 1
        self.refine = nn.ModuleList(BoundaryRefinement(num_classes) for _ in self.taps)
        self.up = nn.ModuleList(BilinearUpsample(num_classes, 2, learned=True, padding=1) for _ in range(ups))
        self.refine_up = nn.ModuleList(BoundaryRefinement(num_classes) for _ in range(ups))
        for part in (self.scores, self.refine, self.refine_up):
            # By what goes in: thousands of channels become some twenty, and "out" would start with huge scores.
            he_normal_(part, fan="in")

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> logits (B, K, H, W)."""
        features = self.encoder(fit_image(image, self.encoder))
        scored = [refine(score(features[tap])) for tap, score, refine in zip(self.taps, self.scores, self.refine)]
        logits = scored[0]
        for up, refine, finer in itertools.zip_longest(self.up, self.refine_up, scored[1:]):
            logits = up(logits)
            # A map of odd size comes back one row or column larger.
            logits = refine(logits if finer is None else fit_like(logits, finer) + finer)
        return fit_like(logits, image)

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in the paper's order."""
        parts = encoder_parts(self.encoder)
        strides = [self.encoder.strides[tap] for tap in self.taps]
        for stride, score, refine in zip(strides, self.scores, self.refine):
            parts |= {f"GCN 1/{stride}": score, f"BR 1/{stride}": refine}
        for number, (up, refine) in enumerate(zip(self.up, self.refine_up), start=1):
            to = strides[0] >> number
            parts |= {f"up to 1/{to}": up, f"BR behind 1/{to}": refine}
        return parts
