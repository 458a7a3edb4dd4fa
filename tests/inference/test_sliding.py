from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.inference import sliding
from perpixel.inference.sliding import sliding_window, window_starts


def pointwise(num_classes: int = 5, channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(channels, num_classes, 1).requires_grad_(False)


def picture(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(1))


def whole(net: nn.Module, image: Tensor) -> np.ndarray:
    return net(image)[0].softmax(0).numpy()


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (33, 47), (16, 20), (100, 17), (65, 131)])
def test_tiles_give_what_the_whole_gives(size: tuple[int, int], overlap: float) -> None:
    net, image = pointwise(), picture(*size)
    result = sliding_window(
        net, image, num_classes=5, tile=(16, 20), overlap=overlap, probs=True, uncertainty=True, batch=3
    )
    expected = whole(net, image)
    assert result.probs is not None and result.uncertainty is not None
    np.testing.assert_allclose(result.probs, expected, atol=1e-5)
    np.testing.assert_array_equal(result.label_map, expected.argmax(0))
    entropy = -(expected * np.log(expected)).sum(0) / np.log(5)
    np.testing.assert_allclose(result.uncertainty, entropy, atol=1e-5)
    assert result.label_map.dtype == np.uint8
    assert result.uncertainty.dtype == np.float32


def test_one_row_of_five_thousand_pixels() -> None:
    net, image = pointwise(), picture(1, 5000)
    result = sliding_window(net, image, num_classes=5, tile=(64, 64))
    np.testing.assert_array_equal(result.label_map, whole(net, image).argmax(0))
    assert result.probs is None and result.uncertainty is None


def test_a_net_with_a_small_field_agrees_away_from_its_edges() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)).requires_grad_(False)
    image = picture(70, 90)
    result = sliding_window(net, image, num_classes=4, tile=(32, 32), overlap=0.5, probs=True)
    assert result.probs is not None
    # A window's outermost 2 pixels lack context; their Gaussian weight is about a thousandth of the middle's.
    np.testing.assert_allclose(result.probs, whole(net, image), atol=5e-3)
    assert (result.label_map == whole(net, image).argmax(0)).mean() > 0.995


def test_an_image_of_a_tile_or_less_is_one_call_of_its_own_size() -> None:
    sizes = []

    def run(window: Tensor) -> Tensor:
        sizes.append(tuple(window.shape))
        return torch.zeros(1, 2, *window.shape[2:])

    sliding_window(run, picture(30, 41), num_classes=2, tile=(30, 64))
    assert sizes == [(1, 3, 30, 41)]


def test_windows_are_grouped_and_all_of_one_size() -> None:
    sizes, seen = [], []

    def run(windows: Tensor) -> Tensor:
        sizes.append(tuple(windows.shape))
        return torch.zeros(len(windows), 2, *windows.shape[2:])

    image = picture(50, 100)
    sliding_window(run, image, num_classes=2, tile=(32, 32), overlap=0, batch=3, on_tile=lambda *at: seen.append(at))
    assert sizes == [(3, 3, 32, 32), (1, 3, 32, 32)] * 2
    assert seen == [(3, 8), (4, 8), (7, 8), (8, 8)]
    sizes.clear()
    sliding_window(run, image, num_classes=2, tile=(32, 32), overlap=0)
    assert sizes == [(4, 3, 32, 32)] * 2


def test_the_middle_of_a_window_counts_more_than_its_border() -> None:
    calls = iter([0.0, 4.0])  # the left window is undecided, the right one sure of class 1

    def run(window: Tensor) -> Tensor:
        logits = torch.zeros(1, 2, *window.shape[2:])
        logits[:, 1] = next(calls)
        return logits

    result = sliding_window(run, picture(8, 12), num_classes=2, tile=(8, 8), overlap=0.5, batch=1, probs=True)
    assert result.probs is not None
    along = result.probs[1, 4]
    assert (np.diff(along) > -1e-6).all()
    assert along[:4] == pytest.approx(0.5) and along[8:] == pytest.approx(torch.tensor(4.0).sigmoid().item())


@pytest.mark.parametrize("size", [(8, 8), (20, 23)])
def test_one_channel_is_a_sigmoid(size: tuple[int, int]) -> None:
    net, image = pointwise(1), picture(*size)
    result = sliding_window(net, image, num_classes=1, tile=(8, 8), probs=True, uncertainty=True)
    chance = net(image)[0].sigmoid().numpy()
    assert result.probs is not None and result.uncertainty is not None
    np.testing.assert_allclose(result.probs, chance, atol=1e-6)
    np.testing.assert_array_equal(result.label_map, chance[0] > 0.5)
    entropy = -(chance * np.log2(chance) + (1 - chance) * np.log2(1 - chance))[0]
    np.testing.assert_allclose(result.uncertainty, entropy, atol=1e-5)


