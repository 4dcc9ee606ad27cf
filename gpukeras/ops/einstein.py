"""Einstein sums: products and sums of several arrays, written by naming their axes."""

import functools
import string

from gpukeras.autograd.op import op
from gpukeras.autograd.tensor import convert_to_array
from gpukeras.backend import blas
from gpukeras.ops.diagonals import diagonal
from gpukeras.ops.elementwise import promote, unbroadcast
from gpukeras.ops.reduction import sum as sum_
from gpukeras.ops.shaping import transpose

__all__ = ["einsum"]


def einsum(subscripts, *operands, **kwargs):
    """Sum of products over named axes.

        einsum("bqd,bkd->bqk", query, key)[b, q, k] = Σ_d query[b, q, d] · key[b, k, d]

    A letter on the right of the arrow is an axis of the result; the others are summed over. Without an
    arrow the result has the letters that occur once, in alphabetic order. ``...`` stands for any
    further axes. Two operands at a time become one (batched) matrix product.

    Args:
        subscripts: The letters of each operand, separated by commas, an arrow, the result's letters.
        operands: The arrays.
        kwargs: ``optimize`` is accepted; operands are joined from left to right.

    Example:
        >>> einsum("ij,kj->ik", np.ones((2, 3)), np.ones((4, 3))).shape
        (2, 4)
    """
    kwargs.pop("optimize", None)
    if kwargs:
        raise TypeError(f"einsum got unknown arguments {sorted(kwargs)}.")
    operands = [x if hasattr(x, "shape") else convert_to_array(x) for x in operands]
    labels, result = _parse(subscripts, tuple([len(x.shape) for x in operands]))
    joined, letters = None, ""
    for i, (x, own) in enumerate(zip(operands, labels, strict=True)):
        later = set(result).union(*labels[i + 1 :])
        x, own = _without_repeats(x, own)
        if joined is None:
            joined, letters = _summed(x, own, later)
            continue
        x, own = _summed(x, own, later.union(letters))
        joined, letters = _summed(joined, letters, later.union(own))
        kept = "".join(c for c in dict.fromkeys(letters + own) if c in later)
        kept = result if i == len(operands) - 1 else kept
        joined, letters = _contract(joined, x, letters, own, kept), kept
    if letters != result:
        joined = transpose(joined, [letters.index(c) for c in result])
    elif len(operands) == 1 and joined is operands[0]:
        joined = transpose(joined, range(len(result)))
    return joined


@functools.lru_cache(maxsize=1024)
def _parse(subscripts, ndims):
    """The letters of each operand and of the result, with letters for the dots too."""
    left, arrow, right = subscripts.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(ndims):
        raise ValueError(f"einsum({subscripts!r}) names {len(parts)} operands, but got {len(ndims)}.")
    free = [c for c in string.ascii_letters if c not in subscripts]
    dots = max([n - len(p) + 3 for p, n in zip(parts, ndims, strict=True) if "..." in p], default=0)
    spare = "".join(free[:dots])
    labels = []
    for i, (part, ndim) in enumerate(zip(parts, ndims, strict=True)):
        if "..." in part:
            count = ndim - len(part) + 3
            part = part.replace("...", spare[dots - count :] if count else "")
        if len(part) != ndim or not set(part) <= set(string.ascii_letters):
            raise ValueError(f"einsum({subscripts!r}): operand {i} has {ndim} axes, which do not fit {parts[i]!r}.")
        labels.append(part)
    if arrow:
        result = right.replace("...", spare)
    else:
        every = "".join(labels)
        once = sorted(c for c in set(every) if every.count(c) == 1 and c not in spare)
        result = spare + "".join(once)
    unknown = set(result).difference(*labels) if not labels else set(result) - set("".join(labels))
    if unknown or len(set(result)) != len(result):
        raise ValueError(f"einsum({subscripts!r}): each letter of the result must occur there once, and in an operand.")
    return tuple(labels), result


def _without_repeats(x, letters):
    """Axes of one letter, such as in ``"ii"``, replaced by their diagonal."""
    for c in letters:
        while letters.count(c) > 1:
            first = letters.index(c)
            second = letters.index(c, first + 1)
            x = diagonal(x, 0, first, second)
            letters = letters[:first] + letters[first + 1 : second] + letters[second + 1 :] + c
    return x, letters


def _summed(x, letters, needed):
    """Summed over the letters that nobody else has."""
    alone = [i for i, c in enumerate(letters) if c not in needed]
    if not alone:
        return x, letters
    return sum_(x, axis=tuple(alone)), "".join(c for c in letters if c in needed)


@op
def _contract(x1, x2, /, letters1, letters2, result):
    """The product of two operands, each letter of which is in the other or in the result."""
    a, b = promote(x1, x2)
    y = _product(a, b, letters1, letters2, result)

    def backward(dy, needs):
        dx1 = dx2 = None
        if needs.x1:
            dx1 = unbroadcast(_product(dy, b, result, letters2, letters1), x1)
        if needs.x2:
            dx2 = unbroadcast(_product(dy, a, result, letters1, letters2), x2)
        return dx1, dx2

    return y, backward


def _product(a, b, letters1, letters2, result):
    shared, summed, left, right = _roles(letters1, letters2, result)
    sizes = dict(zip(letters2, b.shape, strict=True))
    for c, size in zip(letters1, a.shape, strict=True):
        if sizes.setdefault(c, size) != size:
            if c in summed or 1 not in (size, sizes[c]):
                raise ValueError(
                    f"einsum: axis {c!r} has size {size} in one operand, of shape {a.shape}, and "
                    f"{sizes[c]} in the other, of shape {b.shape}."
                )
            sizes[c] = max(size, sizes[c])
    a = _arranged(a, letters1, shared, left, summed)
    b = _arranged(b, letters2, shared, summed, right)
    if not summed:
        y = a * b
    elif not left and not right:
        y = (a * b.swapaxes(-1, -2)).sum(axis=-1)
    else:
        y = blas.matmul(a, b)
    y = y.reshape([sizes[c] for c in shared + left + right])
    letters = shared + left + right
    return y if letters == result else y.transpose([letters.index(c) for c in result])


@functools.lru_cache(maxsize=1024)
def _roles(letters1, letters2, result):
    shared = "".join(c for c in result if c in letters1 and c in letters2)
    summed = "".join(c for c in letters1 if c in letters2 and c not in result)
    left = "".join(c for c in result if c in letters1 and c not in letters2)
    right = "".join(c for c in result if c in letters2 and c not in letters1)
    return shared, summed, left, right


def _arranged(x, letters, shared, rows, columns):
    """x as matrices (shared axes..., rows, columns)."""
    wanted = shared + rows + columns
    if letters != wanted:
        x = x.transpose([letters.index(c) for c in wanted])
    batch = len(shared)
    if len(rows) == 1 and len(columns) == 1:
        return x
    shape = x.shape
    height = 1
    for size in shape[batch : batch + len(rows)]:
        height *= size
    width = 1
    for size in shape[batch + len(rows) :]:
        width *= size
    return x.reshape((*shape[:batch], height, width))
