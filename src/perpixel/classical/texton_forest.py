"""Semantic texton forest: every pixel labelled by trees that look at raw pixels, then by trees that look at context.

Shotton, Johnson, Cipolla, "Semantic texton forests for image categorization and segmentation", CVPR 2008:

    image -> first forest -> semantic textons -> bags of regions -> second forest -> P(c | pixel)
                                    |                                                x P(c | image)^alpha
                                    + -> bag of the image -> image-level prior -> P(c | image)

No filter, no descriptor, no gradient: splits compare raw values of two pixels, and both forests are arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perpixel.classical import texton_bags as bagging
from perpixel.classical import texton_prior as priors
from perpixel.classical import texton_regions as regions
from perpixel.classical import texton_splits as splits
from perpixel.classical.texton_colours import Colours
from perpixel.classical.texton_trees import Trees, check_trees
from perpixel.compiled import can_compile
from perpixel.errors import InputError, did_you_mean

STAGES = ("textons", "regions", "all")
COLOURS = ("lab", "raw")
# Probabilities below count as this.
LEAST_PROB = 1e-6
# Rows of an image that become textons at a time have about so many pixels.
_BLOCK = 2**20
# Places in the tables of `_search`, (thresholds + 1) * classes, are numbers of 16 bits.
MOST_CLASSES = 1000
# Smallest and largest value of the options.
RANGES: dict[str, tuple[float, float]] = {
    "patch": (1, 255), "trees": (1, 100), "depth": (1, 16), "share": (0.01, 1), "grid": (1, 64), "tests": (1, 100_000),
    "thresholds": (1, 20), "pool": (1, 30_000), "pixels": (100, 10_000_000), "balance": (0, 1),
    "bag_nodes": (0, 10_000), "cell": (1, 64), "reach": (4, 256), "region_trees": (1, 100), "region_depth": (1, 16),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Options of `TextonForest`, which explains them."""

    patch: int
    trees: int
    depth: int
    share: float
    grid: int
    tests: int
    thresholds: int
    pool: int
    pixels: int
    balance: float
    bag_nodes: int
    cell: int
    reach: int
    region_trees: int
    region_depth: int

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise InputError(
                    f"option {name}={getattr(self, name)!r} of texton_forest: it must lie in {least:g}..{most:g}"
                )
        if self.patch % 2 == 0:
            raise InputError(
                f"option patch={self.patch} of texton_forest: give an odd side, so that it has a pixel in its middle"
            )
        if self.cell > self.reach:
            raise InputError(f"option cell={self.cell} of texton_forest: it must not exceed reach={self.reach}")


