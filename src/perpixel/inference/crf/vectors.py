"""Eight labels at a time: the few row operations that the CRF's loops are made of, as explicit vector instructions.

A row is the `width` numbers of one pixel or one lattice point, one for each label, padded to a multiple of LANES. What
a compiler's vectoriser makes of a short inner loop over 24 numbers is slower than the work itself (measured: the splat
of a 500x375 image with 21 labels takes 8.4 ms as unrolled scalars, 4.8 ms so), hence these intrinsics in LLVM's vector
types: the compiler splits them into what the machine has. Rows are taken by eight numbers, and by four where four are
left.

All arrays are one-dimensional, contiguous float32, all positions int64, none is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

# Rows are as long as a multiple of this.
LANES = 4
# Logits further than this below the largest count as no probability at all, so that no denormal numbers arise.
LOWEST = -60.0

_BLOCK = 2 * LANES
_FLOAT, _INT, _WIDE = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_ANY = ("contract", "reassoc", "nsz", "arcp")
# 2^f on -1/2..1/2: Taylor coefficients ln(2)^n / n!, relative error below 3e-7 at degree 6.
_POWERS = [1.0, 0.6931471805599453, 0.2402265069591007, 0.05550410866482158, 0.009618129107628477]
_POWERS += [0.0013333558146428443, 0.00015403530393381608]


def _const(value: float, lanes: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(_FLOAT, lanes), [value] * lanes)


def _ints(value: int, lanes: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(_INT, lanes), [value] * lanes)


class _Rows:
    """Loads and stores of some floats of one array argument."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: Any, value: Any) -> None:
        self.builder, self.data = builder, context.make_array(kind)(context, builder, value).data

    def item(self, position: ir.Value) -> ir.Value:
        return self.builder.load(self.builder.gep(self.data, [position]))

    def _pointer(self, position: ir.Value, kind: ir.VectorType) -> ir.Value:
        return self.builder.bitcast(self.builder.gep(self.data, [position]), kind.as_pointer())

    def load(self, position: ir.Value, lanes: int) -> ir.Value:
        vector = self.builder.load(self._pointer(position, ir.VectorType(_FLOAT, lanes)))
        vector.align = 4
        return vector

    def store(self, vector: ir.Value, position: ir.Value) -> None:
        self.builder.store(vector, self._pointer(position, vector.type)).align = 4


