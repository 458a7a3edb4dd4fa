"""A classifier's fully connected layers, read as convolutions: the classifier then slides over larger images.

A linear layer on a (C, k, k) map is a k x k convolution without padding that happens to fit once. On a larger map
the same weights give one answer per position: a network that takes 224 pixels at stride 32 gives 6 x 6 answers on
384 pixels, in one pass that shares the convolutions. With unpadded convolutions each answer is exactly that of its
224-pixel crop; where the classifier pads (VGG, AlexNet), a crop sees zeros at its rim and the large image does not.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from perpixel.errors import InputError

# What may follow the first linear layer and works value by value, so that it needs no change but Dropout's kind.
POINTWISE = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh, nn.Dropout,
             nn.Identity)  # fmt: skip
# Of the largest answer; the two forms sum the same products in another order.
TOLERANCE = 1e-4
# Heads that serve training only.
AUXILIARY = ("aux1", "aux2", "AuxLogits")
# (mean, deviation) of ImageNet's red, green and blue, on the scale 0..1.
IMAGENET_COLOURS = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))


def conv_weight(weight: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """A linear layer's weight (O, channels * h * w) as a convolution's (O, channels, h, w); a view.

    Channel-major, as torch and Caffe flatten.

    Raises:
        InputError: the weight has another number of inputs.
    """
    height, width = size
    if weight.shape[1] != channels * height * width:
        raise InputError(
            f"linear layer of {weight.shape[1]} inputs does not fit a map of {channels}x{height}x{width}: "
            "give the image size that the classifier was built for as input_size, and the layers as one nn.Sequential "
            "if its forward pools on the way"
        )
    return weight.reshape(weight.shape[0], channels, height, width)


def linear_to_conv(linear: nn.Linear, channels: int, size: tuple[int, int] = (1, 1), dilation: int = 1) -> nn.Conv2d:
    """The convolution that computes `linear` of a flattened (channels, *size) map, with a copy of its weights.

    Raises:
        InputError: the linear layer has another number of inputs.
    """
    weight = conv_weight(linear.weight.detach(), channels, size)
    conv = nn.Conv2d(channels, linear.out_features, size, dilation=dilation, bias=linear.bias is not None)
    conv.weight = nn.Parameter(weight.clone())
    if conv.bias is not None:
        conv.bias = nn.Parameter(linear.bias.detach().clone())
    return conv


@torch.no_grad()
def convolutionalise(classifier: nn.Module, *, input_size: int | tuple[int, int] = 224) -> nn.Sequential:
    """Turn a classifier, image (B, C, h, w) -> (B, K), into a network image (B, C, H, W) -> logits (B, K, H', W').

    Takes any classifier that runs its children in order: nn.Sequential of convolutions, pools, flatten and linear
    layers, torchvision's AlexNet, VGG, GoogLeNet and ResNet. The weights are copies. The result is compared with
    the classifier on a random image of `input_size`, so a network with another way through its children is refused
    and never returned wrong.

    Args:
        input_size: the image size that the classifier is built for (224 for torchvision's).
    Raises:
        InputError: a layer that has no convolutional form, a size that does not fit, no linear layer at all, or a
            result that differs from the classifier's.
    """
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    parts = OrderedDict([*_colours(classifier), *_chain(classifier, "")])
    first = next((part for part in classifier.modules() if isinstance(part, nn.Conv2d)), None)
    if first is None or not any(isinstance(part, nn.Linear) for part in parts.values()):
        raise InputError(f"{type(classifier).__name__} has no convolution or no linear layer: nothing to convert")
    made = nn.Sequential(OrderedDict(_convert(parts, first.in_channels, size))).to(first.weight.device)
    made.train(classifier.training)
    image = torch.randn(1, first.in_channels, *size, generator=torch.Generator().manual_seed(0))
    _compare(classifier, made, image.to(first.weight))
    return made


def _colours(classifier: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """As a 1x1 convolution, what torchvision's pretrained GoogLeNet and Inception do to an image first.

    Their weights take colours of -1..1, their callers give ImageNet's normalisation as to every other network.
    """
    if not getattr(classifier, "transform_input", False):
        return
    conv = nn.Conv2d(3, 3, 1, groups=3)
    conv.weight.copy_(torch.tensor([2 * deviation for _, deviation in IMAGENET_COLOURS]).reshape(3, 1, 1, 1))
    conv.bias.copy_(torch.tensor([2 * mean - 1 for mean, _ in IMAGENET_COLOURS]))  # type: ignore[union-attr]
    yield "colours", conv


def _chain(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """The parts in the order in which they run; containers are opened, blocks are kept whole."""
    opened = isinstance(module, nn.Sequential) or not prefix
    if not opened or not list(module.children()):
        yield prefix.replace(".", "_"), module
        return
    for name, child in module.named_children():
        if child is not None and name not in AUXILIARY:
            yield from _chain(child, f"{prefix}.{name}" if prefix else name)


def _convert(
    parts: OrderedDict[str, nn.Module], channels: int, size: tuple[int, ...]
) -> Iterator[tuple[str, nn.Module]]:
    """Walk the parts with a map of shapes only, and give each in its convolutional form."""
    maps = torch.empty(1, channels, *size, device="meta")
    spread = 1  # distance between the values that the first linear layer reads, above 1 after pooling into cells
    is_flat = False
    for name, part in parts.items():
        if isinstance(part, nn.AdaptiveAvgPool2d):
            pool, spread = _fixed_pool(name, part, maps)
            maps = copy.deepcopy(part)(maps)
            yield from () if pool is None else [(name, pool)]
        elif isinstance(part, nn.Linear):
            shape = (1, 1) if is_flat else (maps.shape[2], maps.shape[3])
            yield name, linear_to_conv(part, maps.shape[1], shape, 1 if is_flat else spread)
            maps, is_flat = torch.empty(1, part.out_features, 1, 1, device="meta"), True
        elif isinstance(part, nn.BatchNorm1d):
            yield name, _norm_on_maps(part)
        elif is_flat and not isinstance(part, POINTWISE):
            raise InputError(
                f"layer '{name}' ({type(part).__name__}) stands behind a linear one and has no convolutional form: "
                "leave it out, or apply it to the logits"
            )
        elif not isinstance(part, nn.Flatten):
            maps = _shape_after(name, part, maps) if not is_flat else maps
            yield name, copy.deepcopy(part)


def _shape_after(name: str, part: nn.Module, maps: Tensor) -> Tensor:
    try:
        return copy.deepcopy(part).to("meta").eval()(maps)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            f"layer '{name}' ({type(part).__name__}) does not take a map of {tuple(maps.shape[1:])}: "
            "the classifier does not run its children in order, or input_size is too small"
        ) from error


def _fixed_pool(name: str, part: nn.AdaptiveAvgPool2d, maps: Tensor) -> tuple[nn.Module | None, int]:
    """The pool of fixed window that is `part` at the classifier's own size, and the distance between its cells.

    The window slides by one, and the convolution behind it is dilated by the window, so that every position of a
    larger image is pooled as the classifier would.
    """
    given = part.output_size if isinstance(part.output_size, tuple) else (part.output_size, part.output_size)
    rows, cols = maps.shape[2], maps.shape[3]
    wanted = (given[0] or rows, given[1] or cols)
    if rows % wanted[0] or cols % wanted[1] or rows // wanted[0] != cols // wanted[1]:
        raise InputError(
            f"layer '{name}' pools a {rows}x{cols} map to {wanted[0]}x{wanted[1]} in unequal windows: "
            "choose an input_size at which they divide"
        )
    window = rows // wanted[0]
    return (None, 1) if window == 1 else (nn.AvgPool2d(window, stride=1), window)


def _norm_on_maps(norm: nn.BatchNorm1d) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    made.load_state_dict(norm.state_dict())
    return made


def _compare(classifier: nn.Module, made: nn.Module, image: Tensor) -> None:
    modes = {part: part.training for net in (classifier, made) for part in net.modules()}
    try:
        expected, answer = classifier.eval()(image), made.eval()(image)
    finally:
        for part, mode in modes.items():
            part.training = mode
    is_single = answer.shape[2:] == (1, 1)
    if not is_single or not (answer[..., 0, 0] - expected).abs().max() <= TOLERANCE * expected.abs().max():
        raise InputError(
            f"{type(classifier).__name__} does not run its children in order, so its convolutional form would answer "
            "otherwise: pass the layers as one nn.Sequential"
        )
