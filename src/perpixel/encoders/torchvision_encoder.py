"""torchvision's classification networks as encoders: the graph is cut where each stride is seen last."""

from __future__ import annotations

import copy
import difflib
import itertools
import math
from typing import Any

import torch
from torch import Tensor, fx, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from perpixel.encoders.encoder import Encoder, check_pyramid
from perpixel.encoders.unpadded import least_side
from perpixel.encoders.weights import adapt_stem_weight, check_covers, read_state_dict
from perpixel.errors import InputError

# Large enough that AlexNet's and VGG's pooled 6x6 and 7x7 maps are far from stride 32 (14 pixels here).
PROBE_SIZE = 448
# Arguments that keep torchvision from warning about a random start, or from changing the image's range.
QUIET_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": True, "aux_logits": False},
    "inception_v3": {"init_weights": True, "aux_logits": False},
}
# The factories that take `replace_stride_with_dilation`.
DILATED = ("resnet50", "resnet101", "resnet152", "resnext", "wide_resnet")


def torchvision_encoder(name: str, in_channels: int, weights: str | None, output_stride: int, depth: int) -> Encoder:
    """Build torchvision's `name`; the arguments are those of `create_encoder`."""
    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
        guess = f"nearest: {', '.join(f'torchvision/{other}' for other in near)}" if near else "nothing is near"
        raise InputError(f"unknown encoder 'torchvision/{name}'; {guess}; torchvision.models.list_models() shows all")
    net = _build(name, weights, output_stride)
    _adapt_stem(net, in_channels)
    taps = _last_of_each_stride(name, net, in_channels, depth)
    nodes = {node: str(stride) for node, stride, _ in taps}
    extractor = create_feature_extractor(net, nodes, suppress_diff_warning=True)
    strides = [tap[1] for tap in taps]
    least = least_side(extractor, in_channels, strides[-1])
    return Encoder(f"torchvision/{name}", extractor, [tap[2] for tap in taps], strides, least=least)


def _build(name: str, weights: str | None, output_stride: int) -> nn.Module:
    options: dict[str, Any] = {}
    if output_stride != 32:
        if not name.startswith(DILATED):
            raise InputError(
                f"encoder 'torchvision/{name}' cannot run at output_stride {output_stride}: "
                "use 32, or a bottleneck ResNet such as 'torchvision/resnet50'"
            )
        options["replace_stride_with_dilation"] = [False, output_stride == 8, True]
    if weights == "imagenet":
        try:
            net = models.get_model(name, weights="DEFAULT", **options)
        except OSError as error:
            raise InputError(
                f"weights of encoder 'torchvision/{name}' could not be downloaded ({error}): "
                "check the network, give a local file, or use weights=None"
            ) from error
    else:
        net = models.get_model(name, weights=None, **QUIET_OPTIONS.get(name, {}), **options)
        if weights is not None:
            _load(name, net, weights)
    if getattr(net, "transform_input", False):
        net.transform_input = (
            False  # RGB from ImageNet's normalisation to -1..1; here images are normalised by their data
        )
    return net


def _load(name: str, net: nn.Module, weights: str) -> None:
    state = read_state_dict(weights)
    wanted = {key: value for key, value in net.state_dict().items() if _is_feature(key)}
    check_covers(f"torchvision/{name}", weights, state, wanted)
    net.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)


def _is_feature(key: str) -> bool:
    return key.partition(".")[0] not in ("fc", "classifier", "head", "heads", "aux1", "aux2", "AuxLogits")


def _adapt_stem(net: nn.Module, in_channels: int) -> None:
    for name, part in net.named_modules():
        if isinstance(part, nn.Conv2d) and part.in_channels == 3:
            if in_channels != 3:
                parent = net.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], _with_channels(part, in_channels))
            return
    raise InputError(f"{type(net).__name__} has no convolution of a 3-channel image to adapt: choose another encoder")


def _with_channels(conv: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    made = nn.Conv2d(
        in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )  # fmt: skip
    made.weight = nn.Parameter(adapt_stem_weight(conv.weight.detach(), in_channels))
    if conv.bias is not None:
        made.bias = nn.Parameter(conv.bias.detach())
    return made


def _last_of_each_stride(name: str, net: nn.Module, in_channels: int, depth: int) -> list[tuple[str, int, int]]:
    """(node, stride, channels) of the last square map at every power-of-two stride up to 2 ** depth.

    The copy that is probed lies on the meta device: shapes without values, so the probe costs a trace only.
    """
    probe = copy.deepcopy(net).to("meta")
    try:
        train_nodes, eval_nodes = get_graph_node_names(probe, suppress_diff_warning=True)
        nodes = [node for node in eval_nodes[1:] if node in set(train_nodes)]
        cut = create_feature_extractor(probe, nodes, suppress_diff_warning=True).eval()
        outputs = cut(torch.zeros(1, in_channels, PROBE_SIZE, PROBE_SIZE, device="meta"))
    except (fx.proxy.TraceError, NotImplementedError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"encoder 'torchvision/{name}' cannot be cut into features ({reason}): choose another encoder"
        ) from error
    last: dict[int, tuple[str, int, int]] = {}
    for node, output in outputs.items():
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3]:
            stride = 2 ** round(math.log2(PROBE_SIZE / output.shape[2]))
            if stride <= 2**depth:
                last[stride] = (node, stride, output.shape[1])
    strides = sorted(last)
    check_pyramid(f"torchvision/{name}", strides)
    if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(strides)):
        raise InputError(
            f"encoder 'torchvision/{name}' shows maps at strides {strides} only (it works on tokens): "
            "choose the network of that family in timm"
        )
    return [last[stride] for stride in strides]