def _broadcast(builder: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    empty = ir.Constant(ir.VectorType(_FLOAT, lanes), ir.Undefined)
    one = builder.insert_element(empty, scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, empty, _ints(0, lanes))


def _multiply_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return builder.fadd(builder.fmul(a, b, flags=_ANY), c, flags=_ANY)


def _each_block(builder: ir.IRBuilder, width: ir.Value, work: Callable[[ir.Value, int], None]) -> None:
    """work(offset, lanes) for every eight numbers of a row, and for the last four where they are over."""
    size = ir.Constant(_WIDE, _BLOCK)
    blocks = builder.udiv(width, size)
    with cgutils.for_range(builder, blocks) as loop:
        work(builder.mul(loop.index, size), _BLOCK)
    with builder.if_then(builder.icmp_unsigned("!=", builder.and_(width, ir.Constant(_WIDE, LANES)), _WIDE(0))):
        work(builder.mul(blocks, size), LANES)


def _operation(function: Callable[..., Any]) -> Any:
    """numba's `intrinsic`, called with the arguments after the first."""
    return intrinsic(function)


def _void(arguments: tuple[Any, ...], body: Callable[..., None]) -> Any:
    """Signature and code of an intrinsic that returns nothing: arrays as they come, the rest as `arguments` says."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        wrapped = [
            _Rows(context, builder, kind, value) if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, values)
        ]
        body(builder, *wrapped)
        return context.get_dummy_value()

    return types.void(*arguments), generate


@_operation
def add_row(_context, target, i, weight, source, j, width):  # type: ignore[no-untyped-def]
    """target[i : i + width] += weight * source[j : j + width]"""

    def body(builder, target, i, weight, source, j, width):  # type: ignore[no-untyped-def]
        def work(offset: ir.Value, lanes: int) -> None:
            at = builder.add(i, offset)
            value = source.load(builder.add(j, offset), lanes)
            target.store(_multiply_add(builder, _broadcast(builder, weight, lanes), value, target.load(at, lanes)), at)

        _each_block(builder, width, work)

    return _void((target, types.int64, types.float32, source, types.int64, types.int64), body)


@_operation
def copy_row(_context, target, i, source, j, width):  # type: ignore[no-untyped-def]
    """target[i : i + width] = source[j : j + width]"""

    def body(builder, target, i, source, j, width):  # type: ignore[no-untyped-def]
        def work(offset: ir.Value, lanes: int) -> None:
            target.store(source.load(builder.add(j, offset), lanes), builder.add(i, offset))

        _each_block(builder, width, work)

    return _void((target, types.int64, source, types.int64, types.int64), body)


@_operation
def clear_row(_context, target, i, width):  # type: ignore[no-untyped-def]
    """target[i : i + width] = 0"""

    def body(builder, target, i, width):  # type: ignore[no-untyped-def]
        _each_block(builder, width, lambda offset, lanes: target.store(_const(0.0, lanes), builder.add(i, offset)))

    return _void((target, types.int64, types.int64), body)


@_operation
def scale_row(_context, target, i, factor, width):  # type: ignore[no-untyped-def]
    """target[i : i + width] *= factor"""

    def body(builder, target, i, factor, width):  # type: ignore[no-untyped-def]
        def work(offset: ir.Value, lanes: int) -> None:
            at = builder.add(i, offset)
            target.store(builder.fmul(target.load(at, lanes), _broadcast(builder, factor, lanes)), at)

        _each_block(builder, width, work)

    return _void((target, types.int64, types.float32, types.int64), body)


@_operation
def add_gathered(_context, target, i, scale, table, ids, weights, first, count, width):  # type: ignore[no-untyped-def]
    """target[i : i + width] += scale * sum of weights[e] * table row ids[e], over e = first .. first + count - 1"""

    def body(builder, target, i, scale, table, ids, weights, first, count, width):  # type: ignore[no-untyped-def]
        def work(offset: ir.Value, lanes: int) -> None:
            total = cgutils.alloca_once(builder, ir.VectorType(_FLOAT, lanes))
            builder.store(_const(0.0, lanes), total)
            with cgutils.for_range(builder, count) as loop:
                entry = builder.add(first, loop.index)
                start = builder.mul(builder.sext(ids.item(entry), _WIDE), width)
                row = table.load(builder.add(start, offset), lanes)
                weight = _broadcast(builder, weights.item(entry), lanes)
                builder.store(_multiply_add(builder, weight, row, builder.load(total)), total)
            at, factor = builder.add(i, offset), _broadcast(builder, scale, lanes)
            target.store(_multiply_add(builder, factor, builder.load(total), target.load(at, lanes)), at)

        _each_block(builder, width, work)

    kinds = (target, types.int64, types.float32, table, ids, weights, types.int64, types.int64, types.int64)
    return _void(kinds, body)


@_operation
def blur_row(_context, target, source, i, left, right, width):  # type: ignore[no-untyped-def]
    """target[i : i + width] = source there + half of the rows of source that start at left and right"""

    def body(builder, target, source, i, left, right, width):  # type: ignore[no-untyped-def]
        def work(offset: ir.Value, lanes: int) -> None:
            one, two, middle = (source.load(builder.add(start, offset), lanes) for start in (left, right, i))
            sides = builder.fadd(one, two, flags=_ANY)
            target.store(_multiply_add(builder, sides, _const(0.5, lanes), middle), builder.add(i, offset))

        _each_block(builder, width, work)

    return _void((target, source, types.int64, types.int64, types.int64, types.int64), body)


def _exp(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """e^x for x <= 0; 0 below LOWEST."""
    lanes = x.type.count
    kind = ir.FunctionType(x.type, [x.type])
    nearest_whole = cgutils.get_or_insert_function(builder.module, kind, f"llvm.nearbyint.v{lanes}f32")
    power_of_2 = builder.fmul(x, _const(1.4426950408889634, lanes), flags=_ANY)
    nearest = builder.call(nearest_whole, [power_of_2])
    rest = builder.fsub(power_of_2, nearest, flags=_ANY)
    power = _const(_POWERS[-1], lanes)
    for coefficient in reversed(_POWERS[:-1]):
        power = _multiply_add(builder, power, rest, _const(coefficient, lanes))
    ints = ir.VectorType(_INT, lanes)
    shift = builder.shl(builder.fptosi(nearest, ints), _ints(23, lanes))
    value = builder.bitcast(builder.add(builder.bitcast(power, ints), shift), x.type)
    return builder.select(builder.fcmp_ordered(">", x, _const(LOWEST, lanes)), value, _const(0.0, lanes))


@_operation
def log_row(_context, target, i, least, width):  # type: ignore[no-untyped-def]
    """target[i : i + width] = its natural logarithm, that of `least` where it is smaller"""

    def body(builder, target, i, least, width):  # type: ignore[no-untyped-def]
        def work(offset: ir.Value, lanes: int) -> None:
            at = builder.add(i, offset)
            value = _larger(builder, target.load(at, lanes), _broadcast(builder, least, lanes))
            target.store(_log(builder, value), at)

        _each_block(builder, width, work)

    return _void((target, types.int64, types.float32, types.int64), body)


def _log(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """ln x of normal positive numbers, relative error below 3e-7: x = 2^e m with m in sqrt(1/2)..sqrt(2), then
    ln m = 2 (s + s^3 / 3 + s^5 / 5 + ...) with s = (m - 1) / (m + 1)."""
    lanes = x.type.count
    one, root_half = _const(1.0, lanes), _ints(0x3F3504F3, lanes)  # the bits of sqrt(1/2)
    above = builder.sub(builder.bitcast(x, root_half.type), root_half)
    power = builder.sitofp(builder.ashr(above, _ints(23, lanes)), x.type)
    m = builder.bitcast(builder.add(builder.and_(above, _ints(0x7FFFFF, lanes)), root_half), x.type)
    s = builder.fdiv(builder.fsub(m, one), builder.fadd(m, one))
    square = builder.fmul(s, s)
    series = _const(2 / 9, lanes)
    for odd in (7, 5, 3, 1):
        series = _multiply_add(builder, series, square, _const(2 / odd, lanes))
    return _multiply_add(builder, power, _const(0.6931471805599453, lanes), builder.fmul(s, series))


def _over_lanes(builder: ir.IRBuilder, vector: ir.Value, combine: Callable[..., ir.Value]) -> ir.Value:
    """The combination of all lanes, as a scalar."""
    while vector.type.count > 1:
        vector = combine(builder, *_halves(builder, vector))
    return builder.extract_element(vector, ir.Constant(_INT, 0))


def _halves(builder: ir.IRBuilder, vector: ir.Value) -> list[ir.Value]:
    lanes = vector.type.count // 2
    empty, kind = ir.Constant(vector.type, ir.Undefined), ir.VectorType(_INT, lanes)
    parts = [ir.Constant(kind, list(range(first, first + lanes))) for first in (0, lanes)]
    return [builder.shuffle_vector(vector, empty, part) for part in parts]


def _larger(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _sum(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.fadd(a, b, flags=_ANY)


class _Running:
    """A running combination over a row, kept for blocks of eight and of four."""

    def __init__(self, builder: ir.IRBuilder, combine: Callable[..., ir.Value], start: float) -> None:
        self.builder, self.combine = builder, combine
        self.kept = {lanes: cgutils.alloca_once(builder, ir.VectorType(_FLOAT, lanes)) for lanes in (_BLOCK, LANES)}
        for lanes, place in self.kept.items():
            builder.store(_const(start, lanes), place)

    def take(self, vector: ir.Value) -> None:
        place = self.kept[vector.type.count]
        self.builder.store(self.combine(self.builder, vector, self.builder.load(place)), place)

    def result(self) -> ir.Value:
        """A scalar."""
        long, short = (self.builder.load(self.kept[lanes]) for lanes in (_BLOCK, LANES))
        halves = _halves(self.builder, long)
        both = self.combine(self.builder, self.combine(self.builder, *halves), short)
        return _over_lanes(self.builder, both, self.combine)


@_operation
def softmax_row(_context, target, i, width):  # type: ignore[no-untyped-def]
    """target[i : i + width] = its softmax"""

    def body(builder, target, i, width):  # type: ignore[no-untyped-def]
        top, total = _Running(builder, _larger, -3.4e38), _Running(builder, _sum, 0.0)
        _each_block(builder, width, lambda offset, lanes: top.take(target.load(builder.add(i, offset), lanes)))
        highest = top.result()

        def powers(offset: ir.Value, lanes: int) -> None:
            at = builder.add(i, offset)
            value = _exp(builder, builder.fsub(target.load(at, lanes), _broadcast(builder, highest, lanes)))
            target.store(value, at)
            total.take(value)

        _each_block(builder, width, powers)
        share = builder.fdiv(ir.Constant(_FLOAT, 1.0), total.result())

        def shares(offset: ir.Value, lanes: int) -> None:
            at = builder.add(i, offset)
            target.store(builder.fmul(target.load(at, lanes), _broadcast(builder, share, lanes)), at)

        _each_block(builder, width, shares)

    return _void((target, types.int64, types.int64), body)


def _filter(outputs: int, blocks: int, lanes: int) -> Any:
    """An intrinsic: `outputs` neighbouring results along an axis, `blocks` times `lanes` numbers each.

    The sums stay in registers while every source row is loaded once.
    """

    @_operation
    def along(_context, target, i, step, source, j, stride, taps, radius):  # type: ignore[no-untyped-def]
        def body(builder, target, i, step, source, j, stride, taps, radius):  # type: ignore[no-untyped-def]
            kind = ir.VectorType(_FLOAT, lanes)
            sums = [[cgutils.alloca_once(builder, kind) for _ in range(blocks)] for _ in range(outputs)]
            for total in (total for row in sums for total in row):
                builder.store(_const(0.0, lanes), total)
            rows = builder.add(builder.mul(radius, ir.Constant(_WIDE, 2)), ir.Constant(_WIDE, outputs))
            with cgutils.for_range(builder, rows) as loop:
                start = builder.add(j, builder.mul(loop.index, stride))
                loaded = [source.load(builder.add(start, _WIDE(block * lanes)), lanes) for block in range(blocks)]
                for output, totals in enumerate(sums):
                    # taps begins with OUTPUTS - 1 zeros: what lies outside the window of this output.
                    tap = taps.item(builder.add(loop.index, _WIDE(OUTPUTS - 1 - output)))
                    for row, total in zip(loaded, totals):
                        factor = _broadcast(builder, tap, lanes)
                        builder.store(_multiply_add(builder, factor, row, builder.load(total)), total)
            for output, totals in enumerate(sums):
                start = builder.add(i, builder.mul(step, _WIDE(output)))
                for block, total in enumerate(totals):
                    target.store(builder.load(total), builder.add(start, _WIDE(block * lanes)))

        kinds = (target, types.int64, types.int64, source, types.int64, types.int64, taps, types.int64)
        return _void(kinds, body)

    return along


# Results of a filter that are worked out together.
OUTPUTS = 4
# Named by results x numbers.
filter_4x16, filter_4x8, filter_4x4 = (_filter(OUTPUTS, *blocks) for blocks in ((2, 8), (1, 8), (1, 4)))
filter_1x4 = _filter(1, 1, 4)
