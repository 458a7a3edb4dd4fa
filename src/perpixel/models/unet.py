"""U-Net: contract, expand, and concatenate what the two paths saw at the same size.

Ronneberger, Fischer, Brox, "U-Net: Convolutional networks for biomedical image segmentation", MICCAI 2015.

    image -> stage 1 -------------------------------> [cat] -> convs -> head -> logits
               pool -> stage 2 ------> [cat] -> convs -> up ^
                         pool -> stage 3 -> up ^

`unet_valid` is the paper's: unpadded convolutions, centre crops, output smaller than the input by 2 * margin.
`unet` pads every convolution, so that the output has the input's size, and adds batch normalisation. Both are the
class below. With `encoder=` the contracting path is any backbone of timm or torchvision instead, which is not the
paper's network any more but what most users of the name train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.encoders import Encoder, create_encoder
from perpixel.errors import InputError
from perpixel.layers import BilinearUpsample, classifier_normal_, he_normal_, pad_to_least
from perpixel.models.card import Card, Count
from perpixel.models.dilated_encoder import encoder_parts, fit_image
from perpixel.models.unet_parts import ContractingPath, Step, UpStage, encoder_steps, paper_steps
from perpixel.models.valid_sizes import ValidSizes

PAPER_WIDTH = 64
UPS = ("transposed", "bilinear", "nearest")
DECODER_CHANNELS = (256, 128, 64, 32, 16)  # over an encoder, coarse to fine, at width 64

VALID_CARD = Card(
    title="U-Net",
    paper=(
        'Olaf Ronneberger, Philipp Fischer, Thomas Brox, "U-Net: Convolutional networks for biomedical image '
        'segmentation", MICCAI 2015, arXiv 1505.04597'
    ),
    counts=(Count("1 channel, 2 classes", 31_030_658, in_channels=1, num_classes=2),),
    scores=(
        "ISBI 2012 EM challenge: warping error 0.000353, Rand error 0.0382, pixel error 0.0611",
        "ISBI cell tracking challenge 2015, IoU: PhC-U373 0.9203, DIC-HeLa 0.7756",
    ),
    training=(
        "SGD of momentum 0.99, one large tile a batch, cross-entropy weighted by class and by "
        "10 exp(-(d1 + d2)^2 / 50) between cells, d1 and d2 the distances to the two nearest; shifts, rotations and "
        "elastic deformations (3x3 grid of displacements of 10 pixels standard deviation)."
    ),
    deviations=(
        "The paper says that there is dropout at the end of the contracting path, not how much: 0.5 here.",
        "The authors' Caffe files, as far as we remember them, have a ReLU behind each up-convolution and dropout on "
        "the two deepest stages; the paper's text has neither, nor has this.",
        "Tiles of sizes other than 16m + 60 are refused with the two nearest ones; the paper asks for even sizes at "
        "every pool, which is the same.",
    ),
)
CARD = replace(
    VALID_CARD,
    title="U-Net, padded",
    counts=(
        Count("1 channel, 2 classes", 31_036_546, in_channels=1, num_classes=2),
        Count("without batch normalisation", 31_030_658, 1, 2, {"norm": False}),
        Count("bilinear, half as many channels below", 17_261_890, 1, 2, {"up": "bilinear"}),
    ),
    deviations=(
        "Padded convolutions, so that the logits have the image's size, where the paper's are unpadded and its maps "
        "cropped: that is `unet_valid`.",
        "Batch normalisation after every convolution, as in nearly all later use; norm=False is without.",
        "No dropout unless asked for.",
        "Where a pool meets an odd side, the upsampled map gets a row or column of zeros at its end.",
        "With encoder= the contracting path is any backbone and the expanding one follows its strides: not the "
        "paper's network any more.",
    ),
)


class UNet(nn.Module):
    """Contracting and expanding path with skips; same size out, any size in; over any encoder where one is named.

    image (B, C, H, W) -> logits (B, K, H, W); with padding="valid" (B, K, H - 2 * margin, W - 2 * margin).

    Args:
        width: channels of the first stage; they double at every next one. With an encoder it scales the decoder:
            64 gives 256-128-64-32-16.
        depth: stages of the contracting path, the deepest included; with an encoder, its features down to
            stride 2 ** depth.
        norm: batch normalisation after every 3x3 convolution (of the expanding path, when there is an encoder).
        up: "transposed" 2x2 convolution, or "bilinear" or "nearest" interpolation, with which the deepest stage and
            every expanding one have half the channels (not over an encoder, whose channels are given).
        dropout: probability of dropping a value at the end of the contracting path, in training.
        padding: "same" or "valid"; valid needs encoder=None.
        encoder: name for `create_encoder`; None is the paper's contracting path.
        variant: of an encoder that is a ResNet: "a", "b" or "c"; None takes timm's.
        weights: of the encoder: None, "imagenet" or a file.
        decoder_channels: widths of the expanding stages over an encoder, coarse to fine; None scales with `width`.
        head_stride: with an encoder, where the expanding path ends: 1, or 2 or 4 for a much faster model whose
            logits are brought to the image's size by `final`.
        final: "bilinear" interpolation, or a learned "transposed" convolution that starts as one.
        head_kernel: side of the last convolution: the paper's 1, or 3 as segmentation-models-pytorch has it.
    Attributes:
        margin: pixels of the image that the logits lack on each side; 0 unless padding is "valid".
    Raises:
        InputError: an option out of range, or two that exclude each other.
    """

    aux_weights: tuple[float, ...] = ()

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        width: int = PAPER_WIDTH,
        depth: int = 5,
        norm: bool = True,
        up: str = "transposed",
        dropout: float = 0.0,
        padding: str = "same",
        encoder: str | None = None,
        variant: str | None = None,
        weights: str | Path | None = None,
        decoder_channels: Sequence[int] | None = None,
        head_stride: int = 1,
        final: str = "bilinear",
        head_kernel: int = 1,
    ) -> None:
        super().__init__()
        _check_choices(up=up, padding=padding, final=final)
        _check_ranges(width, depth, dropout)
        _check_combination(encoder, weights, decoder_channels, head_stride, final, padding)
        _check_form(encoder, variant, head_kernel, padding)
        self.valid_sizes = ValidSizes(pools=depth - 1) if padding == "valid" else None
        self.margin = self.valid_sizes.margin if self.valid_sizes else 0
        steps: list[Step]
        if encoder is None:
            channels = _stage_channels(width, depth, up)
            self.encoder: nn.Module = ContractingPath(in_channels, channels, norm=norm, padding=padding)
            steps = paper_steps(channels, up)
        else:
            backbone = create_encoder(encoder, in_channels=in_channels, weights=weights, depth=depth, variant=variant)
            widths = decoder_channels or [max(1, channels * width // PAPER_WIDTH) for channels in DECODER_CHANNELS]
            self.encoder = backbone
            steps = encoder_steps(backbone.channels, backbone.strides, widths, head_stride)
        self.has_backbone = encoder is not None
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.ModuleList(UpStage(step, norm=norm, up=up, padding=padding) for step in steps)
        self.head = nn.Conv2d(steps[-1].out_channels, num_classes, head_kernel, padding=head_kernel // 2)
        self.final = _final(num_classes, head_stride, final)
        self._initialise()

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> logits (B, K, H, W), smaller by `margin` on each side when unpadded."""
        fitted = self._fit(image)
        features = self.encoder(fitted)
        maps = self.dropout(features[-1])
        for stage in self.decoder:
            maps = stage(maps, features, fitted)
        logits = self.final(self.head(maps))
        return logits if self.valid_sizes else _cut_to(logits, image)

    def fit_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The smallest (height, width) that the model takes and that is no smaller than `size`."""
        return self.valid_sizes.fit_size(size) if self.valid_sizes else size

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in the paper's order."""
        if isinstance(self.encoder, ContractingPath):
            down = {f"down {number}": stage for number, stage in enumerate(self.encoder.stages, start=1)}
        else:
            assert isinstance(self.encoder, Encoder)
            down = encoder_parts(self.encoder)
        ups = {f"up {number}": stage for number, stage in enumerate(self.decoder, start=1)}
        return down | ups | {"head": self.head, "final": self.final}

    def _fit(self, image: Tensor) -> Tensor:
        if self.valid_sizes:
            self.valid_sizes.check(image.shape[-2], image.shape[-1])
            return image
        if isinstance(self.encoder, Encoder):
            return fit_image(image, self.encoder)
        multiple: int = self.encoder.multiple  # type: ignore[assignment]
        return pad_to_least(image, multiple)  # its pools round down, and UpStage pads the map back

    def _initialise(self) -> None:
        if self.has_backbone:
            he_normal_(self.decoder)
            classifier_normal_(self.head)
        else:
            he_normal_(self)


