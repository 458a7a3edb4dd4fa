"""Other libraries' networks as twins: with their weights ours give their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.models.foreign import Foreign, build_foreign, read_classifier, read_smp, read_torchvision

TOLERANCE = 1e-4  # of the largest logit
ODD = (75, 101)


def lively(model: nn.Module) -> nn.Module:
    """In eval mode with random batch statistics, as training leaves them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1, generator=generator)
                part.running_var.uniform_(0.5, 1.5, generator=generator)
                part.weight.uniform_(0.5, 1.5, generator=generator)
                part.bias.normal_(0, 0.1, generator=generator)
    return model.eval()


def assert_near(answer: Tensor, expected: Tensor) -> None:
    assert answer.shape == expected.shape
    assert (answer - expected).abs().max() <= TOLERANCE * expected.abs().max()


# ---- torchvision


def torchvision_model(name: str, *, num_classes: int = 5, aux: bool = False) -> nn.Module:
    from torchvision.models import get_model

    torch.manual_seed(0)
    options: dict[str, Any] = {} if name.startswith("lraspp") else {"aux_loss": aux}
    return lively(get_model(name, weights=None, weights_backbone=None, num_classes=num_classes, **options))


@pytest.mark.parametrize(
    ("name", "aux"),
    [
        ("lraspp_mobilenet_v3_large", False),
        ("deeplabv3_mobilenet_v3_large", True),
        pytest.param("deeplabv3_mobilenet_v3_large", False, marks=pytest.mark.slow),
        pytest.param("fcn_resnet50", True, marks=pytest.mark.slow),
        pytest.param("fcn_resnet50", False, marks=pytest.mark.slow),
        pytest.param("fcn_resnet101", True, marks=pytest.mark.slow),
        pytest.param("deeplabv3_resnet50", True, marks=pytest.mark.slow),
        pytest.param("deeplabv3_resnet101", True, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_torchvision_s_numbers(name: str, aux: bool, tmp_path: Path) -> None:
    reference = torchvision_model(name, aux=aux)
    torch.save(reference.state_dict(), tmp_path / "m.pth")
    foreign = read_torchvision(tmp_path / "m.pth")
    assert foreign.what == f"torchvision {name}" + " with its auxiliary head" * aux
    assert (foreign.num_classes, foreign.in_channels, foreign.mean) == (5, 3, (0.485, 0.456, 0.406))
    model = build_foreign(foreign)
    image = torch.randn(1, 3, *ODD)
    assert_near(model(image), reference(image)["out"])
    if aux:
        features = model.encoder(image)
        mine = model.aux_head(features[model.aux_index])
        theirs = reference.aux_classifier(reference.backbone(image)["aux"])
        assert_near(mine, theirs)


def test_safetensors_and_files_without_counters_are_read(tmp_path: Path) -> None:
    state = torchvision_model("lraspp_mobilenet_v3_large").state_dict()
    kept = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert len(kept) < len(state)
    save_file(kept, tmp_path / "m.safetensors")
    model = build_foreign(read_torchvision(tmp_path / "m.safetensors"))
    assert torch.equal(model.classifier.bias, state["classifier.high_classifier.bias"])


def test_the_callers_random_numbers_are_left_alone(tmp_path: Path) -> None:
    save_file(torchvision_model("lraspp_mobilenet_v3_large").state_dict(), tmp_path / "m.safetensors")
    before = torch.get_rng_state()
    build_foreign(read_torchvision(tmp_path / "m.safetensors"))
    assert torch.equal(torch.get_rng_state(), before)


BACKBONE = {"backbone.0.0.weight": torch.zeros(16, 3, 3, 3)}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "no tensor, none of torchvision's segmentation models fcn_resnet50"),
        ({"fc.weight": torch.zeros(2, 3)}, "looks like an ImageNet classifier: use the source 'classifier'"),
        ({"segmentation_head.0.weight": torch.zeros(1)}, "looks like segmentation-models-pytorch: use the source"),
        (BACKBONE, "has a backbone, but no classifier of torchvision's"),
        (BACKBONE | {"classifier.cbr.0.weight": torch.zeros(1)}, "its 'classifier.low_classifier.weight' is missing"),
        (
            {"backbone.0.0.weight": torch.zeros(3), "classifier.cbr.0.weight": torch.zeros(1)},
            r"its 'backbone.0.0.weight' is \(3,\): the file is damaged",
        ),
        (
            BACKBONE | {"classifier.cbr.0.weight": torch.zeros(1), "head.weight": torch.zeros(1),
                        "classifier.low_classifier.weight": torch.zeros(2, 40, 1, 1)},
            "tensor 'head.weight' has no place in it",
        ),
    ],
)  # fmt: skip
def test_other_files_are_refused(state: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(InputError, match=message):
        read_torchvision(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("encoder.net.4.block.1.0.weight"), "lacks what is .encoder.net.4.block.1.0.weight'"),
        (lambda state: state.update(more=torch.zeros(1)), "holds 'more' besides"),
        (
            lambda state: state.update({"classifier.bias": torch.zeros(9)}),
            r"'classifier.bias' is \(9,\) and not \(2,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: Any, message: str) -> None:
    from perpixel.models import create_model

    state = dict(create_model("lraspp", num_classes=2).state_dict())
    change(state)
    foreign = Foreign("a test's", "m.pth", "lraspp", {}, 3, 2, state, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(InputError, match=message):
        build_foreign(foreign)


# ---- segmentation-models-pytorch


def smp_folder(name: str, folder: Path, **options: Any) -> nn.Module:
    import segmentation_models_pytorch

    torch.manual_seed(0)
    options = {"encoder_name": "resnet18", "encoder_weights": None, "classes": 3} | options
    model = lively(getattr(segmentation_models_pytorch, name)(**options))
    model.save_pretrained(folder)
    return model


SMP_CASES: list[tuple[str, dict[str, Any], tuple[int, int]]] = [
    ("Unet", {}, (64, 96)),
    ("Unet", {}, (33, 71)),
    ("Unet", {"encoder_depth": 3, "decoder_channels": (32, 16, 8), "in_channels": 2}, (1, 1)),
    ("Unet", {"encoder_name": "tu-convnext_atto", "decoder_use_norm": False, "decoder_interpolation": "bilinear"},
     (64, 32)),
    ("UnetPlusPlus", {}, (32, 64)),
    ("UnetPlusPlus", {"encoder_name": "tu-convnext_atto", "decoder_channels": (64, 48, 32, 20, 8)}, (32, 64)),
    ("FPN", {}, (64, 96)),
    ("FPN", {"encoder_name": "tu-convnext_atto", "decoder_merge_policy": "cat"}, (32, 64)),
    ("DeepLabV3", {}, (64, 96)),
    ("DeepLabV3", {"encoder_output_stride": 16, "decoder_aspp_separable": True}, (64, 96)),
    ("DeepLabV3Plus", {}, (64, 96)),
    ("DeepLabV3Plus", {"encoder_name": "tu-resnet18", "encoder_output_stride": 8, "decoder_aspp_separable": False},
     (64, 96)),
    ("PSPNet", {}, (64, 96)),
    ("PSPNet", {"encoder_depth": 4, "upsampling": 16, "decoder_use_norm": False, "in_channels": 1}, (64, 32)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "size"), SMP_CASES)
@torch.no_grad()
def test_smp_s_numbers(name: str, options: dict[str, Any], size: tuple[int, int], tmp_path: Path) -> None:
    reference = smp_folder(name, tmp_path, **options)
    foreign = read_smp(tmp_path)
    assert foreign.what == f"smp {name} over {options.get('encoder_name', 'resnet18')}"
    model = build_foreign(foreign)
    image = torch.randn(1, options.get("in_channels", 3), *size)
    assert_near(model(image), reference(image))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Unet", "UnetPlusPlus", "FPN", "DeepLabV3", "DeepLabV3Plus", "PSPNet"])
@pytest.mark.parametrize("encoder", ["resnet50", "resnext50_32x4d", "tu-mobilenetv3_large_100", "tu-regnety_002"])
@torch.no_grad()
def test_smp_s_numbers_over_more_encoders(name: str, encoder: str, tmp_path: Path) -> None:
    reference = smp_folder(name, tmp_path, encoder_name=encoder)
    if name.startswith("DeepLab") and encoder.startswith("resnext"):
        with pytest.raises(InputError, match="encoder_name is 'resnext50_32x4d': smp dilates the first block"):
            read_smp(tmp_path)
        return
    image = torch.randn(1, 3, 64, 96)
    assert_near(build_foreign(read_smp(tmp_path))(image), reference(image))


@torch.no_grad()
def test_one_class_becomes_background_and_foreground(tmp_path: Path) -> None:
    reference = smp_folder("Unet", tmp_path, classes=1, activation="sigmoid", aux_params={"classes": 4})
    foreign = read_smp(tmp_path)
    assert foreign.num_classes == 2
    assert len(foreign.notes) == 3
    image = torch.randn(1, 3, 32, 32)
    logits = build_foreign(foreign)(image)
    assert not logits[:, 0].any()
    assert torch.allclose(logits[:, 1:].sigmoid(), reference(image)[0], atol=1e-5)


def test_smp_statistics_are_those_of_its_preprocessing(tmp_path: Path) -> None:
    smp_folder("Unet", tmp_path, encoder_name="tu-mobilenetv3_small_050")
    assert read_smp(tmp_path).mean == (0.485, 0.456, 0.406)
    smp_folder("Unet", tmp_path, encoder_name="tu-tf_efficientnet_lite0")
    assert read_smp(tmp_path).mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "Linknet",
            {},
            "smp class 'Linknet' cannot be converted; .*known: DeepLabV3, DeepLabV3Plus, FPN, PSPNet",
        ),
        ("Unet", {"encoder_name": "efficientnet-b0"}, "encoder_name is 'efficientnet-b0': only resnet18, .*timm's"),
        ("Unet", {"decoder_attention_type": "scse"}, "decoder_attention_type is 'scse': only None can be converted"),
        ("Unet", {"decoder_use_norm": "layernorm"}, "decoder_use_norm is 'layernorm'"),
        ("Unet", {"decoder_interpolation": "bicubic"}, "decoder_interpolation is 'bicubic'"),
        ("Unet", {"encoder_name": "tu-vgg11"}, "smp leaves out the features of encoder 'vgg11' at stride 1"),
        ("FPN", {"encoder_depth": 4}, "encoder_depth is 4: only 5 can be converted for this class"),
        ("FPN", {"upsampling": 2}, "upsampling is 2: only 4 can be converted"),
        ("DeepLabV3", {"upsampling": 4}, "upsampling is 4: only None or 8 can be converted"),
    ],
)
def test_what_cannot_be_converted_is_named(name: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    smp_folder(name, tmp_path, **options)
    with pytest.raises(InputError, match=message):
        read_smp(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "names no '_model_class'"),
        ('{"classes": 3}', "names no '_model_class': save the model again"),
        ('{"_model_class": "Unet", "classes": "x"}', "classes is 'x': it must be a whole number"),
        ('{"_model_class": "Unet", "decoder_channels": [1, 2]}', r"decoder_channels is \[1, 2\]: .*list of 5 whole"),
        ('{"_model_class": "Unet", "drop_path": 0.1}', "drop_path is 0.1: this setting is not known here"),
        ('{"_model_class": "FPN", "decoder_dropout": 2}', "decoder_dropout is 2: it must be a probability"),
        ('{"_model_class": "Unet"}', "holds no model.safetensors"),
    ],
)
def test_damaged_folders_are_named(config: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=message):
        read_smp(tmp_path)


