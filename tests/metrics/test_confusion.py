from __future__ import annotations

import multiprocessing
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from perpixel.errors import InputError
from perpixel.metrics import confusion, confusion_matrix


@pytest.fixture(params=["numba", "numpy"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(confusion, "_compiled", lambda: None)
    return request.param


def test_by_hand(backend: str) -> None:
    target = np.array([[0, 0, 1], [1, 2, 255]])
    pred = np.array([[0, 1, 1], [1, 0, 7]])
    counts = confusion_matrix(pred, target, num_classes=3, ignore_index=255)
    assert counts.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert counts.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.int16, np.int32, np.int64, np.uint64])
def test_it_agrees_with_sklearn(backend: str, dtype: type) -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 7, (3, 37, 41)).astype(dtype)
    pred = rng.integers(0, 7, (3, 37, 41)).astype(dtype)
    expected = sklearn_confusion_matrix(target.ravel(), pred.ravel(), labels=range(7))
    assert (confusion_matrix(pred, target, num_classes=7) == expected).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 30), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_both_backends_agree(pixels: int, num_classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    target, pred = rng.integers(0, num_classes, (2, pixels)).astype(np.uint8)
    target[rng.random(pixels) < 0.2] = 255
    counts = confusion_matrix(pred, target, num_classes=num_classes, ignore_index=255)
    flat, bad = confusion._count_numpy(pred, target, num_classes, 255)
    assert bad == -1
    assert (counts.ravel() == flat).all()
    assert counts.sum() == (target != 255).sum()


def test_many_threads_count_every_pixel_once(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confusion, "_PIXELS_PER_THREAD", 1000)
    monkeypatch.setattr(confusion, "_NUMPY_CHUNK", 999)
    monkeypatch.setattr(confusion, "usable_cores", lambda: 4)
    rng = np.random.default_rng(0)
    target, pred = rng.integers(0, 5, (2, 4003)).astype(np.uint8)
    expected = sklearn_confusion_matrix(target, pred, labels=range(5))
    assert (confusion_matrix(pred, target, num_classes=5) == expected).all()
    pred[[1200, 3999]] = 66, 77
    with pytest.raises(InputError, match="pred holds 66"):
        confusion_matrix(pred, target, num_classes=5)


def test_torch_and_numpy_and_views_mix(backend: str) -> None:
    target = torch.tensor([[[0, 1], [1, 1]]])
    pred = np.array([[[0, 1], [0, 1]]], np.uint8)
    expected = [[1, 0], [1, 2]]
    assert confusion_matrix(pred, target, num_classes=2).tolist() == expected
    assert confusion_matrix(torch.from_numpy(pred), target.numpy(), num_classes=2).tolist() == expected
    wide = np.repeat(pred, 2, axis=-1)[..., ::2]
    assert confusion_matrix(wide, target, num_classes=2).tolist() == expected
    frozen = pred.copy()
    frozen.flags.writeable = False
    assert confusion_matrix(frozen, target, num_classes=2).tolist() == expected


def test_bool_maps_and_empty_ones(backend: str) -> None:
    mask = np.array([True, False, True])
    assert confusion_matrix(mask, np.array([1, 1, 0]), num_classes=2).tolist() == [[0, 1], [1, 1]]
    assert confusion_matrix(np.zeros((0, 4), int), np.zeros((0, 4), int), num_classes=2).sum() == 0


def test_an_ignore_index_that_is_a_class_is_still_ignored(backend: str) -> None:
    assert confusion_matrix([0, 1, 2], [0, 1, 2], num_classes=3, ignore_index=1).tolist() == [
        [1, 0, 0],
        [0, 0, 0],
        [0, 0, 1],
    ]


@pytest.mark.parametrize("place", [0, 5])  # within a block of the loop, and in the rest after it
def test_values_out_of_range_are_named(backend: str, place: int) -> None:
    good, bad = np.zeros(6, int), np.zeros(6, int)
    bad[place] = 12
    with pytest.raises(InputError, match=r"target holds 12, outside 0\.\.10 \(11 classes\): fix the label map"):
        confusion_matrix(good, bad, num_classes=11)
    with pytest.raises(InputError, match=r"pred holds 12, outside 0\.\.10 \(11 classes\): check the model"):
        confusion_matrix(bad, good, num_classes=11)
    bad[place] = -1
    with pytest.raises(InputError, match="target holds -1"):
        confusion_matrix(good, bad, num_classes=11, ignore_index=255)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(InputError, match=r"pred \(2, 2\) and target \(2, 3\) differ in shape"):
        confusion_matrix(np.zeros((2, 2), int), np.zeros((2, 3), int), num_classes=2)
    with pytest.raises(InputError, match="pred is float64: give class ids as whole numbers"):
        confusion_matrix(np.zeros(2), np.zeros(2, int), num_classes=2)
    with pytest.raises(InputError, match="num_classes is 0"):
        confusion_matrix(np.zeros(2, int), np.zeros(2, int), num_classes=0)


@pytest.fixture
def fresh() -> None:
    confusion._compiled.cache_clear()
    yield
    confusion._compiled.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_without_numba_numpy_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    assert confusion._compiled() is None
    assert confusion_matrix([0, 1], [1, 1], num_classes=2).tolist() == [[0, 0], [1, 1]]


@pytest.mark.usefixtures("fresh")
def test_with_the_compiler_switched_off_numpy_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert confusion._compiled() is None


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("failure", ["no folder to cache in", "the cache cannot be written"])
def test_it_compiles_where_nothing_can_be_cached(failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    numba = pytest.importorskip("numba")
    compile_it = numba.njit

    def njit(*args: object, **options: object) -> object:
        if not options.pop("cache", False):
            return compile_it(*args, **options)
        if failure.startswith("no folder"):
            raise RuntimeError("cannot cache function: no locator available")

        def broken(*arguments: object) -> int:
            arguments[-1][:] = 99  # type: ignore[index]
            raise PermissionError("read-only")

        return lambda function: broken

    monkeypatch.setattr(numba, "njit", njit)
    counts = confusion_matrix([0, 1, 1, 1, 0], [1, 1, 1, 1, 0], num_classes=2)
    assert counts.tolist() == [[1, 0], [1, 3]]


def test_any_division_adds_up_to_the_same_table() -> None:
    rng = np.random.default_rng(0)
    target, pred = rng.integers(0, 6, (2, 5003)).astype(np.uint8)
    target[rng.random(5003) < 0.1] = 255
    whole = confusion_matrix(pred, target, num_classes=6, ignore_index=255)
    for seed in range(8):
        order = np.random.default_rng(seed).permutation(5003)
        parts = np.array_split(order, np.sort(rng.integers(0, 5003, seed)))
        tables = [confusion_matrix(pred[p], target[p], num_classes=6, ignore_index=255) for p in parts]
        assert (np.sum(tables, axis=0) == whole).all()


def count_part(part: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return confusion_matrix(*part, num_classes=6, ignore_index=255)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("way", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_several_processes_count_the_same(way: str) -> None:
    """Also after the parent has used its own threads: the compiled loop keeps none that a fork would lose."""
    if way not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {way} on this system")
    rng = np.random.default_rng(0)
    target, pred = rng.integers(0, 6, (2, 8, 300_000)).astype(np.uint8)
    whole = confusion_matrix(pred, target, num_classes=6, ignore_index=255)
    with multiprocessing.get_context(way).Pool(2) as pool:
        tables = pool.map(count_part, list(zip(pred, target)))
    assert (np.sum(tables, axis=0) == whole).all()


@pytest.mark.parametrize("num_classes", [1, 2, 255, 256, 300])
@pytest.mark.parametrize("ignore_index", [None, 0, 254, 255, -1, -(2**40)])
def test_every_value_of_a_byte(backend: str, num_classes: int, ignore_index: int | None) -> None:
    values = np.arange(256, dtype=np.uint8)
    inside = (values < num_classes) | (values == ignore_index)
    counts = confusion_matrix(
        np.zeros_like(values[inside]), values[inside], num_classes=num_classes, ignore_index=ignore_index
    )
    expected = np.zeros((num_classes, num_classes), int)
    expected[: min(num_classes, 256), 0] = 1
    if ignore_index is not None and 0 <= ignore_index < num_classes:
        expected[ignore_index] = 0
    assert (counts == expected).all()
    if not inside.all():
        first = values[~inside][0]
        with pytest.raises(InputError, match=f"target holds {first},"):
            confusion_matrix(np.zeros_like(values), values, num_classes=num_classes, ignore_index=ignore_index)


def test_the_compiled_loop_needs_no_second_look_where_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(confusion, "_count_numpy", lambda *arguments: pytest.fail("counted twice"))
    for num_classes in (2, 255, 256):
        values = np.array([0, 1, 1, 7], np.uint8)
        assert confusion_matrix([0, 1, 1, 0], values, num_classes=num_classes, ignore_index=7).sum() == 3
        assert confusion_matrix(values[:3], values[:3], num_classes=num_classes).sum() == 3


@pytest.mark.parametrize("value", [-1, -(2**63), 2**32, 2**32 + 1, 2**63 - 1])
def test_numbers_that_a_narrow_type_would_take_for_a_class(backend: str, value: int) -> None:
    target = np.array([0, 1, value, 1])
    with pytest.raises(InputError, match=f"target holds {value},"):
        confusion_matrix([0, 1, 1, 0], target, num_classes=2)
    assert confusion_matrix([0, 1, 1, 0], target, num_classes=2, ignore_index=value).tolist() == [[1, 0], [1, 1]]
    with pytest.raises(InputError, match=f"pred holds {value},"):
        confusion_matrix(target, [0, 1, 1, 0], num_classes=2)
    assert confusion_matrix(target, [0, 1, 255, 0], num_classes=2, ignore_index=255).tolist() == [[1, 1], [0, 1]]
