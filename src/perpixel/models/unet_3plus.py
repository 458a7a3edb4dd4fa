"""UNet 3+: every stage of the decoder sees every scale.

Huang, Lin, Tong, Hu, Zhang, Iwamoto, Han, Chen, Wu, "UNet 3+: A full-scale connected UNet for medical image
segmentation", ICASSP 2020.

    e1 -------------------------------------------> d1 -> head -> logits      d(n) takes, in this order,
       e2 ------------------------------------> d2                            e1 ... e(n-1)   max-pooled
          e3 -----------------------------> d3                                e(n)            as it is
             e4 ----------------------> d4                                    d(n+1) ... d4, e5   interpolated
                e5 (presence of classes)

each to the size of e(n) and through a 3x3 convolution of its own to 64 channels; a 3x3 convolution mixes the 320.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import ConvNormAct, he_normal_, pad_to_least, resize_like
from perpixel.models.card import Card, Count
from perpixel.models.unet_parts import ContractingPath

PAPER_WIDTH = 64
DEPTH = 5
ABSENT = 20.0  # logits by which an absent class lies below every other: a share of e^-20 at most

CARD = Card(
    title="UNet 3+",
    paper='Huang, Lin, Tong, Hu, Zhang, Iwamoto, Han, Chen, Wu, "UNet 3+: A full-scale connected UNet for medical '
    'image segmentation", ICASSP 2020, arXiv 2004.08790',
    counts=(
        Count("3 channels, 1 class", 26_965_249, num_classes=1, printed="26.97M"),
        Count(
            "3 channels, 1 class, five heads",
            26_983_109,
            num_classes=1,
            options={"deep_supervision": True},
            printed="26.99M (release)",
        ),
    ),
    scores=(
        "LiTS liver, VGG-16 form: Dice 0.9550 with deep supervision, 0.9675 with hybrid loss and classification-guided "
        "module as well",
    ),
    training=(
        "320x320 slices with the two neighbouring ones as channels; loss 'hybrid' (focal + MS-SSIM + IoU, weights 1) "
        "on every output, and binary cross entropy on the presence of the organ."
    ),
    deviations=(
        "Convolutions in front of batch normalisation have no bias, which it would cancel. The release has 6,528 of "
        "them, and with them 26,971,777 parameters plain and 26,989,637 with five heads.",
        "Maps are interpolated to the partner's size (align_corners=False) and pooled rounding down, which is the "
        "same as the release's fixed factors where sides are multiples of 16 and works for all others.",
        "Logits, where the release returns a sigmoid's output.",
        "The classification-guided module has one logit a class, present above 0, where the paper has two for its one "
        "organ, whose argmax is the same. It acts on logits: an absent class is put 20 below the lowest of the pixel, "
        "the background (class 0 of several) is never gated. The release multiplies the logits by 0, which is a "
        "probability of 0.5, and gates in training as well: here an option.",
    ),
)


class FullScaleStage(nn.Module):
    """d(n): five maps, fine to coarse, brought to the size of one -> (B, 5 * width, H, W).

    Args:
        level: index of the map that has this stage's size; those before it are pooled, those behind interpolated.
        channels: of the five maps.
        width: channels of each after its own convolution.
    """

    def __init__(self, level: int, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.level = level
        self.branches = nn.ModuleList(ConvNormAct(each, width, 3) for each in channels)
        self.mix = ConvNormAct(width * len(channels), width * len(channels), 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps of (B, C_i, H_i, W_i) -> (B, 5 * width, H, W) with the size of maps[level]."""
        brought = [branch(self._bring(number, maps)) for number, branch in enumerate(self.branches)]
        return self.mix(torch.cat(brought, dim=1))

    def _bring(self, number: int, maps: Sequence[Tensor]) -> Tensor:
        if number < self.level:
            return F.max_pool2d(maps[number], 2 ** (self.level - number))
        return resize_like(maps[number], maps[self.level], align_corners=False)


