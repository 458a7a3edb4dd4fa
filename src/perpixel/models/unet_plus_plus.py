"""U-Net++: the skips of U-Net filled with convolutions, so that nets of every depth sit inside one another.

Zhou, Siddiquee, Tajbakhsh, Liang, "UNet++: A nested U-Net architecture for medical image segmentation", DLMIA 2018,
and "UNet++: Redesigning skip connections to exploit multiscale features in image segmentation", IEEE TMI 2020.

    x0_0 ---- x0_1 ---- x0_2 ---- x0_3 ---- x0_4        right: all nodes to the left in the row go into the next
        \\    /   \\    /   \\    /   \\    /            down:  2x2 max-pool, along the left edge only
         x1_0 ---- x1_1 ---- x1_2 ---- x1_3             up:    2x2 transposed convolution
             \\    /   \\    /   \\    /
              x2_0 ---- x2_1 ---- x2_2                  head L, a 1x1 convolution, stands on x0_L
                  \\    /   \\    /
                   x3_0 ---- x3_1
                       \\    /
                        x4_0

Node x(i, j) is two convolutions on [up x(i+1, j-1), x(i, 0), ..., x(i, j-1)], in the order of the authors' release.
Head L needs only the nodes with i + j <= L, so that after training with deep supervision the others can be cut away:
option `prune_level`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from perpixel.encoders import Encoder, create_encoder
from perpixel.errors import InputError
from perpixel.layers import classifier_normal_, he_normal_, pad_to_least, pad_to_multiple, resize_like
from perpixel.models.card import Card, Count
from perpixel.models.dilated_encoder import encoder_parts
from perpixel.models.unet_plus_plus_parts import Column, Node, mean_probs_as_logits, nested_nodes

PAPER_WIDTH = 32
PAPER_DROPOUT = 0.5
LEVELS = 4  # of heads; the rows are one more
DECODER_CHANNELS = (256, 128, 64, 32, 16)  # over an encoder, coarse to fine, at width 32
GROWN = ("encoder.stages.", "nodes.", "heads.")  # what a pruned net has less of


def _paper_count(label: str, expected: int, printed: str = "", **options: Any) -> Count:
    return Count(label, expected, in_channels=1, num_classes=1, options=options, printed=printed)


CARD = Card(
    title="UNet++",
    paper='Zhou, Siddiquee, Tajbakhsh, Liang, "UNet++: A nested U-Net architecture for medical image segmentation", '
    "DLMIA 2018, arXiv 1807.10165; IEEE TMI 2020, arXiv 1912.05074",
    counts=(
        _paper_count("1 channel, 1 class", 9_041_601, printed="9,041,601 (release)"),
        _paper_count("1 channel, 1 class, four heads", 9_041_700, deep_supervision=True),
        _paper_count("1 channel, 1 class, pruned to L3", 2_204_961, prune_level=3),
        _paper_count("1 channel, 1 class, pruned to L2", 511_105, prune_level=2),
        _paper_count("1 channel, 1 class, pruned to L1", 100_961, prune_level=1),
    ),
    scores=(
        "cell nuclei: IoU 92.63, with deep supervision 92.52 (U-Net 90.77)",
        "colon polyp: IoU 33.45, with deep supervision 32.12 (U-Net 30.08)",
        "liver: IoU 79.70, with deep supervision 82.90 (U-Net 76.62)",
        "lung nodule: IoU 76.44, with deep supervision 77.21 (U-Net 71.47)",
    ),
    training=(
        "Adam, learning rate 3e-4, He-normal weights, weight decay 1e-4 on the kernels; each head's loss is "
        "0.5 * cross entropy + Dice, all heads weighed alike."
    ),
    deviations=(
        "Any image size: where a pool meets an odd size the upsampled map is padded to its row with zeros; the "
        "authors' code needs multiples of 16.",
        "The transposed convolutions start He-normal too, where Keras' default in the release is Glorot-uniform, and "
        "the normal distribution is not truncated.",
        "Over an encoder the nodes have batch normalisation and no dropout unless asked for; the encoder's first "
        "feature is at stride 2 or 4, so that steps without a row lead to the image's size, and the heads before the "
        "last are interpolated to it.",
    ),
)


class UNetPlusPlus(nn.Module):
    """U-Nets of depth 1 to 4 nested in one, with dense skips; can be pruned after training with deep supervision.

    image (B, C, H, W) of any size -> logits (B, K, H, W). With deep supervision, in training, a tuple of the last
    head's logits and those of the heads before it, deep to shallow, which the papers weigh alike.

    Args:
        width: channels of the first row; they double at every next one. Over an encoder it scales what
            `decoder_channels` gives: 32 is 256-128-64-32-16.
        norm: batch normalisation after every 3x3 convolution of a node; None is the authors' release, without, and
            with it over an encoder.
        dropout: probability of dropping a value after every 3x3 convolution of a node, in training; None is the
            authors' 0.5, and 0 over an encoder.
        up: "transposed" convolution, or "nearest" or "bilinear" interpolation.
        deep_supervision: a head on every node of the first row, not on the last alone.
        mode: what a net with deep supervision answers outside training: "accurate", the mean of all heads'
            probabilities (as logits whose softmax or sigmoid it is), or "fast", the last head.
        prune_level: 1 to 4 builds the nodes and the head of that level only. Such a net takes the weights of a full
            one trained with deep supervision, and answers exactly as that net's head. None is the full net.
        encoder: name for `create_encoder`, whose features replace x0_0, x1_0, ...; None is the paper's.
        weights: of the encoder: None, "imagenet" or a file.
        decoder_channels: over an encoder, widths of the last node of each row and of the steps to the image's size,
            coarse to fine; None scales with `width`. The nodes between have the width of their row's feature.
        head_kernel: side of the heads' convolution: the papers' 1, or 3 as segmentation-models-pytorch has it.
    Raises:
        InputError: an option out of range, or two that exclude each other.
    """

    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        width: int = PAPER_WIDTH,
        norm: bool | None = None,
        dropout: float | None = None,
        up: str = "transposed",
        deep_supervision: bool = False,
        mode: str = "accurate",
        prune_level: int | None = None,
        encoder: str | None = None,
        weights: str | Path | None = None,
        decoder_channels: Sequence[int] | None = None,
        head_kernel: int = 1,
    ) -> None:
        super().__init__()
        _check_choices(up=up, mode=mode)
        _check_values(width, norm, dropout, decoder_channels)
        if head_kernel not in (1, 3):
            raise InputError(f"option head_kernel={head_kernel} of unet_plus_plus: choose 1 or 3")
        _check_combination(encoder, weights, decoder_channels, prune_level, deep_supervision)
        is_paper = encoder is None
        norm = not is_paper if norm is None else norm
        dropout = (PAPER_DROPOUT if is_paper else 0.0) if dropout is None else dropout
        settings: dict[str, Any] = {"norm": norm, "up": up, "dropout": dropout}
        self.mode, self.prune_level, self.has_backbone = mode, prune_level, not is_paper
        self.encoder: Column | Encoder
        if encoder is None:
            channels = [width * 2**row for row in range((prune_level or LEVELS) + 1)]
            self.encoder = Column(in_channels, channels, norm=norm, dropout=dropout)
            widths = channels[-2::-1]
        else:
            self.encoder = create_encoder(encoder, in_channels=in_channels, weights=weights)
            channels = self.encoder.channels
            given = decoder_channels or [max(1, each * width // PAPER_WIDTH) for each in DECODER_CHANNELS]
            halvings = self.encoder.strides[0].bit_length() - 1  # from the image to the first row
            widths = [given[min(number, len(given) - 1)] for number in range(len(channels) - 1 + halvings)]
        last = len(channels) - 1  # level of the deepest head
        ends, beyond = widths[:last][::-1], widths[last:]
        self.nodes = nested_nodes(channels, self.encoder.strides, ends, **settings)
        self.final = nn.ModuleList(Node(old, 0, new, 2, **settings) for old, new in zip([ends[0], *beyond], beyond))
        entering = dict.fromkeys(range(1 if deep_supervision else last, last), channels[0]) | {last: widths[-1]}
        self.heads = nn.ModuleDict()
        for level, old in entering.items():
            self.heads[str(level)] = nn.Conv2d(old, num_classes, head_kernel, padding=head_kernel // 2)
        self.aux_weights = (1.0,) * (len(self.heads) - 1)
        self._initialise()

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """image (B, C, H, W) float -> logits (B, K, H, W); with deep supervision, in training, (last, ..., first)."""
        is_fast = self.mode == "fast" and not self.training
        *others, last = self.head_logits(image, only_last=is_fast)
        if self.training:
            return (last, *others[::-1]) if others else last
        return mean_probs_as_logits([*others, last]) if others else last

    def head_logits(self, image: Tensor, *, only_last: bool = False) -> list[Tensor]:
        """The logits (B, K, H, W) of every head, shallow to deep."""
        fitted = self._fit(image)
        row = self.first_row(fitted)
        levels = list(self.heads)[-1:] if only_last else list(self.heads)
        logits = [resize_like(self.heads[level](row[int(level)]), fitted, align_corners=False) for level in levels]
        return [each[..., : image.shape[-2], : image.shape[-1]] for each in logits]

    def first_row(self, image: Tensor) -> list[Tensor]:
        """image (B, C, H, W) -> x(0, 0), x(0, 1), ..., the last at the image's size; the others are too, but for an
        encoder's stride."""
        rows = [[feature] for feature in self.encoder(image)]
        for column in range(1, len(rows)):
            for number in range(len(rows) - column):
                node = self.nodes[f"x{number}_{column}"]
                rows[number].append(node(rows[number + 1][column - 1], rows[number]))
        *others, last = rows[0]
        for step in self.final:
            last = step(last, [])
        return [*others, last]

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists: the nodes under the paper's names, then the heads."""
        if isinstance(self.encoder, Column):
            down = {f"x{row}_0": stage for row, stage in enumerate(self.encoder.stages)}
        else:
            down = encoder_parts(self.encoder)
        final = {f"up {number}": step for number, step in enumerate(self.final, start=1)}
        heads = {f"head {level}": head for level, head in self.heads.items()}
        return down | dict(self.nodes.items()) | final | heads

    def keep_own(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A full net's tensors without those that pruning cut away; all of them where nothing is pruned."""
        if self.prune_level is None:
            return dict(state)
        mine = self.state_dict()
        return {name: value for name, value in state.items() if name in mine or not name.startswith(GROWN)}

    def _fit(self, image: Tensor) -> Tensor:
        if isinstance(self.encoder, Encoder):
            return pad_to_least(pad_to_multiple(image, self.encoder.multiple), self.encoder.least)
        # The least size of the full net also where it is pruned, so that both answer alike.
        return pad_to_least(image, 2**LEVELS)

    def _initialise(self) -> None:
        if not self.has_backbone:
            return he_normal_(self)
        he_normal_(self.nodes)
        he_normal_(self.final)
        for head in self.heads.values():
            classifier_normal_(head)  # type: ignore[arg-type]


def _check_choices(*, up: str, mode: str) -> None:
    allowed = {"up": ("transposed", "nearest", "bilinear"), "mode": ("accurate", "fast")}
    for option, value in (("up", up), ("mode", mode)):
        if value not in allowed[option]:
            choices = ", ".join(map(repr, allowed[option]))
            raise InputError(f"option {option}={value!r} of unet_plus_plus: choose one of {choices}")


def _check_values(width: int, norm: bool | None, dropout: float | None, decoder_channels: Sequence[int] | None) -> None:
    if width < 1:
        raise InputError(f"option width={width} of unet_plus_plus: it must be at least 1")
    if norm not in (None, False, True):
        raise InputError(f"option norm={norm!r} of unet_plus_plus: give true, false or none")
    is_share = dropout is None or (isinstance(dropout, int | float) and 0 <= dropout < 1)
    if not is_share:
        raise InputError(f"option dropout={dropout!r} of unet_plus_plus: it is a probability, from 0 to below 1")
    if decoder_channels is not None and (not decoder_channels or min(decoder_channels) < 1):
        raise InputError(
            f"option decoder_channels={decoder_channels} of unet_plus_plus: give widths from 1 on, coarse to fine"
        )


def _check_combination(
    encoder: str | None,
    weights: str | Path | None,
    decoder_channels: Sequence[int] | None,
    prune_level: int | None,
    deep_supervision: bool,
) -> None:
    if encoder is None and (weights is not None or decoder_channels is not None):
        raise InputError(
            "options weights and decoder_channels of unet_plus_plus need an encoder: add encoder='resnet18', "
            "or load a whole model with models.load_weights"
        )
    if prune_level is None:
        return
    if prune_level not in range(1, LEVELS + 1) or isinstance(prune_level, bool):
        raise InputError(f"option prune_level={prune_level!r} of unet_plus_plus: choose 1 to {LEVELS}")
    if encoder is not None:
        raise InputError(
            f"option prune_level={prune_level} of unet_plus_plus over encoder {encoder!r}: only the paper's own column "
            "can be cut: leave one of them out"
        )
    if deep_supervision:
        raise InputError(
            f"option prune_level={prune_level} of unet_plus_plus with deep_supervision: a pruned net has one head: "
            "train the full net with deep_supervision and give prune_level when it is loaded"
        )
