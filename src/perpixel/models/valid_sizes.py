"""Which image sizes an unpadded U-Net takes, and how much smaller its output is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perpixel.errors import InputError

LOST_PER_STAGE = 4  # pixels that two unpadded 3x3 convolutions take off a side


@dataclass(frozen=True)
class ValidSizes:
    """Sizes of an unpadded U-Net with `pools` poolings: multiple * m + offset for m >= least, every pool even.

    At the paper's 4 poolings: 16 m + 60 with m >= 8, that is 188, 204, ..., 572, and a margin of 92 pixels. At the 3 of
    3D U-Net: 8 m + 28 with m >= 8, and 44.
    """

    pools: int

    @property
    def multiple(self) -> int:
        """Distance between two valid sizes."""
        return 2**self.pools

    @property
    def offset(self) -> int:
        """What the convolutions above the deepest stage take off, in input pixels."""
        return LOST_PER_STAGE * (self.multiple - 1)

    @property
    def margin(self) -> int:
        """Pixels of the input that the output lacks on each side."""
        return self.offset + LOST_PER_STAGE // 2 * self.multiple

    @property
    def smallest(self) -> int:
        """The smallest valid size: one that leaves at least one output pixel."""
        return self.fit(2 * self.margin + 1)

    def fit(self, size: int) -> int:
        """The smallest valid size that is at least `size`."""
        least = max(size, 2 * self.margin + 1)
        return -(-(least - self.offset) // self.multiple) * self.multiple + self.offset

    def fit_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The smallest valid (height, width) that is at least `size`."""
        return self.fit(size[0]), self.fit(size[1])

    def check(self, height: int, width: int) -> None:
        """Refuse a size that some pooling would meet odd; see `check_sides`."""
        self.check_sides({"height": height, "width": width}, padded="unet")

    def check_sides(self, sides: Mapping[str, int], *, padded: str) -> None:
        """Refuse a size that some pooling would meet odd.

        Args:
            sides: by the name of their axis.
            padded: the model to take for other sizes.
        Raises:
            InputError: naming the nearest valid sizes.
        """
        for axis, size in sides.items():
            above = self.fit(size)
            if above == size:
                continue
            below = above - self.multiple
            near = f"{below} or {above}" if below >= self.smallest else f"{above}"
            raise InputError(
                f"image {axis} {size} does not fit a U-Net with padding='valid', whose sizes are "
                f"{self.multiple}m + {self.offset} from {self.smallest} on: use {near}, mirroring what is missing "
                f"(fit_size gives the size), or take model '{padded}'"
            )
