"""DeepLab v1: VGG16 at stride 8, its first fully connected layer a dilated convolution with a large field of view.

Chen, Papandreou, Kokkinos, Murphy, Yuille, "Semantic image segmentation with deep convolutional nets and fully
connected CRFs", ICLR 2015, arXiv 1412.7062.

    image -> conv1 pool(s2) conv2 pool(s2) conv3 pool(s2) conv4 pool(s1) -> conv5 (dilation 2) pool(s1) -> 3x3 average
      -> fc6 (3x3, dilation 12) -> fc7 -> fc8 -> class scores at stride 8 -> x8

The CRF that follows in the paper is a step on its own, behind any model.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import classifier_normal_, he_normal_, pad_to_multiple, resize_like
from perpixel.models.card import Card, Count
from perpixel.models.deeplab_vgg import DeepLabVGG, load_thinned
from perpixel.models.vgg import VGG16_WIDTH, fc_layers

STRIDE = 8


class Field(NamedTuple):
    """fc6 of one variant of the paper's table of fields of view: side of the kernel, its dilation, channels."""

    kernel: int
    dilation: int
    channels: int


# DeepLab-LargeFOV; DeepLab-4x4 and DeepLab-7x7, which see as far with more weights; plain DeepLab, which sees less.
FIELDS = {"large": Field(3, 12, 1024), "4x4": Field(4, 8, 4096), "7x7": Field(7, 4, 4096), "small": Field(4, 4, 4096)}

CARD = Card(
    title="DeepLab v1",
    paper=(
        'Liang-Chieh Chen, George Papandreou, Iasonas Kokkinos, Kevin Murphy, Alan Yuille, "Semantic image '
        'segmentation with deep convolutional nets and fully connected CRFs", ICLR 2015, arXiv 1412.7062'
    ),
    counts=(
        Count("LargeFOV, 21 classes", 20_505_429, printed="20.5M"),
        Count("4x4, 21 classes", 65_140_565, options={"field_of_view": "4x4"}, printed="65.1M"),
        Count("7x7, 21 classes", 134_346_581, options={"field_of_view": "7x7"}, printed="134.3M"),
    ),
    scores=(
        "VOC 2012 val mIoU, LargeFOV: 62.25, with CRF 67.64; with multi-scale features 64.21 and 68.70",
        "VOC 2012 val mIoU with CRF by field of view: 7x7 67.64, 4x4 67.14, small 63.74",
        "VOC 2012 test mIoU with CRF: LargeFOV 70.3, with multi-scale features 71.6",
    ),
    training=(
        "SGD of momentum 0.9, decay 5e-4, batch 20, crops of 321 pixels, rate 1e-3 (10 times that in fc8, twice on "
        "biases), divided by 10 every 2,000 of 6,000 steps."
    ),
    deviations=(
        "The image is padded with zeros, its mean colour, to sides of 8k + 1, where scores and pixels meet exactly; "
        "the release pads to 513 x 513 in the same way.",
        "The loss is taken at full size on interpolated scores, not on labels sampled every 8 pixels.",
        "A 3x3 average pool between pool5 and fc6, as in the release; average_pool=False leaves it out.",
        "The variant with multi-scale features (MSc: skips from the image and the first four pools) is not built.",
    ),
)


class DeepLabV1(nn.Module):
    """VGG16 at stride 8 with a dilated fc6 of large field of view (DeepLab-LargeFOV).

    image (B, C, H, W) of any size -> logits (B, K, H, W).

    Args:
        field_of_view: of fc6. "large" (3x3, dilation 12, 1024 channels), "4x4" (dilation 8, 4096), "7x7" (dilation 4,
            4096) or "small" (4x4, dilation 4, 4096).
        average_pool: a 3x3 average pool in front of fc6.
        align_corners: how scores are interpolated; True as Caffe did, which is exact here.
        weights: None, "imagenet" (torchvision's vgg16, downloaded) or a file with it; fc6 and fc7 take evenly spaced
            taps and channels of its fully connected layers. It expects images normalised as torchvision's.
        width: channels of conv1, the others in proportion; 64 in the paper and under `weights`.
        fc_channels: of fc6 and fc7; None takes the paper's.
        dropout: after fc6 and fc7.
    Raises:
        InputError: an option out of range, or weights that do not fit.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        field_of_view: str = "large",
        average_pool: bool = True,
        align_corners: bool = True,
        weights: str | Path | None = None,
        width: int = VGG16_WIDTH,
        fc_channels: int | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        _check(field_of_view, weights, width, fc_channels, dropout)
        field = FIELDS[field_of_view]
        channels = fc_channels or field.channels
        self.align_corners = align_corners
        self.trunk = DeepLabVGG(in_channels, width)
        # Caffe's average counts the padding too.
        self.pool = nn.AvgPool2d(3, 1, 1) if average_pool else None
        self.head = fc_layers(
            self.trunk.out_channels, channels, field.kernel, dilation=field.dilation,
            padding=field.dilation * (field.kernel - 1) // 2, dropout=dropout,
        )  # fmt: skip
        self.score = nn.Conv2d(channels, num_classes, 1)
        he_normal_(self, fan="out")
        classifier_normal_(self.score)
        if weights is not None:
            load_thinned(self.trunk, [self.head], weights)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> logits (B, K, H, W)."""
        fitted = pad_to_multiple(image, STRIDE, 1)
        maps = self.trunk(fitted)
        scores = self.score(self.head(maps if self.pool is None else self.pool(maps)))
        logits = resize_like(scores, fitted, align_corners=self.align_corners)
        return logits[..., : image.shape[-2], : image.shape[-1]]

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in the paper's order."""
        pool = {} if self.pool is None else {"average pool": self.pool}
        head = {name: part for name, part in self.head.named_children() if name.startswith("fc")}
        return dict(self.trunk.named_children()) | pool | head | {"fc8": self.score}


def _check(field_of_view: str, weights: str | Path | None, width: int, fc_channels: int | None, dropout: float) -> None:
    if field_of_view not in FIELDS:
        raise InputError(
            f"option field_of_view={field_of_view!r} of deeplab_v1: choose 'large', '4x4', '7x7' or 'small'"
        )
    if width < 1:
        raise InputError(f"option width={width} of deeplab_v1: it must be at least 1")
    if width != VGG16_WIDTH and weights is not None:
        raise InputError(f"option width={width} of deeplab_v1 with weights: they have {VGG16_WIDTH}, leave one out")
    if fc_channels is not None and (not isinstance(fc_channels, int) or fc_channels < 1):
        raise InputError(
            f"option fc_channels={fc_channels!r} of deeplab_v1: it must be a whole number from 1 on, or None"
        )
    if not 0 <= dropout < 1:
        raise InputError(f"option dropout={dropout} of deeplab_v1: it is a probability, from 0 to below 1")
