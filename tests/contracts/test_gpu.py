"""Every entry of NETS on a GPU: forward and backward under bf16 autocast, and the CPU's logits in fp32."""

from __future__ import annotations

import pytest
import torch
from test_models import CASES, Case, image_of, main_logits, wake

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def size_of(case: Case) -> tuple[int, ...]:
    return case.sizes[0] if "valid" in case.name or case.is_volume else (64, 96)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bf16_forward_and_backward(case: Case) -> None:
    model = wake(case.build()).cuda().train().to(memory_format=case.channels_last)
    with torch.autocast("cuda", torch.bfloat16):
        output = model(image_of(size_of(case), batch=2).cuda())
    outputs = output if isinstance(output, tuple) else (output,)
    sum((each.float() * torch.randn_like(each, dtype=torch.float32)).sum() for each in outputs).backward()
    assert main_logits(output).isfinite().all()
    broken = [name for name, each in model.named_parameters() if each.grad is None or not each.grad.isfinite().all()]
    assert broken == []


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@torch.no_grad()
def test_gpu_gives_the_cpus_logits(case: Case) -> None:
    model = wake(case.build()).eval()
    image = image_of(size_of(case))
    expected = model(image)
    logits = model.cuda()(image.cuda()).cpu()
    assert (logits - expected).abs().max() <= 2e-2 * max(1.0, expected.abs().max().item())  # TF32 convolutions
