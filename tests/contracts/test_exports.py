"""Every entry of NETS leaves torch: ONNX Runtime gives its numbers at two odd sizes; some are compiled as well."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from test_models import CASES, Case, image_of, wake
from torch import Tensor, nn

ODD_SIZES = ((65, 97), (83, 71))
ODD_VOLUMES = ((17, 33, 21), (31, 19, 35))
TOLERANCE = 1e-4  # of the largest logit, or absolute where that is below one
# An export takes 5 to 60 s, so one small model of each way up stands for all in the quick tests.
QUICK = ("unet",)
COMPILED = ("unet", "fc_densenet56", "deeplab_v3_plus", "segnet")


def entries(names: tuple[str, ...]) -> list[object]:
    return [pytest.param(case, id=key, marks=[] if key in names else [pytest.mark.slow]) for key, case in CASES.items()]


def sizes_of(case: Case) -> tuple[tuple[int, ...], ...]:
    """Two odd sizes; nets of unpadded convolutions take even ones only, and say which."""
    if "valid" in case.name:
        return case.sizes[:2]
    return ODD_VOLUMES if case.is_volume else ODD_SIZES


def lively(case: Case) -> nn.Module:
    """In eval mode, with batch statistics as training leaves them, so that no branch is silent."""
    model = wake(case.build(num_classes=3))
    generator = torch.Generator().manual_seed(3)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d) and part.running_mean is not None:
            part.running_mean.normal_(std=0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def assert_near(answer: Tensor, expected: Tensor) -> None:
    assert answer.shape == expected.shape
    largest = max(1.0, expected.abs().max().item())
    assert (answer - expected).abs().max().item() <= TOLERANCE * largest


def onnx_answer(model: nn.Module, image: Tensor, path: Path) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own use of torch
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(model, (image,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    return torch.from_numpy(np.asarray(logits))


@pytest.mark.parametrize("case", entries(QUICK))
def test_onnx_gives_the_same_logits(case: Case, tmp_path: Path) -> None:
    model = lively(case)
    for number, size in enumerate(sizes_of(case)):
        image = image_of(size)
        with torch.no_grad():
            expected = model(image)
        assert_near(onnx_answer(model, image, tmp_path / f"{number}.onnx"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_gives_the_same_logits(name: str) -> None:
    model = lively(CASES[name])
    image = image_of(ODD_SIZES[0])
    with torch.no_grad():
        assert_near(torch.compile(model)(image), model(image))
