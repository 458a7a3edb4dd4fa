"""What every entry of NETS promises: sizes, gradients, modes, files, precision, names, repeatability.

A new model adds one line to CASES (options that make it small, sizes that it takes) and one to state_names.json.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.models import NETS, create_model, load_weights, save_weights, spatial_dims
from perpixel.models.describe import describe

STATE_NAMES = Path(__file__).with_name("state_names.json")


@dataclass(frozen=True)
class Case:
    """A small form of a model. `sizes` are even, odd and tiny; `least_batch` is what training needs.

    Image pooling leaves batch normalisation one value a channel and image, so such models train on two or more.
    `bf16_change` is how far logits may move in bf16, as a share of the largest.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[tuple[int, ...], ...] = ((32, 48), (33, 47), (1, 1))
    is_heavy: bool = False
    least_batch: int = 1
    bf16_change: float = 0.1

    @property
    def is_volume(self) -> bool:
        return len(self.sizes[0]) == 3

    @property
    def channels_last(self) -> torch.memory_format:
        return torch.channels_last_3d if self.is_volume else torch.channels_last

    def build(self, in_channels: int = 3, num_classes: int = 2, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return create_model(self.name, in_channels=in_channels, num_classes=num_classes, **self.options)


FCN = {"fc_channels": 16}
THIN_FCN = {"width": 4, "fc_channels": 16}
FCN_SIZES = ((6, 10), (9, 5), (1, 1))  # the first padding of 100 makes every image large
TIRAMISU = {"layers": [1, 2, 1, 1, 2, 2, 1, 1, 2, 1, 1], "growth": 4, "first_channels": 8}
VOLUMES = ((16, 32, 16), (17, 9, 20), (1, 1, 1))
ANISOTROPIC = {"pool": [[1, 2, 2], [2, 2, 2], [1, 3, 2]], "kernels": [[1, 3, 3], [3, 3, 3], [3, 5, 3], [3, 3, 3]]}
PATCHES = {"window": 13, "kernels": [2, 3], "width": 4, "hidden": 8}
CASES = {
    "fcn32s": Case("fcn32s", THIN_FCN, FCN_SIZES),
    "fcn16s": Case("fcn16s", THIN_FCN, FCN_SIZES),
    "fcn8s": Case("fcn8s", THIN_FCN, FCN_SIZES),
    "fcn8s_atonce": Case("fcn8s_atonce", THIN_FCN, FCN_SIZES),
    "fcn8s/full width": Case("fcn8s", FCN, FCN_SIZES, is_heavy=True),
    "fcn8s/alexnet": Case("fcn8s", FCN | {"backbone": "alexnet"}, FCN_SIZES, is_heavy=True),
    "fcn8s/googlenet": Case("fcn8s", {"backbone": "googlenet"}, FCN_SIZES, is_heavy=True),
    # Rounding moves the places of maxima that are nearly equal, as many are before training.
    "segnet": Case("segnet", {"width": 8}, bf16_change=0.5),
    "segnet_basic": Case("segnet_basic", {"width": 4, "dropout": 0.5}, bf16_change=0.5),
    "bayesian_segnet": Case("bayesian_segnet", {"width": 8}, bf16_change=0.5),
    "fc_densenet56": Case("fc_densenet56", TIRAMISU),
    "fc_densenet56/batch statistics": Case("fc_densenet56", TIRAMISU | {"bn_eval": "batch"}),
    "fc_densenet67": Case("fc_densenet67", TIRAMISU, is_heavy=True),
    "fc_densenet103": Case("fc_densenet103", TIRAMISU | {"layers": [1, 2, 3, 2, 1]}, is_heavy=True),
    "patch_cnn": Case("patch_cnn", PATCHES),
    "patch_cnn/sliding, relu": Case("patch_cnn", PATCHES | {"form": "sliding", "activation": "relu"}),
    "unet": Case("unet", {"width": 4}),
    "unet/no norm, bilinear": Case("unet", {"width": 4, "norm": False, "up": "bilinear", "dropout": 0.1}),
    "unet/encoder": Case("unet", {"width": 8, "encoder": "resnet18"}),
    "unet/encoder, stride 2": Case(
        "unet", {"width": 8, "encoder": "mobilenetv3_small_050", "head_stride": 2, "final": "transposed"}
    ),
    "unet_valid": Case("unet_valid", {"width": 4}, ((188, 188), (188, 204), (204, 188))),
    "unet_plus_plus": Case("unet_plus_plus", {"width": 4}),
    "unet_plus_plus/deep supervision": Case("unet_plus_plus", {"width": 4, "norm": True, "deep_supervision": True}),
    "unet_plus_plus/pruned": Case("unet_plus_plus", {"width": 4, "prune_level": 2}),
    "unet_plus_plus/encoder": Case(
        "unet_plus_plus", {"width": 4, "encoder": "resnet18", "deep_supervision": True, "mode": "fast"}
    ),
    "unet_3plus": Case("unet_3plus", {"width": 4}),
    "unet_3plus/all outputs": Case("unet_3plus", {"width": 4, "deep_supervision": True, "classification_guided": True}),
    "dilated": Case("dilated", FCN | {"width": 8}, FCN_SIZES),  # mirrored by 186
    "dilated/large, 10 layers": Case(
        "dilated", FCN | {"width": 8, "context": "large", "context_layers": 10}, FCN_SIZES, is_heavy=True
    ),
    "deeplab_v1": Case("deeplab_v1", FCN),
    "deeplab_v1/4x4, no average": Case(
        "deeplab_v1", FCN | {"field_of_view": "4x4", "average_pool": False}, is_heavy=True
    ),
    "deeplab_v2": Case("deeplab_v2", {"backbone": "resnet18"}),
    "deeplab_v2/multi-scale": Case("deeplab_v2", {"backbone": "resnet18", "multi_scale": True}),
    "deeplab_v2/variant a": Case("deeplab_v2", {"backbone": "resnet50", "variant": "a"}, is_heavy=True),
    "deeplab_v2/vgg16": Case("deeplab_v2", FCN | {"backbone": "vgg16"}, is_heavy=True),
    "deeplab_v3": Case("deeplab_v3", {"encoder": "resnet18", "channels": 16}, least_batch=2),
    "deeplab_v3/cascaded": Case("deeplab_v3", {"encoder": "resnet18", "cascaded": True}, is_heavy=True),
    "deeplab_v3/torchvision, auxiliary": Case(
        "deeplab_v3",
        {"encoder": "mobilenet_v3_small", "head": "torchvision", "output_stride": 16, "aux": True, "channels": 16},
        least_batch=2,
    ),
    "deeplab_v3_plus": Case("deeplab_v3_plus", {"encoder": "resnet18", "channels": 16}, least_batch=2),
    "deeplab_v3_plus/separable, timm": Case(
        "deeplab_v3_plus", {"encoder": "mobilenetv3_small_050", "channels": 16, "separable": True}, least_batch=2
    ),
    "deeplab_v3_plus/smp": Case(
        "deeplab_v3_plus",
        {"encoder": "resnet18", "channels": 16, "head": "smp", "separable": True},
        is_heavy=True,
        least_batch=2,
    ),
    "fpn": Case("fpn", {"encoder": "resnet18", "channels": 16, "head_channels": 64}),
    "fpn/cat, dropout, timm": Case(
        "fpn",
        {
            "encoder": "convnext_atto",
            "channels": 16,
            "head_channels": 64,
            "merge": "cat",
            "smooth": False,
            "dropout": 0.2,
        },
        is_heavy=True,
    ),
    "pspnet_shallow": Case("pspnet_shallow", {"encoder": "resnet18", "width": 16}),
    "fcn_resnet": Case("fcn_resnet", {"encoder": "resnet18"}),
    "fcn_resnet/auxiliary": Case("fcn_resnet", {"encoder": "resnet18", "aux": True}, is_heavy=True),
    "lraspp": Case("lraspp", {"encoder": "mobilenet_v3_small", "channels": 16}),
    "lraspp/timm": Case("lraspp", {"encoder": "resnet18", "channels": 16}, is_heavy=True),
    "refinenet": Case("refinenet", {"encoder": "resnet18", "width": 8}),
    "refinenet/improved, enlarged": Case(
        "refinenet",
        {"encoder": "convnext_atto", "width": 8, "poolings": 2, "improved_pooling": True, "enlarge": 1.2},
        is_heavy=True,
    ),
    "refinenet_lw": Case("refinenet_lw", {"encoder": "resnet18", "width": 8}),
    "refinenet_lw/mobilenetv2": Case("refinenet_lw", {"encoder": "mobilenetv2", "width": 8}),
    "pspnet": Case("pspnet", {"encoder": "resnet18", "width": 16}, least_batch=2),
    "pspnet/no aux, other encoder": Case(
        "pspnet",
        {"encoder": "mobilenetv3_small_050", "width": 16, "output_stride": 16, "bins": [2, 5], "aux_weight": 0.0},
    ),
    "gcn": Case("gcn", {"encoder": "resnet18"}),
    "gcn/other encoder": Case("gcn", {"encoder": "mobilenetv3_small_050", "kernel": 7}),
    "liteseg": Case("liteseg", {"encoder": "mobilenetv2", "width": 8}, least_batch=2),
    "liteseg/shufflenet": Case("liteseg", {"encoder": "shufflenet", "width": 8}, least_batch=2),
    "liteseg/darknet19": Case(
        "liteseg", {"encoder": "darknet19", "width": 8, "legacy_padding": True}, least_batch=2, is_heavy=True
    ),
    "vnet": Case("vnet", {"width": 4}, VOLUMES),
    "vnet/light": Case(
        "vnet",
        {
            "width": 4,
            "depth": 3,
            "kernel": 3,
            "norm": "instance",
            "activation": "leaky_relu",
            "dropout": 0.1,
            "deep_supervision": True,
        },
        VOLUMES,
    ),
    "vnet_release": Case("vnet_release", {"width": 4}, VOLUMES, is_heavy=True),
    "vnet_monai": Case("vnet_monai", {"width": 4}, VOLUMES),
    "unet3d": Case("unet3d", {"width": 2}, VOLUMES),
    "unet3d/anisotropic, residual": Case(
        "unet3d",
        ANISOTROPIC
        | {"width": 4, "norm": "instance", "activation": "leaky_relu", "residual": True, "deep_supervision": True},
        VOLUMES,
    ),
    "unet3d_valid": Case("unet3d_valid", {"width": 2, "depth": 3}, ((44, 44, 44), (44, 48, 44), (48, 44, 44))),
    "liteseg/other encoder": Case("liteseg", {"encoder": "mobilenetv3_small_050", "width": 8}, least_batch=2),
}
# Every promise is kept by every case; the heavy ones, alike but for a few layers, join in the slow tests.
PARAMETERS = [
    pytest.param(case, id=name, marks=[pytest.mark.slow] if case.is_heavy else []) for name, case in CASES.items()
]
every_case = pytest.mark.parametrize("case", PARAMETERS)


def image_of(size: tuple[int, ...], *, batch: int = 1, channels: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed))


