"""Dilated front end and context module: VGG16 without its last two pools, then class scores that look around.

Yu, Koltun, "Multi-scale context aggregation by dilated convolutions", ICLR 2016, arXiv 1511.07122.

    image, mirrored by 186 -> conv1 pool conv2 pool conv3 pool conv4 -> conv5 (dilation 2) -> fc6 (7x7, dilation 4)
      -> fc7 -> class scores at stride 8
      -> context: 3x3 of dilations 1, 1, 2, 4, 8, 16, 1 -> 1x1 -> class scores at stride 8 -> x8, cut to the image

No convolution of the front end is padded, so that it never sees anything but image. Eight rows or columns of image
give one cell, and cell i lies in the middle of its eight, at image position 8 i + 3.5: that is what the margin of 186
is (`margin_of`), and why half-pixel bilinear interpolation puts the scores exactly where they belong.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import he_normal_, mirror_to, resize_to
from perpixel.models.card import Card, Count
from perpixel.models.fcn_trunks import IMAGE_GRID, Grid
from perpixel.models.fcn_weights import load_classifier
from perpixel.models.vgg import VGG16_BLOCKS, VGG16_WIDTH, fc_layers, vgg16_blocks, vgg_block

CONV5_DILATION, FC6_KERNEL, FC6_DILATION = 2, 7, 4
SCORE_STD = 0.001
SCORE_BIAS = 3.0  # the same for every class: it cancels in the softmax
CONTEXTS = ("basic", "large", "none")
# Of the 3x3 layers; a 1x1 layer comes last and is counted too. 8 is the paper's, 10 for Cityscapes, 7 for KITTI.
CONTEXT_DILATIONS = {7: (1, 1, 2, 4, 8, 1), 8: (1, 1, 2, 4, 8, 16, 1), 10: (1, 1, 2, 4, 8, 16, 32, 64, 1)}
PAPER_LAYERS = 8
WIDEST = 32  # times the classes, in the large context
IDENTITY_NOISE = 0.01  # of the large context's start, relative to the weights of the identity

CARD = Card(
    title="Dilated front end and context module",
    paper=(
        'Fisher Yu, Vladlen Koltun, "Multi-scale context aggregation by dilated convolutions", ICLR 2016, '
        "arXiv 1511.07122"
    ),
    counts=(
        Count("with the basic context, 21 classes", 134_346_581 + 28_392),
        Count("front end alone, 21 classes", 134_346_581, options={"context": "none"}),
        Count("with the large context, 21 classes", 141_149_720, options={"context": "large"}),
        Count("10 layers of context, 19 classes (Cityscapes)", 134_368_179, num_classes=19,
              options={"context_layers": 10}),
    ),
    scores=(
        "VOC 2012 test mIoU, trained with COCO: front end 67.6, with context 73.5, with context and CRF 74.7, with "
        "context and CRF-RNN 75.3",
        "Cityscapes mIoU 67.1, CamVid 65.3, KITTI 59.2",
    ),
    training=(
        "In stages, SGD of momentum 0.9, decay 5e-4: front end on crops of 500 pixels, batch 14, rate 1e-3 (paper) or "
        "1e-4 (release); context on stored scores of the front end, batch 60, rate 1e-3; both together, rate 1e-5."
    ),
    deviations=(
        "The basic context is the default, the large one an option; the release's code builds the basic one, while its "
        "weights for VOC have the large one.",
        "Every context layer pads by its dilation, as the release's code; its VOC file pads once by 33 instead, which "
        "differs near the borders only.",
        "Scores are placed at 8 i + 3.5, where the cells lie (the release's upsampling layer agrees). The release "
        "samples labels at 8 i and interpolates from there, so converted weights of it answer 3.5 pixels too far "
        "down and right.",
        "The loss is taken at full size on interpolated scores, not on labels sampled every 8 pixels.",
        "Everything is trained at once; for the paper's stages train context='none' first and start the whole from it "
        "(--start-from-partial). The bias of the class scores starts at 3, not at 0, or ReLUs of the context would "
        "silence classes from the first step on.",
        "The identity start of the large context has noise of a hundredth of its weights, which sets apart channels "
        "that would stay equal for ever; that of the basic one has none (the release adds 0.01).",
        "The paper gives the widths of the large context for 8 layers; of 10, too, none has over 32 channels a class.",
    ),
)  # fmt: skip


class FrontEndTrunk(nn.Module):
    """image (B, C, 8h + 372, 8w + 372) -> (B, 512, h + 24, w + 24), unpadded; fc6 uses up the other 24 cells.

    pool4 and pool5 are removed, not set to stride 1; conv5 is dilated by 2 in their place.

    Args:
        width: channels of conv1; the others in proportion, 512 for the paper's 64.
    """

    def __init__(self, in_channels: int, width: int = VGG16_WIDTH) -> None:
        super().__init__()
        before = in_channels
        for number, widths in enumerate(vgg16_blocks(width), start=1):
            pool = nn.MaxPool2d(2, 2) if number <= 3 else None
            dilation = CONV5_DILATION if number == 5 else 1
            self.add_module(f"conv{number}", vgg_block(number, before, widths, padding=0, dilation=dilation, pool=pool))
            before = widths[-1]
        self.out_channels = before

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        for block in self.children():
            image = block(image)
        return image


def grid_of_scores() -> Grid:
    """Where the front end's scores lie on the image that it is given."""
    grid = IMAGE_GRID
    for number, widths in enumerate(VGG16_BLOCKS, start=1):
        reach = 1 + 2 * (CONV5_DILATION if number == 5 else 1)
        grid = grid.after(*[(reach, 1, 0)] * len(widths))
        if number <= 3:
            grid = grid.after((2, 2, 0))
    return grid.after((1 + (FC6_KERNEL - 1) * FC6_DILATION, 1, 0))


