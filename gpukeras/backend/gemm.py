"""Matrix products of a GPU's arrays: from shapes and strides to cuBLASLt's batches, without copies of views."""

import functools
import itertools
import math
import threading
from typing import Any, NamedTuple

import numpy as np

from gpukeras.backend import cublaslt, devices

__all__ = ["Operand", "arrange", "can_multiply", "matmul", "operand"]

# One product of four axes may take several launches (see `arrange`). Beyond this number a copy is taken instead: a
# launch costs a GPU a few microseconds, a copy of 50 MB about 25. An estimate, not measured.
_MOST_LAUNCHES = 16

_STREAM_OF_EACH_THREAD = 2  # CUDA's number for the default stream where each thread has one of its own


def can_multiply(a, b, out=None):
    """Whether `matmul` takes the types and axes of these arrays."""
    return a.dtype == b.dtype and a.ndim > 1 and b.ndim > 1 and _gives(a.dtype, (a if out is None else out).dtype)


@functools.cache  # the name of a dtype takes NumPy 1.5 microseconds
def _gives(dtype, out_dtype):
    return out_dtype.name in cublaslt.RESULTS.get(dtype.name, ())


def matmul(a, b, out=None, *, alpha=1.0, beta=0.0, epilogue=None, vector=None, in_one_pass=False) -> Any:
    """out ← alpha · a · b + beta · out, over the last two axes; the others are broadcast, views are not copied.

    Args:
        a, b: Arrays of one type: float16, bfloat16, float32 or float64.
        out: Array for the result, also float32 for 16-bit operands; None for a new one of the operands' type.
        alpha, beta: Factors; with beta=1 the product is added to what `out` holds.
        epilogue: What is computed in the same pass. "bias" adds `vector` (columns,) to each row, "relu_bias" and
            "gelu_bias" apply the rectifier or GELU's tanh form after it. "sum_of_b" writes Σ over the rows of b into
            `vector` (columns,), which is the gradient of a bias where out = xᵀ · dy; "sum_of_a" writes Σ over the
            columns of a into `vector` (rows,). Where a GPU has no such product, array code does the same.
        vector: The epilogue's vector, of the result's type.
        in_one_pass: Whether nothing is computed, and None returned, where a GPU has no such product.
    """
    xp: Any = devices.array_module(a)
    if not can_multiply(a, b, out):
        raise TypeError(f"A product on a GPU takes matrices of one float type, but got {_described(a, b, out)}.")
    result = _empty_result(xp, a, b) if out is None else out
    if epilogue is not None:
        _check_epilogue(epilogue, vector, a, b, result)
    if not result.size or not a.shape[-1]:  # the library knows no empty matrices
        if beta == 0:
            result.fill(0)
        else:
            result *= beta
        return _finish(xp, epilogue, vector, a, b, result)
    device, stream = xp.cuda.get_device_id(), xp.cuda.get_current_stream().ptr
    addresses = a.data.ptr, b.data.ptr, result.data.ptr, 0 if vector is None else vector.data.ptr
    alignment = _alignment(*addresses)
    planned = _planned(_layout(a), _layout(b), _layout(result), epilogue, cublaslt.is_tf32_enabled(), alignment, device)
    if type(planned) is dict:
        settings = {"alpha": alpha, "beta": beta, "epilogue": epilogue, "vector": vector, "in_one_pass": in_one_pass}
        return _by_copies(xp, planned, a, b, result, settings)
    plan: Any
    plan, offsets = planned
    if plan is None:
        if in_one_pass:
            return None
        matmul(a, b, result, alpha=alpha, beta=beta)
        return _finish(xp, epilogue, vector, a, b, result)
    thread = threading.get_ident() if stream == _STREAM_OF_EACH_THREAD else None
    workspace = cublaslt.workspace(xp, device, stream, thread).ptr
    at_a, at_b, at_out, at_vector = addresses
    for to_a, to_b, to_out in offsets:
        plan.run(at_a + to_a, at_b + to_b, at_out + to_out, at_vector, alpha, beta, workspace, stream)
    return result


def _empty_result(xp, a, b):
    batch = () if a.ndim == b.ndim == 2 else np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return xp.empty((*batch, a.shape[-2], b.shape[-1]), a.dtype)


