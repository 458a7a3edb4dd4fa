"""SegNet: the decoder puts values back where the encoder's pools found their maxima, and fills the gaps by convolution.

Badrinarayanan, Kendall, Cipolla, "SegNet: A deep convolutional encoder-decoder architecture for image segmentation",
PAMI 2017, arXiv 1511.00561; with dropout: Kendall, Badrinarayanan, Cipolla, "Bayesian SegNet", BMVC 2017, arXiv
1511.02680.

    image -> block 1 pool -> block 2 pool -> ... block 5 pool -+
                    |places         |places            |places |
      <- classifier <- block 1 <- unpool <- ... block 5 <- unpool

Only places cross from encoder to decoder, no feature maps. Pools round up, and each unpool returns to the size that its
pool met, so 360x480 goes by way of 45x60, 23x30 and 12x15 and comes back.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import ConvNormAct, he_normal_, max_pool_places, unpool_places
from perpixel.models.card import Card, Count
from perpixel.models.segnet_weights import load_vgg16

WIDTH = 64
# Convolutions of each block, and their channels as multiples of the first block's: VGG16.
VGG16_DEPTHS, VGG16_MULTIPLES = (2, 2, 3, 3, 3), (1, 2, 4, 8, 8)
BASIC_BLOCKS, BASIC_KERNEL, BASIC_SHIFT = 4, 7, 0.001
# Central blocks of each path that are followed by dropout in the Bayesian variants.
DROPPED, BASIC_DROPPED = 3, 2

PAPER = (
    'Vijay Badrinarayanan, Alex Kendall, Roberto Cipolla, "SegNet: A deep convolutional encoder-decoder architecture '
    'for image segmentation", PAMI 2017, arXiv 1511.00561'
)
BATCH_STATISTICS = (
    "Batch normalisation keeps moving averages; the release recomputes the statistics over the training set once "
    "trained, which engine.batch_statistics does."
)
CARD = Card(
    title="SegNet",
    paper=PAPER,
    counts=(Count("11 classes", 29_449_355, num_classes=11),),
    scores=(
        "CamVid-11 test, trained on the larger set: global 90.4, class mean 71.2, mIoU 60.1, boundary F1 46.84",
        "SUN RGB-D mIoU 31.84",
    ),
    training=(
        "SGD, rate 0.1, momentum 0.9, batch 12, VGG16 weights in the encoder (paper); rate 1e-3, decay 5e-4, 40,000 "
        "steps of batch 4 (release). Cross-entropy with median-frequency class weights."
    ),
    deviations=(
        BATCH_STATISTICS,
        "weights='imagenet' loads torchvision's VGG16 with batch normalisation, which fits layer by layer; the paper "
        "starts from VGG16 without, which a file of torchvision's vgg16 gives (statistics and scales start fresh).",
    ),
)
BASIC_CARD = Card(
    title="SegNet-Basic",
    paper=PAPER,
    counts=(Count("11 classes", 1_416_587, num_classes=11, printed="1.425M"),),
    training="SGD, rate 0.1, momentum 0.9, decay 5e-4, 10,000 steps of batch 4; median-frequency class weights.",
    deviations=(
        BATCH_STATISTICS,
        "The response normalisation of the image has the release's constants, made for values of 0 to 255; on "
        "normalised images it changes next to nothing.",
        "With dropout=0.5 it is the release's Bayesian SegNet-Basic.",
        "The paper prints 1.425M parameters; the release's layers, which these are, have 0.6 % fewer.",
    ),
)
BAYESIAN_CARD = Card(
    title="Bayesian SegNet",
    paper=(
        'Alex Kendall, Vijay Badrinarayanan, Roberto Cipolla, "Bayesian SegNet: Model uncertainty in deep '
        'convolutional encoder-decoder architectures for scene understanding", BMVC 2017, arXiv 1511.02680'
    ),
    counts=(Count("11 classes", 29_449_355, num_classes=11),),
    training="As SegNet. At test time dropout stays on: predictor.predict(image, samples=50) or predict --samples 50.",
    deviations=(
        BATCH_STATISTICS,
        "Dropout stands where the release has it: behind pools 3, 4 and 5 and behind the decoder's blocks 5, 4 and 3. "
        "The paper words its best variant for the smaller net as the central four blocks: two of each path there.",
        "The paper's map is the variance over samples averaged over classes; ours are the entropy of the mean and the "
        "part of it that the model does not know (mutual information).",
    ),
)


class Pool(nn.Module):
    """Halves a map and remembers where the maxima stood: (B, C, H, W) -> values and places, (B, C, H/2, W/2) each."""

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """As `max_pool_places`; a module, so that the drawing of the net shows it."""
        return max_pool_places(maps)


class SegNet(nn.Module):
    """Encoder and mirrored decoder, joined by the places of maxima: image (B, C, H, W) -> logits (B, K, H, W).

    Args:
        norm: what the image goes through first.
        encoder: blocks that keep the size of their maps, fine to coarse; each is followed by a pool.
        decoder: as many blocks, coarse to fine; each follows the unpool of its partner.
        classifier: the last convolution, without normalisation or activation.
        dropout: probability of dropping a value behind the `dropped` central blocks of each path.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0

    def __init__(
        self,
        norm: nn.Module,
        encoder: Sequence[nn.Module],
        decoder: Sequence[nn.Module],
        classifier: nn.Conv2d,
        *,
        dropout: float = 0.0,
        dropped: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise InputError(f"option dropout={dropout} of segnet: it is a probability, from 0 to below 1")
        self.norm = norm
        self.encoder, self.decoder = nn.ModuleList(encoder), nn.ModuleList(decoder)
        self.pools = nn.ModuleList(Pool() for _ in encoder)
        self.classifier = classifier
        self.dropout = nn.Dropout(dropout)
        self.first_dropped = len(encoder) - dropped
        he_normal_(self)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> logits (B, K, H, W)."""
        maps = self.norm(image)
        pools: list[tuple[Tensor, tuple[int, int]]] = []
        for depth, (block, pool) in enumerate(zip(self.encoder, self.pools)):
            maps = block(maps)
            size = (maps.shape[-2], maps.shape[-1])
            maps, places = pool(maps)
            maps = self._drop(maps, depth)
            pools.append((places, size))
        for block in self.decoder:
            places, size = pools.pop()
            maps = self._drop(block(unpool_places(maps, places, size)), len(pools))
        return self.classifier(maps)

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in the paper's order."""
        first = {} if isinstance(self.norm, nn.Identity) else {"norm": self.norm}
        down: dict[str, nn.Module] = {}
        for number, (block, pool) in enumerate(zip(self.encoder, self.pools), start=1):
            down |= {f"encoder {number}": block, f"pool {number}": pool}
        up = {f"decoder {len(self.decoder) - index}": block for index, block in enumerate(self.decoder)}
        return first | down | up | {"classifier": self.classifier}

    def _drop(self, maps: Tensor, depth: int) -> Tensor:
        return self.dropout(maps) if depth >= self.first_dropped else maps


def segnet(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    width: int = WIDTH,
    weights: str | Path | None = None,
) -> SegNet:
    """SegNet: VGG16's 13 convolutions and their mirror image, joined by the places of the pools' maxima.

    Args:
        width: channels of the first block; 64 is VGG16. Fewer make a small net for tests and small machines.
        weights: of the encoder: None, "imagenet" (torchvision's vgg16_bn, downloaded) or a file of torchvision's
            vgg16_bn or vgg16. They expect images normalised as torchvision's.
    Raises:
        InputError: an option out of range, or weights that do not fit.
    """
    return bayesian_segnet(in_channels, num_classes, width=width, dropout=0.0, weights=weights)


def bayesian_segnet(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    width: int = WIDTH,
    dropout: float = 0.5,
    weights: str | Path | None = None,
) -> SegNet:
    """Bayesian SegNet: dropout behind the six central blocks, sampled at test time for the model's uncertainty.

    Args:
        width: as in `segnet`.
        dropout: behind the last three encoder and the first three decoder blocks.
        weights: as in `segnet`.
    Raises:
        InputError: as `segnet`.
    """
    _check_width(width)
    channels = [width * multiple for multiple in VGG16_MULTIPLES]
    encoder, before = [], in_channels
    for depth, after in zip(VGG16_DEPTHS, channels):
        encoder.append(_block([before, *[after] * depth]))
        before = after
    decoder = [
        _block([own, *[own] * (depth - 1), coming])
        for own, depth, coming in zip(channels[:0:-1], VGG16_DEPTHS[:0:-1], channels[-2::-1])
    ]
    decoder.append(_block([width] * VGG16_DEPTHS[0]))  # one fewer: the classifier is its last convolution
    model = SegNet(
        nn.Identity(), encoder, decoder, nn.Conv2d(width, num_classes, 3, padding=1), dropout=dropout, dropped=DROPPED
    )
    if weights is not None:
        if width != WIDTH:
            raise InputError(f"option width={width} of segnet with weights={str(weights)!r}: VGG16 is {WIDTH} wide")
        load_vgg16(model.encoder, weights)
    return model


def segnet_basic(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    width: int = WIDTH,
    dropout: float = 0.0,
) -> SegNet:
    """SegNet-Basic: four and four 7x7 convolutions of 64 channels, ReLU in the encoder only.

    Args:
        width: channels of every block.
        dropout: behind the last two encoder and the first two decoder blocks; 0.5 is Bayesian SegNet-Basic.
    Raises:
        InputError: an option out of range.
    """
    _check_width(width)
    encoder = [_basic_block(width if depth else in_channels, width) for depth in range(BASIC_BLOCKS)]
    decoder = [_basic_block(width, width, has_activation=False) for _ in range(BASIC_BLOCKS)]
    norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
    classifier = nn.Conv2d(width, num_classes, 1)
    model = SegNet(norm, encoder, decoder, classifier, dropout=dropout, dropped=BASIC_DROPPED)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.constant_(part.bias, BASIC_SHIFT)
    return model


def _block(channels: Sequence[int]) -> nn.Sequential:
    """3x3 convolution, batch normalisation and ReLU from each of `channels` to the next; biases as in the release."""
    return nn.Sequential(*(ConvNormAct(old, new, 3, bias=True) for old, new in itertools.pairwise(channels)))


def _basic_block(before: int, after: int, *, has_activation: bool = True) -> ConvNormAct:
    if has_activation:
        return ConvNormAct(before, after, BASIC_KERNEL, bias=True)
    return ConvNormAct(before, after, BASIC_KERNEL, bias=True, activation=None)


def _check_width(width: int) -> None:
    if width < 1:
        raise InputError(f"option width={width} of segnet: it must be at least 1")