def unet_valid(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    width: int = PAPER_WIDTH,
    depth: int = 5,
    norm: bool = False,
    dropout: float = 0.5,
) -> UNet:
    """The paper's U-Net: unpadded, 16m + 60 pixels in, 184 fewer out, dropout at the end of the contracting path."""
    return UNet(in_channels, num_classes, width=width, depth=depth, norm=norm, dropout=dropout, padding="valid")


def _stage_channels(width: int, depth: int, up: str) -> list[int]:
    channels = [width * 2**level for level in range(depth)]
    if up != "transposed":
        channels[-1] //= 2
    return channels


def _final(num_classes: int, head_stride: int, final: str) -> nn.Module:
    if head_stride == 1:
        return nn.Identity()
    if final == "bilinear":
        return nn.Upsample(scale_factor=head_stride, mode="bilinear", align_corners=False)
    return BilinearUpsample(num_classes, head_stride, learned=True, padding=head_stride // 2)


def _cut_to(logits: Tensor, image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    if logits.shape[-2] < height or logits.shape[-1] < width:
        # Only over backbones that lose pixels of their own (unpadded stems).
        return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
    return logits[..., :height, :width]


def _check_choices(*, up: str, padding: str, final: str) -> None:
    allowed = {"up": UPS, "padding": ("same", "valid"), "final": ("bilinear", "transposed")}
    for option, value in (("up", up), ("padding", padding), ("final", final)):
        if value not in allowed[option]:
            raise InputError(f"option {option}={value!r} of unet: choose {' or '.join(map(repr, allowed[option]))}")


def _check_ranges(width: int, depth: int, dropout: float) -> None:
    if width < 1:
        raise InputError(f"option width={width} of unet: it must be at least 1")
    if not 2 <= depth <= 8:
        raise InputError(f"option depth={depth} of unet: choose 2 to 8 stages (2 to 5 over an encoder)")
    if not 0 <= dropout < 1:
        raise InputError(f"option dropout={dropout} of unet: it is a probability, from 0 to below 1")


def _check_form(encoder: str | None, variant: str | None, head_kernel: int, padding: str) -> None:
    if head_kernel not in (1, 3) or (head_kernel == 3 and padding == "valid"):
        raise InputError(
            f"option head_kernel={head_kernel} of unet with padding={padding!r}: choose 1, or 3 with padding='same'"
        )
    if variant is not None and encoder is None:
        raise InputError(f"option variant={variant!r} of unet without an encoder: add encoder='resnet18'")


def _check_combination(
    encoder: str | None,
    weights: str | Path | None,
    decoder_channels: Sequence[int] | None,
    head_stride: int,
    final: str,
    padding: str,
) -> None:
    if head_stride not in (1, 2, 4):
        raise InputError(f"option head_stride={head_stride} of unet: choose 1, 2 or 4")
    if final != "bilinear" and head_stride == 1:
        raise InputError(
            f"option final={final!r} of unet without a head_stride: add head_stride=2 or 4, or leave it out"
        )
    if decoder_channels is not None and (not decoder_channels or min(decoder_channels) < 1):
        raise InputError(f"option decoder_channels={decoder_channels} of unet: give widths from 1 on, coarse to fine")
    if encoder is not None:
        if padding == "valid":
            raise InputError(f"option encoder={encoder!r} with padding='valid': backbones pad, use padding='same'")
        return
    if weights is not None:
        raise InputError(
            f"option weights={str(weights)!r} of unet without an encoder: add encoder='resnet18', "
            "or load a whole model with models.load_weights"
        )
    if decoder_channels is not None or head_stride != 1:
        raise InputError("options decoder_channels and head_stride of unet need an encoder: add encoder='resnet18'")