def _by_copies(xp, copies, a, b, out, settings):
    """The product where views cannot be taken as they are."""
    a, b = [
        xp.ascontiguousarray(xp.broadcast_to(array, copies[name])) if name in copies else array
        for name, array in (("a", a), ("b", b))
    ]
    if "out" not in copies:
        return matmul(a, b, out, **settings)
    result = xp.empty(out.shape, out.dtype)
    if settings["beta"] != 0:
        result[...] = out
    if matmul(a, b, result, **settings) is None:
        return None
    out[...] = result
    return out


# --- Epilogues ------------------------------------------------------------------------------------------------


def _check_epilogue(epilogue, vector, a, b, result):
    if epilogue not in cublaslt.EPILOGUES:
        raise ValueError(f"Unknown epilogue {epilogue!r}; there are {', '.join(filter(None, cublaslt.EPILOGUES))}.")
    size = a.shape[-2] if epilogue == "sum_of_a" else b.shape[-1]
    if vector is None or vector.shape != (size,) or vector.dtype != result.dtype or not vector.flags.c_contiguous:
        came = "None" if vector is None else f"{vector.shape} of {vector.dtype}"
        raise ValueError(
            f"The epilogue {epilogue!r} of {_described(a, b, result)} needs a contiguous vector ({size},) of "
            f"{result.dtype}, but got {came}."
        )
    if epilogue in ("sum_of_a", "sum_of_b") and a.ndim + b.ndim > 4:
        raise ValueError(f"The epilogue {epilogue!r} is for two matrices, but got {_described(a, b, result)}.")


def _finish(xp, epilogue, vector, a, b, y):
    """The epilogue in array code: what the library computes in the same pass where it can."""
    if epilogue in ("sum_of_a", "sum_of_b"):
        summed, axis = (a, 1) if epilogue == "sum_of_a" else (b, 0)
        vector[...] = summed.sum(axis=axis, dtype=np.float64 if a.dtype.name == "float64" else np.float32)
    elif epilogue is not None:
        y += vector
        if epilogue == "relu_bias":
            xp.maximum(y, 0, out=y)
        elif epilogue == "gelu_bias":
            y *= 0.5 * (1 + xp.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * (y * y * y))))
    return y


# --- From arrays to products ----------------------------------------------------------------------------------


class Operand(NamedTuple):
    """Where the matrices of an array's last two axes lie, in elements."""

    is_transposed: bool
    leading: int  # from one row to the next; where transposed, from one column to the next
    batch: tuple  # steps of the axes before