def test_more_classes_than_a_byte_holds() -> None:
    net, image = pointwise(300), picture(20, 20)
    result = sliding_window(net, image, num_classes=300, tile=(8, 8))
    assert result.label_map.dtype == np.int32
    np.testing.assert_array_equal(result.label_map, whole(net, image).argmax(0))


def test_equal_chances_give_the_lowest_class_and_full_uncertainty() -> None:
    result = sliding_window(
        lambda window: torch.zeros(len(window), 3, *window.shape[2:]),
        picture(20, 20),
        num_classes=3,
        tile=(8, 8),
        uncertainty=True,
    )
    assert (result.label_map == 0).all()
    assert result.uncertainty == pytest.approx(1, abs=1e-6)


def test_same_input_same_bytes() -> None:
    net, image = pointwise(), picture(50, 60)
    first, second = (sliding_window(net, image, num_classes=5, tile=(16, 16), probs=True) for _ in range(2))
    assert first.probs is not None and second.probs is not None
    assert first.probs.tobytes() == second.probs.tobytes()


def test_memory_holds_a_strip_not_the_image() -> None:
    net, held = pointwise(6, 1), {}
    strip = 6 * 32 * 40 * 4
    for height in (64, 640):
        image = torch.zeros(1, 1, height, 40)
        own = image.untyped_storage().data_ptr()
        sizes: list[int] = []

        def run(windows: Tensor) -> Tensor:
            alive = {
                item.untyped_storage().data_ptr(): item.untyped_storage().nbytes()
                for item in gc.get_objects()
                if type(item) is Tensor
            }
            sizes.append(sum(size for place, size in alive.items() if place != own))  # noqa: B023
            return net(windows)

        sliding_window(run, image, num_classes=6, tile=(32, 32), uncertainty=True, batch=2)
        held[height] = max(sizes)
    assert held[640] < held[64] + strip / 2
    assert held[640] > strip


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 600), st.floats(0, 0.95))
def test_starts_cover_the_axis_and_overlap_enough(length: int, window: int, overlap: float) -> None:
    window = min(window, length)
    starts = window_starts(length, window, overlap)
    assert starts[0] == 0
    assert starts[-1] == length - window
    steps = np.diff(starts)
    assert ((steps > 0) & (steps <= max(1, window * (1 - overlap)))).all()


def test_errors() -> None:
    net = pointwise()
    for image in (picture(4, 4)[0], picture(4, 4).repeat(2, 1, 1, 1), picture(4, 4)[:, :, :0]):
        with pytest.raises(InputError, match=r"give one image with pixels, \(1, C, H, W\)"):
            sliding_window(net, image, num_classes=5, tile=(8, 8))
    with pytest.raises(InputError, match=r"tile is \(0, 8\): give \(height, width\)"):
        sliding_window(net, picture(4, 4), num_classes=5, tile=(0, 8))
    with pytest.raises(InputError, match="overlap is 1: give a share"):
        sliding_window(net, picture(4, 4), num_classes=5, tile=(8, 8), overlap=1)
    with pytest.raises(InputError, match="batch is 0"):
        sliding_window(net, picture(4, 4), num_classes=5, tile=(8, 8), batch=0)
    with pytest.raises(InputError, match="num_classes is 0"):
        sliding_window(net, picture(4, 4), num_classes=0, tile=(8, 8))
    with pytest.raises(InputError, match=r"logits \(1, 5, 4, 4\) for windows that need \(1, 7, 4, 4\)"):
        sliding_window(net, picture(4, 4), num_classes=7, tile=(8, 8))


def test_rows_are_read_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    net, image = pointwise(), picture(45, 30)
    monkeypatch.setattr(sliding, "_ROWS", 7)
    result = sliding_window(net, image, num_classes=5, tile=(16, 16), probs=True)
    np.testing.assert_array_equal(result.label_map, whole(net, image).argmax(0))


def test_confidence_is_the_probability_of_the_class_chosen() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 3, 50, 70)
    for classes in (1, 4):
        net = torch.nn.Conv2d(3, classes, 3, padding=1)
        for tile in ((64, 80), (24, 32)):
            found = sliding_window(net, image, num_classes=classes, tile=tile, probs=True, confidence=True)
            assert found.probs is not None and found.confidence is not None
            both = found.probs if classes > 1 else np.concatenate([1 - found.probs, found.probs])
            np.testing.assert_allclose(found.confidence, both.max(0), atol=1e-6)
            assert sliding_window(net, image, num_classes=classes, tile=tile).confidence is None