def test_folders_with_other_tensors_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder: give the folder that smp's model.save_pretrained"):
        read_smp(tmp_path / "none")
    (tmp_path / "config.json").write_text('{"_model_class": "Unet", "encoder_name": "resnet18"}')
    save_file({"encoder.conv1.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"its 'decoder.0.convs.0.conv.weight' is missing: the file is damaged"):
        read_smp(tmp_path)


# ---- classifiers


def vgg_state(width: int) -> dict[str, Tensor]:
    """torchvision's vgg16 with a narrow classifier."""
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    features = {f"features.{name}": value for name, value in make_layers(cfgs["D"]).state_dict().items()}
    return features | {
        "classifier.0.weight": torch.randn(width, 512 * 49), "classifier.0.bias": torch.zeros(width),
        "classifier.3.weight": torch.randn(width, width), "classifier.3.bias": torch.zeros(width),
        "classifier.6.weight": torch.randn(9, width), "classifier.6.bias": torch.zeros(9),
    }  # fmt: skip


def test_vgg16_becomes_an_fcn_whose_scores_are_zero(tmp_path: Path) -> None:
    state = vgg_state(4)
    save_file(state, tmp_path / "vgg.safetensors")
    foreign = read_classifier(tmp_path / "vgg.safetensors", model="fcn8s", num_classes=6)
    assert (foreign.what, foreign.options) == ("torchvision vgg16", {"backbone": "vgg16", "fc_channels": 4})
    model = build_foreign(foreign)
    assert torch.equal(model.trunk.block5.conv5_3.weight, state["features.28.weight"])
    assert torch.equal(model.head.fc6.weight.flatten(1), state["classifier.0.weight"])
    assert not model.score.weight.any()
    assert model.score.out_channels == 6


def test_caffenet_takes_rgb_and_caffe_s_mean(tmp_path: Path) -> None:
    from perpixel.models import create_model

    own = create_model("fcn32s", backbone="alexnet", fc_channels=2)
    convs = [part for part in own.trunk.modules() if isinstance(part, nn.Conv2d)]
    state = {f"conv{number}.{name}": value for number, conv in enumerate(convs, 1)
             for name, value in conv.state_dict().items()}  # fmt: skip
    state |= {f"{fc}.{name}": value for fc in ("fc6", "fc7")
              for name, value in own.head.get_submodule(fc).state_dict().items()}  # fmt: skip
    save_file(state, tmp_path / "caffe.safetensors")
    foreign = read_classifier(tmp_path / "caffe.safetensors", model="fcn32s", num_classes=3)
    assert (foreign.what, foreign.options["backbone"]) == ("CaffeNet", "alexnet")
    blue_first = torch.rand(1, 3, 8, 8) * 255 - torch.tensor([104.007, 116.669, 122.679]).reshape(1, 3, 1, 1)
    mean, std = (torch.tensor(each).reshape(1, 3, 1, 1) for each in (foreign.mean, foreign.std))
    raw = blue_first.flip(1) + torch.tensor([122.679, 116.669, 104.007]).reshape(1, 3, 1, 1)
    mine, theirs = build_foreign(foreign).trunk.block1[0]((raw / 255 - mean) / std), convs[0](blue_first)
    assert torch.allclose(mine, theirs, atol=1e-3)


@pytest.mark.slow
def test_googlenet_becomes_an_fcn(tmp_path: Path) -> None:
    from torchvision.models import googlenet

    state = googlenet(weights=None, init_weights=False, aux_logits=False).state_dict()
    torch.save(state, tmp_path / "g.pth")
    foreign = read_classifier(tmp_path / "g.pth", model="fcn32s", num_classes=3)
    model = build_foreign(foreign)
    assert foreign.options == {"backbone": "googlenet"}
    # Behind this normalisation colours 0..1 are what torchvision's `transform_input` makes of ImageNet's.
    assert foreign.mean == foreign.std == (0.5, 0.5, 0.5)
    assert torch.equal(model.trunk.net.inception5b.branch1.conv.weight, state["inception5b.branch1.conv.weight"])


def test_other_classifiers_and_models_are_refused(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"1 tensors, the first called 'conv1\.weight': no classifier"):
        read_classifier(tmp_path / "m.safetensors", model="fcn32s", num_classes=3)
    with pytest.raises(InputError, match=r"model 'unet': a classifier becomes one of the FCNs; .*known: fcn16s"):
        read_classifier(tmp_path / "m.safetensors", model="unet", num_classes=3)