class UNet3Plus(nn.Module):
    """U-Net with full-scale skips: each decoder stage joins finer encoder maps, its own, and all coarser ones.

    image (B, C, H, W) of any size -> logits (B, K, H, W). In training a tuple where there are further outputs: the
    logits of d1, those of d2, d3, d4, e5 (deep supervision), the presence logits (B, K) (classification-guided).

    Args:
        width: channels of the first stage, which double at every next one, and of each of the decoder's branches.
        deep_supervision: train a head on every decoder stage and the deepest encoder stage, weighed alike.
        classification_guided: tell from the deepest stage which classes the image holds, and never answer another.
        gate_training: leave out absent classes in training too; no gradient passes the decision.
    Raises:
        InputError: a width below 1, or gate_training without classification_guided.
    """

    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        width: int = PAPER_WIDTH,
        deep_supervision: bool = False,
        classification_guided: bool = False,
        gate_training: bool = False,
    ) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"option width={width} of unet_3plus: it must be at least 1")
        if gate_training and not classification_guided:
            raise InputError(
                "option gate_training of unet_3plus needs the module that decides: add classification_guided=true"
            )
        self.gate_training = gate_training
        channels = [width * 2**level for level in range(DEPTH)]
        self.encoder = ContractingPath(in_channels, channels, norm=True, padding="same")
        wide = width * DEPTH
        self.decoder = nn.ModuleList()  # d4, d3, d2, d1
        for level in range(DEPTH - 2, -1, -1):
            finer, coarser = channels[: level + 1], [wide] * (DEPTH - 2 - level)
            self.decoder.append(FullScaleStage(level, [*finer, *coarser, channels[-1]], width))
        outputs = [wide, wide, wide, wide, channels[-1]] if deep_supervision else [wide]
        self.heads = nn.ModuleList(nn.Conv2d(each, num_classes, 3, padding=1) for each in outputs)
        self.presence: nn.Sequential | None = None
        if classification_guided:
            self.presence = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(channels[-1], num_classes, 1))
        self.aux_weights = (1.0,) * (len(outputs) - 1 + classification_guided)
        self._initialise()

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """image (B, C, H, W) float -> logits (B, K, H, W); in training (logits, *deep ones, presence (B, K))."""
        fitted = pad_to_least(image, self.encoder.multiple)
        maps = self.encoder(fitted)
        for stage in self.decoder:
            maps[stage.level] = stage(maps)  # the coarser places hold decoder maps by now
        heads = self.heads if self.training else self.heads[:1]
        logits = [resize_like(head(each), fitted, align_corners=False) for head, each in zip(heads, maps)]
        logits = [each[..., : image.shape[-2], : image.shape[-1]] for each in logits]
        if self.presence is None:
            return tuple(logits) if self.aux_weights and self.training else logits[0]
        present = self.presence(maps[-1]).amax((2, 3))  # (B, K)
        if self.gate_training or not self.training:
            logits = [without_absent(each, present) for each in logits]
        return (*logits, present) if self.training else logits[0]

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in the paper's order."""
        down = {f"e{number}": stage for number, stage in enumerate(self.encoder.stages, start=1)}
        up = {f"d{DEPTH - number}": stage for number, stage in enumerate(self.decoder, start=1)}
        heads = {f"head {number}": head for number, head in enumerate(self.heads, start=1)}
        presence = {} if self.presence is None else {"presence": self.presence}
        return down | up | heads | presence

    def _initialise(self) -> None:
        """He-normal convolutions, and scales of batch normalisation spread around one, as in the release."""
        he_normal_(self)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, 1.0, 0.02)


def without_absent(logits: Tensor, present: Tensor) -> Tensor:
    """`logits` (B, K, H, W) in which a class with a presence logit (B, K) of 0 or less cannot be the answer.

    It gets a value `ABSENT` below the lowest logit of the pixel (and below -ABSENT). Class 0 of several is the
    background, which is always there.
    """
    absent = present <= 0
    if logits.shape[1] > 1:
        absent = torch.cat([torch.zeros_like(absent[:, :1]), absent[:, 1:]], dim=1)
    lowest = logits.detach().amin(1, keepdim=True).clamp_max(0) - ABSENT
    return torch.where(absent[:, :, None, None], lowest, logits)
