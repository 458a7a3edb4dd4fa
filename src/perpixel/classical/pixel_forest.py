"""Pixel forest: a random forest over a bank of Gaussian filters, trained within seconds from masks or a few strokes.

    image -> filters at several widths -> features of each pixel -> trees -> mean of their class probabilities

Reference: the pixel classification of ilastik (Berg et al., Nature Methods 2019), with its features and its 100 full
trees. Breiman, "Random forests", Machine Learning 2001. Here scikit-learn trains; arrays of our own predict.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perpixel.classical.features import FEATURES, FilterBank
from perpixel.classical.forms import array_form
from perpixel.classical.pixel_sampling import draw_samples
from perpixel.classical.pixel_training import fit_forest, out_of_bag_accuracy
from perpixel.classical.tiles import Span, tensor_features, tile_features, tiles
from perpixel.classical.trees import Trees, TreeTensors, check_trees, from_sklearn, tree_tensors, walk_tensors
from perpixel.compiled import Workers
from perpixel.errors import InputError

# Probabilities below count as this.
LEAST_PROB = 1e-6
# Of the time for training, the share that reading images may take.
_READING = 0.4
_ARRAYS = {name: index for index, name in enumerate(Trees._fields)}
_DTYPES = (torch.int16, torch.float32, torch.int32, torch.int32, torch.float32)
# Nothing is numbered beyond these: feature numbers are int16, and sums over trees stay exact in int32.
_MOST_FEATURES, _MOST_TREES = 1 << 15, 10_000


class PixelForest(nn.Module):
    """Image (B, C, *spatial), values about 0..1 -> log of class probabilities (B, K, *spatial), at least log(1e-6).

    Takes images (H, W) or volumes (D, H, W), whichever it was grown from.

    Args:
        sigmas: widths of the filters in pixels, 0.3 to 10.
        features: "all", or names joined by "+": smoothing, laplacian, gradient, difference, structure, hessian.
        trees: more are steadier, and slower in proportion.
        max_depth: of a tree; None grows each until its leaves are pure.
        min_leaf: training pixels in a leaf, at least.
        max_pixels: training pixels of all images together, at most.
        balanced: every class counts the same in all, however rare.
    Raises:
        InputError: an option out of range.
    """

    feature: Tensor
    threshold: Tensor
    child: Tensor
    roots: Tensor
    table: Tensor
    dims: Tensor

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        sigmas: Sequence[float] = (0.7, 1.0, 1.6, 3.5, 5.0),
        features: str = "all",
        trees: int = 100,
        max_depth: int | None = None,
        min_leaf: int = 1,
        max_pixels: int = 50_000,
        balanced: bool = False,
    ) -> None:
        super().__init__()
        names = FEATURES if features == "all" else tuple(name.strip() for name in features.split("+"))
        self.bank = FilterBank(tuple(float(sigma) for sigma in sigmas), names)
        for option, value, least in (
            ("trees", trees, 1), ("min_leaf", min_leaf, 1), ("max_pixels", max_pixels, 100),
            ("max_depth", 1 if max_depth is None else max_depth, 1),
        ):  # fmt: skip
            if value < least:
                raise InputError(f"option {option}={value} of pixel_forest: it must be {least} or more")
        if trees > _MOST_TREES:
            raise InputError(f"option trees={trees} of pixel_forest: it must be {_MOST_TREES} or less")
        self.in_channels, self.num_classes = in_channels, num_classes
        self.trees, self.max_depth, self.min_leaf = trees, max_depth, min_leaf
        self.max_pixels, self.balanced = max_pixels, balanced
        if self.num_features(3) > _MOST_FEATURES:
            raise InputError(
                f"{in_channels} channels have {self.num_features(3)} features: choose fewer sigmas or features"
            )
        for name, dtype in zip(_ARRAYS, _DTYPES):
            shape = (0, num_classes) if name == "table" else (0,)
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))
        self.register_buffer("dims", torch.zeros(1, dtype=torch.int32))
        self._dims, self._depth = 0, 0
        self._forms: dict[str, Any] = {}  # what the walks read, made of the buffers when first needed

    @property
    def is_grown(self) -> bool:
        """Whether it was trained."""
        return len(self.roots) > 0

    def num_features(self, dims: int) -> int:
        """Of a pixel of an image with so many spatial axes."""
        return self.in_channels * len(self.bank.names(dims))

    def feature_names(self, dims: int) -> list[str]:
        """What the features are, in their order: 'channel 0: hessian 1 at sigma 1.6'."""
        return [f"channel {c}: {name}" for c in range(self.in_channels) for name in self.bank.names(dims)]

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
            load: number -> image (C, *spatial) float32 as `forward` takes it, label map (*spatial) 0..K-1 or
                `ignore_index`.
            seconds: soft limit; fewer images, pixels and trees are used where needed. Without it the same seed and
                data give the same arrays.
            on_progress: called with (done, of, what).
        Returns:
            What was used and found, ready for JSON.
        Raises:
            InputError: fewer than two classes or too few labelled pixels, or images that do not fit.
        """
        tell = on_progress or (lambda done, of, what: None)
        began = time.perf_counter()
        samples = draw_samples(
            lambda number: self._checked(load(number), number), count, self.bank, num_classes=self.num_classes,
            ignore_index=ignore_index, max_pixels=self.max_pixels, seed=seed,
            deadline=None if seconds is None else began + _READING * seconds,
            on_image=lambda done: tell(done, count, "images"),
        )  # fmt: skip
        seen = time.perf_counter()
        forest, pixels = fit_forest(
            samples.features, samples.classes, trees=self.trees, max_depth=self.max_depth, min_leaf=self.min_leaf,
            balanced=self.balanced, seed=seed, threads=torch.get_num_threads(),
            deadline=None if seconds is None else began + seconds,
            on_trees=lambda done: tell(done, self.trees, "trees"),
        )  # fmt: skip
        # Asking every tree for all pixels again takes about a twentieth of the training.
        accuracy = None
        if pixels == len(samples.classes):
            accuracy = out_of_bag_accuracy(forest, samples.features, samples.classes)
        trees = from_sklearn(forest, self.num_classes)
        self._take({name: torch.from_numpy(array) for name, array in zip(_ARRAYS, trees)}, samples.dims, trees.depth)
        grown = time.perf_counter()
        counts = np.bincount(samples.classes, minlength=self.num_classes)
        return {
            "images": samples.images, "images_given": count, "pixels": pixels, "pixels_drawn": len(samples.classes),
            "pixels_of_class": [int(each) for each in counts], "features": samples.features.shape[1],
            "trees": len(trees.roots), "nodes": len(trees.child), "depth": trees.depth,
            "seconds_images": round(seen - began, 3), "seconds_trees": round(grown - seen, 3),
            "out_of_bag_accuracy": accuracy,
        }  # fmt: skip

    def keep_own(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the sizes of a trained forest's arrays; called with all tensors of a file before they are loaded.

        Raises:
            InputError: arrays that contradict each other.
        """
        own = self.state_dict()
        if set(own) != set(state) or any(state[name].dtype != own[name].dtype for name in own):
            return state  # of another model: whoever loads says what differs
        if len(state["roots"]) == 0:
            raise InputError("the pixel forest in this file has no trees: it was saved before it was trained")
        dims = int(state["dims"].reshape(-1)[0]) if state["dims"].numel() == 1 else 0
        if dims not in (2, 3):
            raise InputError(f"the pixel forest in this file labels images of {dims} axes, not of 2 or 3: damaged file")
        arrays = {name: state[name].detach().cpu().contiguous() for name in _ARRAYS}
        trees = Trees(*(array.numpy() for array in arrays.values()))
        check_trees(trees, self.num_features(dims), self.num_classes, "pixel forest")
        self._take({name: array.clone() for name, array in arrays.items()}, dims, trees.depth)
        return state

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, *spatial) float -> (B, K, *spatial) float32 log probabilities.

        Raises:
            InputError: not trained, or another number of channels or axes than it was trained for.
        """
        self._check(image)
        form = self._logits_by_loop if self._may_compile(image) else self._logits_by_torch
        logits = [form(one) for one in image.float()]
        return logits[0][None] if len(logits) == 1 else torch.stack(logits)  # stacking copies

    def _logits_by_loop(self, image: Tensor) -> Tensor:
        """(C, *spatial) -> (K, *spatial), some tiles at a time on as many threads."""
        from perpixel.classical.tree_walk import PackedTrees

        if "packed" not in self._forms:
            self._forms["packed"] = PackedTrees(self._arrays())
        packed, pixels, spatial = self._forms["packed"], image.contiguous().numpy(), tuple(image.shape[1:])
        logits = torch.empty(self.num_classes, *spatial)
        parts = tiles(spatial, self.num_features(len(spatial)))

        def one(number: int) -> None:
            sums = torch.from_numpy(packed.walk(tile_features(pixels, parts[number], self.bank)))
            self._write(logits, parts[number], sums)

        with Workers(torch.get_num_threads()) as workers:
            workers.run(one, len(parts))
        return logits

    def _logits_by_torch(self, image: Tensor) -> Tensor:
        """The same in plain torch operations; in one piece where a graph is recorded, which fits any size so."""
        arrays, spatial = self._tensors(image.device), tuple(image.shape[1:])
        if _is_traced():
            sums = walk_tensors(arrays, tensor_features(image, self.bank))
            return self._log(sums).reshape(self.num_classes, *spatial)
        logits = torch.empty(self.num_classes, *spatial, device=image.device)
        for tile in tiles(spatial, self.num_features(len(spatial))):
            self._write(logits, tile, walk_tensors(arrays, tensor_features(image, self.bank, tile)))
        return logits

    def _write(self, logits: Tensor, tile: tuple[Span, ...], sums: Tensor) -> None:
        where = tuple(slice(begin, end) for begin, end in tile)
        logits[(slice(None), *where)] = self._log(sums).reshape(-1, *(end - begin for begin, end in tile))

    def _log(self, sums: Tensor) -> Tensor:
        """(K, N) int32 sums over the trees -> float32 logits. Both forms end here, so that they round alike."""
        count = len(self.roots)
        probs = (sums.double() / float(count * ((2**31 - 1) // count))).float()
        return probs.clamp(min=LEAST_PROB).log()

    def _arrays(self) -> Trees:
        return Trees(*(getattr(self, name).cpu().numpy() for name in _ARRAYS))

    def _tensors(self, device: torch.device) -> TreeTensors:
        if _is_traced():  # nothing of a trace is kept
            return tree_tensors(*(getattr(self, name) for name in _ARRAYS), depth=self._depth)
        key = f"tensors on {device}"
        if key not in self._forms:
            self._forms[key] = self._arrays().tensors(device)
        tensors: TreeTensors = self._forms[key]
        return tensors

    def _take(self, arrays: dict[str, Tensor], dims: int, depth: int) -> None:
        device = self.dims.device
        for name, array in arrays.items():
            setattr(self, name, array.to(device))
        self.dims = torch.full((1,), dims, dtype=torch.int32, device=device)
        self._dims, self._depth, self._forms = dims, depth, {}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Arrays of any length are loaded, and checked before."""
        own = {name: state_dict[prefix + name] for name in (*_ARRAYS, "dims") if prefix + name in state_dict}
        if len(own) == len(_ARRAYS) + 1 and len(own["roots"]):
            self.keep_own(own)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _may_compile(self, image: Tensor) -> bool:
        return image.device.type == "cpu" and not _is_traced() and array_form() is not None

    def _checked(self, pair: tuple[np.ndarray, np.ndarray], number: int) -> tuple[np.ndarray, np.ndarray]:
        if pair[0].shape[0] != self.in_channels:
            raise InputError(
                f"image {number} has {pair[0].shape[0]} channels: this pixel forest was built for {self.in_channels}"
            )
        return pair

    def _check(self, image: Tensor) -> None:
        if not self.is_grown:
            raise InputError("this pixel forest has not been trained: train it, or load the weights of one that was")
        if image.shape[1] != self.in_channels:
            raise InputError(f"image of {image.shape[1]} channels: this pixel forest was built for {self.in_channels}")
        if image.ndim - 2 != self._dims:
            raise InputError(
                f"image of shape {tuple(image.shape)} has {image.ndim - 2} spatial axes: this pixel forest was trained "
                f"on images with {self._dims}"
            )


def _is_traced() -> bool:
    """Whether a graph is being recorded, which no compiled loop can enter."""
    return torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.jit.is_tracing()