def margin_of(grid: Grid) -> int:
    """Pixels that an image needs on every side for the first cell to lie in the middle of its first `step` pixels.

    >>> margin_of(grid_of_scores())
    186
    """
    return int(grid.centre - (grid.step - 1) / 2)


class Context(nn.Module):
    """Class scores (B, K, H, W) -> class scores (B, K, H, W) that have seen 67 x 67 cells (8 layers).

    Dilated 3x3 convolutions with ReLU, padded to keep the size, then a 1x1 without. Starts as the identity: what is
    at least 0 comes out as it went in.

    Args:
        kind: "basic", K channels throughout, or "large": 2, 2, 4, 8, 16, 32, 32 times K.
        num_layers: 7, 8 or 10, the 1x1 included.
        noise: std of the Gaussian around the identity, relative to its weights; None takes 0 and 0.01.
    """

    def __init__(self, num_classes: int, kind: str, num_layers: int = 8, noise: float | None = None) -> None:
        super().__init__()
        dilations = CONTEXT_DILATIONS[num_layers]
        widths = [num_classes] * len(dilations)
        if kind == "large":
            factors = [min(2 * dilation, WIDEST) for dilation in dilations[:-1]]
            widths = [factor * num_classes for factor in (*factors, factors[-1])]
        self.layers = nn.ModuleList()
        before = num_classes
        for width, dilation in zip(widths, dilations):
            conv = nn.Conv2d(before, width, 3, padding=dilation, dilation=dilation)
            self.layers.append(nn.Sequential(OrderedDict[str, nn.Module](conv=conv, relu=nn.ReLU(inplace=True))))
            before = width
        self.final = nn.Conv2d(before, num_classes, 1)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                identity_(part, num_classes, (IDENTITY_NOISE if kind == "large" else 0.0) if noise is None else noise)

    def forward(self, scores: Tensor) -> Tensor:
        """See the class."""
        for layer in self.layers:
            scores = layer(scores)
        return self.final(scores)