def operand(array, may_be_transposed=True):
    """The matrices of an array as BLAS takes them, or None where it can only take a copy.

    BLAS takes numbers side by side along one axis, and along the other any step that is as long as a line of them.
    An axis of size 1 has no step, whatever the array says.
    """
    size = array.dtype.itemsize
    steps = [step if n > 1 else 0 for step, n in zip(array.strides, array.shape, strict=True)]
    if any([step < 0 or step % size for step in steps]):
        return None
    *batch, down, along = [step // size for step in steps]
    rows, columns = array.shape[-2:]
    ways = [(False, rows, down, columns, along)]
    if may_be_transposed:
        # A single column is rather taken as a row, where it lies like one: no algorithm with wide loads takes a leading
        # dimension of 1.
        ways.insert(0 if columns == 1 else 1, (True, columns, along, rows, down))
    for is_transposed, lines, step, length, within in ways:
        if lines == 1:
            step = length  # never taken, but it must be long enough
        if step >= length and (within == 1 or length == 1):
            return Operand(is_transposed, step, tuple(batch))
    return None


def arrange(a, b, out, epilogue=None, is_tf32=False):
    """How out = a · b becomes products of the library.

    A batch of the library has one step from product to product. Axes are merged where all three arrays allow it: a
    contiguous array has one batch, whatever its axes. Of what is left, say heads and samples of (samples, time, heads,
    units) seen as (samples, heads, time, units), the longest axis becomes the batch and the others are run one by one.

    Args:
        a, b, out: What has the shape, strides and dtype of an array; three-dimensional ones at least have a batch.
        epilogue: As in `matmul`.
        is_tf32: Whether factors may be rounded.

    Returns:
        ``(product, offsets)``, the product and for each of its runs the bytes to go on from the addresses of a, b and
        out; or a dictionary with the arrays that must be copied first, "a", "b" or "out", and the shapes to copy to.
    """
    _check_shapes(a, b, out)
    arrays = {"a": a, "b": b, "out": out}
    operands: list[Any] = [operand(a), operand(b), operand(out, may_be_transposed=False)]
    if None in operands:
        return {name: arrays[name].shape for name, found in zip(arrays, operands, strict=True) if found is None}
    shape = out.shape[:-2]
    strides = [(0,) * (len(shape) - len(found.batch)) + found.batch for found in operands]
    axes = _merge(shape, strides)
    (rows, inner), columns = a.shape[-2:], b.shape[-1]
    leading = tuple(found.leading for found in operands)
    if len(axes) == 1 and not operands[0].is_transposed:
        count, *steps = axes[0]
        if steps == [rows * leading[0], 0, rows * leading[2]]:  # one b for all: one product of more rows
            rows, axes = rows * count, []
    axes.sort()
    count, *steps = axes.pop() if axes else (1, 0, 0, 0)
    if math.prod([axis[0] for axis in axes]) > _MOST_LAUNCHES:
        hindering = [name for name, own in zip(arrays, strides, strict=True) if len(_merge(shape, [own])) > 1]
        return {name: (*shape, *arrays[name].shape[-2:]) for name in hindering}
    sizes = [array.dtype.itemsize for array in arrays.values()]
    offsets = []
    for index in itertools.product(*[range(axis[0]) for axis in axes]):
        elements = [sum(i * axis[k] for i, axis in zip(index, axes, strict=True)) for k in (1, 2, 3)]
        offsets.append(tuple(n * size for n, size in zip(elements, sizes, strict=True)))
    product = cublaslt.Product(
        dtype=a.dtype.name,
        out_dtype=out.dtype.name,
        rows=rows,
        columns=columns,
        inner=inner,
        is_transposed=(operands[0].is_transposed, operands[1].is_transposed),
        leading=leading,
        count=count,
        strides=tuple(steps),
        epilogue=epilogue,
        is_tf32=is_tf32 and a.dtype.name == "float32",
    )
    return product, tuple(offsets)


def _merge(shape, strides):
    """``[(size, step in each array), ...]``: the axes of a batch, as few as the arrays allow."""
    axes = []
    for size, *steps in zip(shape, *strides, strict=True):
        if size == 1:
            continue
        if axes and list(axes[-1][1:]) == [step * size for step in steps]:
            axes[-1] = (axes[-1][0] * size, *steps)
        else:
            axes.append((size, *steps))
    return axes


def _check_shapes(a, b, out):
    fits = a.shape[-1] == b.shape[-2]
    if fits:
        try:
            shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
        except ValueError:
            fits = False
        else:
            fits = shape == out.shape
    if not fits:
        raise ValueError(
            f"A product multiplies the last axis of a with the second last of b and broadcasts the axes before, but "
            f"got {_described(a, b, out)}."
        )


def _described(a, b, out):
    given = [f"{array.shape} of {array.dtype}" for array in (a, b)]
    return " and ".join(given) + ("" if out is None else f" for a result {out.shape} of {out.dtype}")


# --- Plans are made once --------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """What a plan depends on in an array."""

    shape: tuple
    strides: tuple
    dtype: np.dtype


def _layout(array):
    return _Layout(array.shape, array.strides, array.dtype)


@functools.lru_cache(maxsize=1024)
def _planned(a, b, out, epilogue, is_tf32, alignment, device):
    """What `arrange` returns, with a plan for the product; None for the plan where an epilogue has no algorithm."""
    arranged = arrange(a, b, out, epilogue, is_tf32)
    if isinstance(arranged, dict):
        return arranged
    product, offsets = arranged
    handle = cublaslt.handle(device)
    steps = [step * layout.dtype.itemsize for step, layout in zip(product.strides, (a, b, out), strict=True)]
    alignment = _alignment(alignment, *steps, *itertools.chain(*offsets))
    plan = cublaslt.Plan(product, handle, alignment)
    if not plan.has_algorithm and product.is_tf32:  # a GPU before Ampere
        plan = cublaslt.Plan(product._replace(is_tf32=False), handle, alignment)
    if plan.has_algorithm:
        return plan, offsets
    if epilogue is None:
        raise RuntimeError(f"cuBLASLt has no algorithm on this GPU for {product}.")
    return None, offsets


def _alignment(*addresses):
    """The largest power of two up to 256 that divides all of them."""
    joined = 256
    for address in addresses:
        joined |= address
    return joined & -joined
