"""U-Net with a hill on every object: classes, a height map and contacts, from which a watershed tells objects apart.

For crowded small objects, such as nuclei, which a net on boxes finds slowly and one class per pixel cannot part. No
paper's architecture; the parts are published ideas:

- a map that falls from each object's middle to its border, whatever its size, so that one setting fits large and
  small ones: Bai and Urtasun, "Deep watershed transform for instance segmentation", CVPR 2017; with one top for each
  object, also where it is long: Stringer et al., "Cellpose", Nature Methods 2021;
- pixels at which objects meet learnt as a map of their own: Chen et al., "DCAN", CVPR 2016; Caicedo et al.,
  "Nucleus segmentation across imaging experiments", Nature Methods 2019;
- tops, and valleys between them, instead of overlapping candidates: `labels.watershed` says how.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.labels import Grouping, Instances, group_objects
from perpixel.models.card import Card, Count
from perpixel.models.unet import UNet

# Maps beside those of the classes: height, contact.
EXTRA_MAPS = 2


class UNetWatershed(nn.Module):
    """U-Net whose output is grouped into objects; same size out, any size in.

    image (B, C, H, W) -> maps (B, K + 2, H, W): logits of the K classes (0 is background), of the height, of contacts.

    Args:
        width, depth, norm, up, dropout, encoder, variant, weights, decoder_channels, head_stride, final: of `UNet`.
        grouping: how `detect` groups: values of a `Grouping` by name. Training chooses it on validation images.
    """

    aux_weights: tuple[float, ...] = ()

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        *,
        width: int = 32,
        depth: int = 5,
        norm: bool = True,
        up: str = "bilinear",
        dropout: float = 0.0,
        encoder: str | None = None,
        variant: str | None = None,
        weights: str | Path | None = None,
        decoder_channels: Sequence[int] | None = None,
        head_stride: int = 1,
        final: str = "bilinear",
        grouping: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.grouping = Grouping.from_json(grouping or {})
        self.unet = UNet(
            in_channels,
            num_classes + EXTRA_MAPS,
            width=width,
            depth=depth,
            norm=norm,
            up=up,
            dropout=dropout,
            encoder=encoder,
            variant=variant,
            weights=weights,
            decoder_channels=decoder_channels,
            head_stride=head_stride,
            final=final,
        )

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> maps (B, K + 2, H, W)."""
        maps: Tensor = self.unet(image)
        return maps

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in order."""
        return self.unet.stages()

    @torch.inference_mode()
    def maps(self, image: Tensor, *, size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """probs (K, H, W), height (H, W) and contact (H, W), float32 in 0..1, of one image on the grid of `size`."""
        found = self(image).float()
        if size is not None and tuple(found.shape[-2:]) != tuple(size):
            found = F.interpolate(found, tuple(size), mode="bilinear", align_corners=False)
        classes, others = found[0].split([self.num_classes, EXTRA_MAPS])
        height, contact = others.sigmoid()
        return classes.softmax(0), height, contact

    def detect(self, image: Tensor, *, size: tuple[int, int] | None = None) -> Instances:
        """The objects of one image, best first.

        Args:
            image: (1, C, h, w) float, normalised, at working scale.
            size: (H, W) on which the objects are wanted; None is the image's own.
        """
        probs, height, contact = (each.cpu().numpy() for each in self.maps(image, size=size))
        return group_objects(probs, height, contact, self.grouping)


CARD = Card(
    title="U-Net with watershed grouping",
    paper=(
        "no paper's: U-Net (arXiv 1505.04597) with the height of Deep Watershed (arXiv 1611.08303) and Cellpose "
        "(2021), and the contacts of DCAN (arXiv 1604.02677)"
    ),
    counts=(Count("3 channels, 2 classes", 4_318_500, 3, 2),),
)