@torch.no_grad()
def identity_(conv: nn.Conv2d, num_classes: int, noise: float = 0.0) -> None:
    """Make `conv` hand on class scores, when each class is spread evenly over in_channels / K channels and shall be
    spread evenly over out_channels / K.

    Input a and output b belong together where floor(a K / in_channels) = floor(b K / out_channels); there the kernel's
    centre is K / out_channels. The bias is 0.

    Args:
        noise: std of the Gaussian in all other entries, relative to K / out_channels.
    """
    share = num_classes / conv.out_channels
    nn.init.normal_(conv.weight, std=noise * share)
    inputs = torch.arange(conv.in_channels) * num_classes // conv.in_channels
    outputs = torch.arange(conv.out_channels) * num_classes // conv.out_channels
    belongs = (outputs[:, None] == inputs[None]).to(conv.weight.device)
    middle = conv.kernel_size[0] // 2
    conv.weight[:, :, middle, middle].masked_fill_(belongs, share)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class DilatedNet(nn.Module):
    """VGG16 with dilation in place of its last pools, and a context module over the class scores.

    image (B, C, H, W) of any size -> logits (B, K, H, W).

    Args:
        context: "basic", "large" or "none": the front end alone.
        context_layers: 8 (the paper's), 10 (Cityscapes: dilations 32 and 64 more) or 7 (KITTI: 16 left out).
        weights: None, "imagenet" (torchvision's vgg16, downloaded) or a file with it; its fully connected layers
            become fc6 and fc7. It expects images normalised as torchvision's.
        width: channels of conv1, the other blocks in proportion. Fewer than the paper's 64 make a small net for tests
            and small machines, which no weights fit.
        fc_channels: of fc6 and fc7; 4096 in the paper.
        dropout: after fc6 and fc7.
    Raises:
        InputError: an option out of range, or weights that do not fit.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0  # the context that it needs it mirrors itself

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        context: str = "basic",
        context_layers: int = PAPER_LAYERS,
        weights: str | Path | None = None,
        width: int = VGG16_WIDTH,
        fc_channels: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        _check(context, context_layers, width, fc_channels, dropout)
        grid = grid_of_scores()
        self.stride, self.border = grid.step, margin_of(grid)
        self.trunk = FrontEndTrunk(in_channels, width)
        self.head = fc_layers(
            self.trunk.out_channels, fc_channels, FC6_KERNEL, dilation=FC6_DILATION, padding=0, dropout=dropout
        )
        self.score = nn.Conv2d(fc_channels, num_classes, 1)
        he_normal_(self, fan="out")
        nn.init.normal_(self.score.weight, std=SCORE_STD)
        # From 0, half of the scores start below it, where the context's ReLUs pass no gradient: classes never appear.
        nn.init.constant_(self.score.bias, SCORE_BIAS)  # type: ignore[arg-type]
        self.context = None if context == "none" else Context(num_classes, context, context_layers)
        if weights is not None:
            if width != VGG16_WIDTH:
                raise InputError(
                    f"option width={width} of dilated with weights: they have 64, leave one of the two out"
                )
            load_classifier(self.trunk, self.head, "vgg16", weights)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> logits (B, K, H, W)."""
        height, width = image.shape[-2:]
        rows, cols = -(-height // self.stride), -(-width // self.stride)
        full = (rows * self.stride, cols * self.stride)
        framed = mirror_to(image, (full[0] + 2 * self.border, full[1] + 2 * self.border), self.border)
        scores = self.score(self.head(self.trunk(framed)))  # (B, K, rows, cols)
        if self.context is not None:
            scores = self.context(scores)
        return resize_to(scores, full, align_corners=False)[..., :height, :width]

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in the paper's order."""
        head = {name: part for name, part in self.head.named_children() if name.startswith("fc")}
        stages = dict(self.trunk.named_children()) | head | {"score": self.score}
        if self.context is not None:
            for number, layer in enumerate(self.context.layers, start=1):
                stages[f"context {number}"] = layer
            stages[f"context {len(self.context.layers) + 1}"] = self.context.final
        return stages


def _check(context: str, context_layers: int, width: int, fc_channels: int, dropout: float) -> None:
    if context not in CONTEXTS:
        raise InputError(f"option context={context!r} of dilated: choose 'basic', 'large' or 'none'")
    if context_layers not in CONTEXT_DILATIONS:
        raise InputError(f"option context_layers={context_layers} of dilated: choose 8, 10 (Cityscapes) or 7 (KITTI)")
    if context == "none" and context_layers != PAPER_LAYERS:
        raise InputError(
            f"option context_layers={context_layers} of dilated with context='none': leave one of them out"
        )
    for option, value in (("width", width), ("fc_channels", fc_channels)):
        if value < 1:
            raise InputError(f"option {option}={value} of dilated: it must be at least 1")
    if not 0 <= dropout < 1:
        raise InputError(f"option dropout={dropout} of dilated: it is a probability, from 0 to below 1")