class TextonForest(nn.Module):
    """Image (B, C, H, W), values about 0..1 -> log of class probabilities (B, K, H, W), at least log(1e-6). 2-D only.

    Args:
        stages: "textons" answers by the first forest, "regions" by the second, "all" by that and the image-level prior.
            A forest grown with "all" may be asked for less: set its attribute `stages`.
        colour: "lab" takes three channels for RGB and compares them in CIELab; "raw" compares channels as they are.
        patch: odd side of the square in which the first forest compares pixels.
        trees, depth: of the first forest.
        share: of the training pixels that each tree grows from.
        grid: every so many pixels, in both directions, one is taken for training; all where few are labelled.
        tests: random tests tried at a node.
        thresholds: tried for each test.
        pool: random tests that a forest draws from.
        pixels: training pixels of all images, at most; rare classes keep more of theirs.
        balance: 1 weighs classes equally (the paper's choice, best for the mean of class accuracies), 0 by their
            pixels (best for pixel accuracy); 0.5, by the root of their pixels, had the best mean IoU on CamVid.
        bag_nodes: nodes of the first forest that are counted in rectangles.
        cell: side of the squares that rectangles consist of.
        reach: how far from the pixel a rectangle goes.
        region_trees, region_depth: of the second forest.
    Raises:
        InputError: an option out of range, or more than 1000 classes.
    """

    alpha: Tensor
    bag_nodes: Tensor
    prior_bags: Tensor
    prior_weights: Tensor
    prior_constants: Tensor
    prior_sigmoids: Tensor

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        stages: str = "all",
        colour: str = "lab",
        patch: int = 21,
        trees: int = 5,
        depth: int = 10,
        share: float = 0.5,
        grid: int = 4,
        tests: int = 400,
        thresholds: int = 5,
        pool: int = 2000,
        pixels: int = 150_000,
        balance: float = 0.5,
        bag_nodes: int = 400,
        cell: int = 4,
        reach: int = 96,
        region_trees: int = 5,
        region_depth: int = 10,
    ) -> None:
        super().__init__()
        for option, value, known in (("stages", stages, STAGES), ("colour", colour, COLOURS)):
            if value not in known:
                raise InputError(f"option {option}={value!r} of texton_forest{did_you_mean(str(value), known)}")
        if num_classes > MOST_CLASSES:
            raise InputError(f"{num_classes} classes: a texton forest takes {MOST_CLASSES} at most")
        self.in_channels, self.num_classes, self.stages = in_channels, num_classes, stages
        self.settings = Settings(
            patch, trees, depth, share, grid, tests, thresholds, pool, pixels, balance, bag_nodes, cell, reach,
            region_trees, region_depth,
        )  # fmt: skip
        self.colours = Colours(in_channels, colour == "lab")
        self.textons = Trees(splits.COLUMNS, num_classes, depth)
        self.regions = Trees(regions.COLUMNS, num_classes, region_depth)
        self.register_buffer("bag_nodes", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("prior_bags", torch.zeros(0, 0))
        self.register_buffer("prior_weights", torch.zeros(num_classes, 0))
        self.register_buffer("prior_constants", torch.zeros(num_classes))
        self.register_buffer("prior_sigmoids", torch.zeros(num_classes, 2))
        self.register_buffer("alpha", torch.zeros(1))

    @property
    def is_grown(self) -> bool:
        """Whether it was trained."""
        return self.textons.is_grown

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> (B, K, H, W) float32 log probabilities.

        Raises:
            InputError: not trained (or not this stage), a volume, or another number of channels.
        """
        self._check(image)
        return torch.stack([self._log_probs(one) for one in image])

    def grow(
        self,
        load: Callable[[int], tuple[np.ndarray, np.ndarray]],
        count: int,
        *,
        ignore_index: int,
        seed: int = 0,
        seconds: float | None = None,
        on_progress: Callable[[int, int, str], None] | None = None,
    ) -> dict[str, Any]:
        """Train on `count` images, one in memory at a time, and fill the buffers.

        Args:
            load: number -> image (C, H, W) float32 as `forward` takes it, label map (H, W) 0..K-1 or `ignore_index`.
            seconds: soft limit; fewer images, pixels and tests are used where needed. Without it the same seed and
                data give the same arrays.
            on_progress: called with (done, of, what).
        Returns:
            What was used and found, ready for JSON.
        Raises:
            InputError: volumes, fewer than two classes, or too few labelled pixels.
        """
        from perpixel.classical.texton_training import train

        return train(self, load, count, ignore_index, seed, seconds, on_progress)

    def keep_own(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the sizes of a trained forest's arrays; called with all tensors of a file before they are loaded.

        Raises:
            InputError: arrays that contradict each other.
        """
        own = self.state_dict()
        if set(own) != set(state) or any(state[name].dtype != own[name].dtype for name in own):
            return state  # of another model: whoever loads says what differs
        if any(state[name].ndim != own[name].ndim or not _widths_fit(name, own, state) for name in own):
            return state
        self.check(state)
        for name, value in state.items():
            part, _, buffer = name.rpartition(".")
            module = self.get_submodule(part)
            setattr(module, buffer, value.detach().clone().contiguous().to(getattr(module, buffer).device))
        return state

    def check(self, state: dict[str, Tensor]) -> None:
        """Refuse arrays by which a pixel could get lost or read what is not there.

        Raises:
            InputError
        """
        parts = {
            part: {name.partition(".")[2]: value.cpu() for name, value in state.items() if name.startswith(f"{part}.")}
            for part in ("textons", "regions")
        }
        s, textons = self.settings, parts["textons"]
        nodes = len(textons["thresholds"])
        if nodes == 0:
            raise InputError("the texton forest in this file has no trees: it was saved before it was trained")
        check_trees(textons, s.depth, "the first forest")
        splits.check_splits(textons["splits"], self.in_channels, s.patch)
        bag = state["bag_nodes"].cpu()
        if len(bag) and not ((bag >= 0) & (bag < nodes)).all():
            raise InputError(f"the bags of a texton forest count nodes that are not among its {nodes}: damaged file")
        if len(parts["regions"]["roots"]) or len(parts["regions"]["thresholds"]):
            check_trees(parts["regions"], s.region_depth, "the second forest")
            planes = self.num_classes + len(bag)
            regions.check_regions(parts["regions"]["splits"], planes, self.num_classes, s.cell, s.reach)
        names = ("prior_bags", "prior_weights", "prior_constants", "prior_sigmoids", "alpha")
        priors.check_prior([state[name].cpu() for name in names], nodes)

    def textonise(self, image: Tensor) -> Tensor:
        """(C, H, W) -> (T, H, W) int32: leaf of every pixel in every tree of the first forest."""
        reach = self.settings.patch // 2
        if _is_traced():
            return splits.find_leaves_by_torch(splits.padded(self.colours(image), reach), self.textons, reach)
        _, height, width = image.shape
        rows, parts = max(1, _BLOCK // width), []
        for begin in range(0, height, rows):
            # The block with what its patches see of its neighbours; only real borders are continued.
            above, below = min(reach, begin), min(reach, max(0, height - begin - rows))
            channels = splits.padded(self.colours(image[:, begin - above : begin + rows + below]), reach)
            channels = channels[:, above : channels.shape[1] - below]
            if self._may_compile(image):
                parts.append(splits.find_leaves(channels, self.textons, reach, torch.get_num_threads()))
            else:
                parts.append(splits.find_leaves_by_torch(channels, self.textons, reach))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def bags_of(self, leaves: Tensor, part: tuple[int, int, int, int]) -> bagging.Bags:
        """Bags around a part (row0, row1, col0, col1) of an image with these `leaves`."""
        s, (_, height, width) = self.settings, leaves.shape
        if _is_traced():  # no comparison may decide anything, or the graph fits one size only
            window, seen = bagging.Window(*part, 0, -(-height // s.cell), 0, -(-width // s.cell)), leaves
        else:
            window = bagging.window_around((height, width), part, s.cell, s.reach)
            seen = bagging.pixels_of(leaves, window, s.cell)
        table = bagging.prior_table(self.textons)
        members = bagging.node_members(self.textons, self.bag_nodes)
        arguments = seen, table, members, len(self.bag_nodes), window, s.cell
        if self._may_compile(leaves):
            return bagging.make_bags(*arguments, torch.get_num_threads())
        return bagging.make_bags_by_torch(*arguments)

    def region_probs(self, leaves: Tensor) -> Tensor:
        """(T, H, W) leaves -> (K, H, W) class probabilities by the second forest, part by part."""
        _, height, width = leaves.shape
        if _is_traced():
            return regions.find_region_probs_by_torch(self.bags_of(leaves, (0, height, 0, width)), self.regions)
        probs = torch.empty(self.num_classes, height, width, device=leaves.device)
        for part in regions.parts_of(height, width):
            bags = self.bags_of(leaves, part)
            if self._may_compile(leaves):
                found = regions.find_region_probs(bags, self.regions, torch.get_num_threads())
            else:
                found = regions.find_region_probs_by_torch(bags, self.regions)
            probs[:, part[0] : part[1], part[2] : part[3]] = found
        return probs

    def image_prior(self, leaves: Tensor) -> Tensor:
        """(T, H, W) leaves -> (K,) P(class is in the image)."""
        bag = priors.weighted_bag(bagging.whole_bag(leaves, self.textons), self.textons.depths())
        arrays = self.prior_bags, self.prior_weights, self.prior_constants, self.prior_sigmoids
        return priors.presence(bag, *arrays)

    def _log_probs(self, image: Tensor) -> Tensor:
        """The paper's figure: (C, H, W) -> (K, H, W)."""
        leaves = self.textonise(image)
        if self.stages == "textons":
            probs = self.textons.mean_probs(leaves)
        else:
            probs = self.region_probs(leaves)
            if self.stages == "all" and self.prior_bags.numel():
                probs = probs * self.image_prior(leaves).pow(self.alpha)[:, None, None]
                probs = probs / probs.sum(0).clamp(min=1e-12)
        return probs.clamp(min=LEAST_PROB).log()

    def _may_compile(self, given: Tensor) -> bool:
        return given.device.type == "cpu" and not _is_traced() and can_compile()

    def _check(self, image: Tensor) -> None:
        if not self.is_grown:
            raise InputError(
                "this texton forest has not been trained: train it first, or load the weights of one that was"
            )
        if self.stages not in STAGES:
            raise InputError(f"stages={self.stages!r} of texton_forest{did_you_mean(str(self.stages), STAGES)}")
        if self.stages != "textons" and not self.regions.is_grown:
            raise InputError(
                f"this texton forest was trained with stages='textons' and is asked for {self.stages!r}: "
                "use stages='textons', or train it again"
            )
        if image.ndim != 4:
            raise InputError(
                f"image of shape {tuple(image.shape)}: a texton forest labels 2-D images (B, C, H, W) only; "
                "use pixel_forest for volumes"
            )
        if image.shape[1] != self.in_channels:
            raise InputError(f"image of {image.shape[1]} channels: this texton forest was built for {self.in_channels}")


def _widths_fit(name: str, own: dict[str, Tensor], state: dict[str, Tensor]) -> bool:
    """Whether all sizes agree but those that training decides."""
    free = {"prior_bags": (0, 1), "prior_weights": (1,), "prior_constants": (), "prior_sigmoids": (), "alpha": ()}
    loose = free.get(name, (0,))
    return all(axis in loose or size == own[name].shape[axis] for axis, size in enumerate(state[name].shape))


def _is_traced() -> bool:
    """Whether a graph is being recorded, which no compiled loop can enter."""
    return torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.jit.is_tracing()