def main_logits(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def wake(model: nn.Module) -> nn.Module:
    """Give values to layers that start at zero, behind which no gradient would pass."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
    return model


def test_every_model_has_a_case():
    assert {case.name for case in CASES.values()} == set(NETS)
    for case in CASES.values():
        assert case.is_volume == (spatial_dims(NETS[case.name]) == 3)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (3, 2), (7, 21)])
def test_shape_for_any_channels_and_classes(case: Case, channels: int, classes: int):
    """Shapes without values, so that all sizes of all models cost nothing; real values follow below."""
    with torch.device("cpu" if "encoder" in case.options else "meta"):
        model = case.build(channels, classes).eval()
    for size in case.sizes:
        described = describe(model, in_channels=channels, size=size)
        assert described.output == (classes, *(side - 2 * model.margin for side in size))


@every_case
def test_logits_have_exactly_the_images_size(case: Case):
    model = case.build(num_classes=3).eval()
    with torch.no_grad():
        for size in case.sizes:
            logits = model(image_of(size))
            assert isinstance(logits, Tensor)
            assert logits.shape == (1, 3, *(side - 2 * model.margin for side in size))
            assert logits.dtype == torch.float32
            assert logits.isfinite().all()


@every_case
def test_every_trainable_parameter_gets_a_gradient(case: Case):
    model = wake(case.build()).train()
    output = model(image_of(case.sizes[0], batch=2))
    outputs = (output,) if isinstance(output, Tensor) else output
    assert len(outputs) == 1 + len(model.aux_weights)
    sum((each * torch.randn_like(each)).sum() for each in outputs).backward()
    without = [name for name, each in model.named_parameters() if each.grad is None or not each.grad.isfinite().all()]
    assert without == []
    dead = [name for name, each in model.named_parameters() if not each.grad.any()]
    assert dead == []


@every_case
def test_batch_of_one_trains_and_batches_do_not_mix(case: Case):
    model = wake(case.build())
    size = (64, 64) if max(case.sizes[0]) < 64 and case.name == "unet" else case.sizes[0]
    if case.least_batch > 1:
        with pytest.raises(InputError, match="batch of 1"):
            model.train()(image_of(size))
    assert main_logits(model.train()(image_of(size, batch=case.least_batch))).requires_grad
    model.eval()
    both = image_of(size, batch=2)
    with torch.no_grad():
        assert torch.allclose(model(both)[1:], model(both[1:]), atol=1e-4, rtol=1e-3)


@every_case
def test_same_seed_same_model_same_answer(case: Case):
    first, second = wake(case.build(seed=5)).eval(), wake(case.build(seed=5)).eval()
    image = image_of(case.sizes[1])
    with torch.no_grad():
        assert torch.equal(first(image), second(image))


@every_case
def test_saved_and_loaded_is_the_same_model(case: Case, tmp_path: Path):
    first, second = wake(case.build(seed=1)).eval(), case.build(seed=2).eval()
    save_weights(first, tmp_path / "model.safetensors")
    load_weights(second, tmp_path / "model.safetensors")
    image = image_of(case.sizes[0])
    with torch.no_grad():
        assert torch.equal(first(image), second(image))


@every_case
def test_bf16_autocast_stays_near(case: Case):
    """channels_last as in training; the answers of eight-bit mantissas differ by some hundredths."""
    model = wake(case.build()).eval().to(memory_format=case.channels_last)
    image = image_of(case.sizes[0]).to(memory_format=case.channels_last)
    with torch.no_grad():
        expected = model(image)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(image)
    assert logits.shape == expected.shape
    assert (logits.float() - expected).abs().max() <= case.bf16_change * expected.abs().max() + 1e-3


def state_hash(name: str) -> str:
    with torch.device("meta"):
        state = create_model(name, in_channels=3, num_classes=2).state_dict()
    lines = [f"{key} {tuple(value.shape)}" for key, value in state.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", NETS)
def test_names_and_shapes_of_saved_tensors_are_stable(name: str):
    stored = json.loads(STATE_NAMES.read_text())
    assert name in stored, f"add to {STATE_NAMES.name}: {name!r}: {state_hash(name)!r}"
    assert stored[name] == state_hash(name), (
        f"tensors of '{name}' have other names or shapes, so saved bundles no longer load: undo it, or convert old "
        f"files on loading and put {state_hash(name)!r} into {STATE_NAMES.name}"
    )
