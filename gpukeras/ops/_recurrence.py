"""What the recurrent ops share: the walk through a sequence, and the gradients of what all its steps share."""

import functools
from typing import Any

import numpy as np

from gpukeras.backend import blas, cuda, devices
from gpukeras.kernels.walks import by_gate
from gpukeras.ops._places import places_on_gpu

__all__ = ["Gradients", "Walk", "column_sums", "rolled"]


class Walk:
    """The way through a sequence: checks, layout, direction, masks.

    Arrays inside run (time, batch, ...), so that a step is one contiguous block; where there is one for each gate,
    that axis comes first, as slots. float16 and bfloat16 are computed in float32; where there is CUDA C they stay what
    they are between its kernels, but for the cells' own state, to which every step adds. With dropout they do not.

    Args:
        name: Of the op, for messages.
        x: The sequences (batch, time, features).
        states: The initial states, (batch, units) or None each.
        weights: kernel, recurrent kernel and bias.
        bias_shape: What the bias must have; its last size is the number of columns of all weights.
        mask: (batch, time) or None.
        dropout: The state's masks (gates, batch, units) or None.
        go_backwards, zero_output: As the op has them.

    Attributes:
        x: The input in the order of the walk (time, batch, features). With a kernel and a bias a column of ones
            follows, which makes the bias one more row of the kernel, here and in its gradient.
        given: The weights as the op got them.
        kernel, recurrent_kernel, bias, dropout: In the type that is computed in; None where left out.
        keep: (time, batch, 1), False where a step is masked; None where there is no mask.
    """

    def __init__(self, name, x, states, weights, bias_shape, mask, dropout, go_backwards, zero_output):
        kernel, recurrent_kernel, bias = weights
        _check_shapes(name, x, states, kernel, recurrent_kernel, bias_shape[-1], mask)
        _check_bias(name, bias, bias_shape, recurrent_kernel.dtype)
        _check_dropout(name, dropout, x.shape[0], recurrent_kernel)
        self.batch, self.time, self.features = x.shape
        self.units = recurrent_kernel.shape[0]
        self.result_dtype, self.x_dtype = recurrent_kernel.dtype, x.dtype
        self.dtype = cuda.dtype_of_work(recurrent_kernel, recurrent_kernel.dtype)
        if dropout is not None:
            self.dtype = cuda.wide_dtype(self.dtype)
        self.given = weights
        self.xp = devices.array_module(recurrent_kernel)
        self.kernel, self.bias, self.dropout = [
            None if a is None else a.astype(self.dtype, copy=False) for a in (kernel, bias, dropout)
        ]
        self.recurrent_kernel = recurrent_kernel.astype(self.dtype, copy=False)
        self.go_backwards = go_backwards
        self.zero_output = zero_output and mask is not None
        self.x = self._in_order(x)
        self.keep: Any = None
        if mask is not None:
            mask = mask.T[::-1] if go_backwards else mask.T
            self.keep = (mask != 0)[:, :, None]

    def _in_order(self, x):
        """x as (time, batch, features), with the column of ones where the bias is a row of the kernel."""
        has_ones = self.kernel is not None and self.bias is not None
        ordered = self.xp.empty((self.time, self.batch, self.features + has_ones), self.dtype)
        x = x.swapaxes(0, 1)
        ordered[:, :, : self.features] = x[::-1] if self.go_backwards else x
        if has_ones:
            ordered[:, :, -1] = 1
        return ordered

    def slots(self, count):
        """Room for so many numbers per step and unit (count, time, batch, units)."""
        return self.xp.empty((count, self.time, self.batch, self.units), self.dtype)

    def columns(self, count):
        """Room for the gradients of so many pre-activations per step and unit (time, batch, count · units)."""
        return self.xp.empty((self.time, self.batch, count * self.units), self.dtype)

    def states(self, initial):
        """Room for all states (time + 1, batch, units), the first one filled."""
        states = self.xp.empty((self.time + 1, self.batch, self.units), self.dtype)
        states[0] = 0 if initial is None else initial
        return states

    def state(self, values, is_wide=False):
        """An array (batch, units) of our own: a copy of the values, or zeros for None; where wide, of 32 bits or 64."""
        state = self.xp.empty((self.batch, self.units), cuda.wide_dtype(self.dtype) if is_wide else self.dtype)
        state[...] = 0 if values is None else values
        return state

    def by_slot(self, matrix, slots):
        """(n, gates · units) as one matrix for each slot (slots, n, units).

        Args:
            matrix: The kernel or the recurrent kernel.
            slots: ``(gate, factor)`` for each: which gate it is, and by how much its pre-activation is multiplied.
        """
        parts = self.xp.empty((len(slots), matrix.shape[0], self.units), self.dtype)
        for slot, (gate, factor) in enumerate(slots):
            self._scale(matrix[:, gate * self.units : (gate + 1) * self.units], factor, parts[slot])
        return parts

    def _scale(self, x, factor, out):
        """out ← x · factor, also for bfloat16, which a Python number makes float32."""
        if x.dtype.itemsize < 4:
            out[...] = x if factor == 1 else x.astype(np.float32) * factor
        else:
            self.xp.multiply(x, factor, out=out)

    def masks_by_slot(self, slots):
        """The masks of dropout in the order of the slots, or None."""
        return None if self.dropout is None else self.xp.stack([self.dropout[gate] for gate, _ in slots])

    def input_product(self, bias, slots, out):
        """A function of a slice of steps that puts x · kernel + bias into out (slots, time, batch, units).

        Slots as in `by_slot`.
        """
        if self.kernel is not None:
            kernel = self.kernel if bias is None else self.xp.concatenate([self.kernel, bias[None]])
            kernels = self.by_slot(kernel, slots)

            def multiply(steps):
                if _is_narrow(self.x, self.units):
                    self.xp.matmul(self.x[steps], kernels[:, None], out=out[:, steps])
                    return
                x = _rows(self.x[steps])
                if steps == slice(0, self.time):
                    blas.matmul(x, kernels, out=_rows(out))
                    return
                for slot, matrix in enumerate(kernels):
                    blas.matmul(x, matrix, out=_rows(out[slot, steps]))

            return multiply

        def copy(steps):
            product = self.x[steps] if bias is None else self.x[steps] + bias
            for slot, (gate, factor) in enumerate(slots):
                self._scale(product[:, :, gate * self.units : (gate + 1) * self.units], factor, out[slot, steps])

        return copy

    def outputs(self, states):
        """The outputs of all steps (batch, time, units), and the last state."""
        y = self._kept(states[1:]) if self.zero_output else states[1:]
        return self.result(y.swapaxes(0, 1)), self.result(states[-1])

    def result(self, array):
        """The array in the type of the op's results, which is that of its weights."""
        return array.astype(self.result_dtype, copy=False)

    def output_gradient(self, dy):
        """dy in the order of the walk (time, batch, units), or None."""
        if dy is None:
            return None
        dy = dy.swapaxes(0, 1).astype(self.dtype, copy=False)
        return self._kept(dy) if self.zero_output else dy

    def _kept(self, values):
        """Values (time, batch, units), zero where a step is masked."""
        return self.xp.where(self.keep, values, self.xp.zeros((), values.dtype))


class Gradients:
    """The gradients of input and weights, from those of the pre-activations, dz (time, batch, columns).

    They are products over all steps, computed run by run while a walk goes back: `sums()` are what the backward
    kernels of `gpukeras.kernels.recurrent` take, and `of_sums` makes the gradients of what they return. On a GPU
    those of weights are written where the optimizer wants them, unless there is dropout.

    Args:
        walk: The walk.
        needs: The op's.
        dz: As the input sees it, to be filled by the walk.
        kernel: The walk's, its columns in the order of those of dz; None where x is the product with it.
        of_state: ``(h, dz, dropout)`` for each product with a state: the states before all steps, dz as they see
            it, and their masks. The recurrent kernel's columns follow in this order.
        rolled: How many of dz's first columns are those of the kernel's last.
        has_bias: Whether the bias is one row, whose gradient dz has.
    """

    def __init__(self, walk, needs, dz, kernel: Any, *of_state, rolled=0, has_bias=True):
        self.walk, self.needs, self.dz, self.kernel, self.of_state = walk, needs, dz, kernel, of_state
        self.rolled = rolled
        wanted = needs.kernel, needs.recurrent_kernel, needs.bias and has_bias
        weights = [weight if is_wanted else None for weight, is_wanted in zip(walk.given, wanted, strict=True)]
        self.places = [None, None, None] if walk.dropout is not None else places_on_gpu(weights, dz)
        self.dx: Any = None
        self.transposed: Any = None
        if needs.x and kernel is not None:
            self.dx = walk.xp.empty((walk.time, walk.batch, walk.features), walk.dtype)
            self.transposed = walk.xp.ascontiguousarray(kernel.T)

    def sums(self):
        """By name, the functions of a slice of steps that a backward kernel takes."""
        functions: dict[Any, Any] = {}
        if self.dx is not None:
            functions["x"] = self._fill_dx
        if self.needs.kernel:
            functions["kernel"] = self._dkernel
        if self.needs.recurrent_kernel:
            for place in range(len(self.of_state)):
                functions[place] = functools.partial(self._drecurrent, place)
        return functions

    def _fill_dx(self, steps):
        if _is_narrow(self.dz, self.walk.features):
            blas.matmul(self.dz[steps], self.transposed, out=self.dx[steps])
        else:
            blas.matmul(_rows(self.dz[steps]), self.transposed, out=_rows(self.dx[steps]))

    def _dkernel(self, steps):
        x, dz, (place, _, bias_place) = self.walk.x[steps], self.dz[steps], self.places
        if place is None:
            return _sum_of_products(x, dz)
        features, first = self.walk.features, self.rolled
        last = dz.shape[2] - first
        transposed, dz = _rows(x).T, _rows(dz)
        blas.scaled_matmul(transposed[:features], dz[:, first:], place[:, :last])
        if first:
            blas.scaled_matmul(transposed[:features], dz[:, :first], place[:, last:])
        if bias_place is not None:
            blas.scaled_matmul(transposed[features:], dz, bias_place[None])
        return place

    def _drecurrent(self, place, steps):
        h, dz, dropout = self.of_state[place]
        whole = self.places[1]
        if whole is not None:
            start = sum(part.shape[2] for _, part, _ in self.of_state[:place])
            out = whole[:, start : start + dz.shape[2]]
            blas.scaled_matmul(_rows(h[steps]).T, _rows(dz[steps]), out)
            return out
        if dropout is None:
            return _sum_of_products(h[steps], dz[steps])
        rows = _rows(dz[steps])
        seen = _rows(h[None, steps] * dropout[:, None])
        parts = blas.matmul(seen.swapaxes(1, 2), by_gate(rows, len(dropout)))
        return parts.swapaxes(0, 1).reshape(self.walk.units, rows.shape[1])

    def of_sums(self, sums):
        """dx, dkernel, drecurrent_kernel and dbias, None each where not needed, in the types of x and the weights."""
        walk, needs = self.walk, self.needs
        found = dict(zip(self.sums(), sums, strict=True))
        dx, (dkernel, drecurrent, dbias) = None, self.places
        if needs.x:
            dx = self._in_order(self.dz) if self.dx is None else self.dx
            dx = (dx[::-1] if walk.go_backwards else dx).swapaxes(0, 1).astype(walk.x_dtype, copy=False)
        if needs.kernel and dkernel is None:
            dkernel = walk.result(self._in_order(found["kernel"][: walk.features]))
        if needs.recurrent_kernel and drecurrent is None:
            parts = [found[place] for place in range(len(self.of_state))]
            drecurrent = walk.result(parts[0] if len(parts) == 1 else walk.xp.concatenate(parts, axis=1))
        if needs.bias and dbias is None:
            is_row = needs.kernel and self.places[0] is None
            dbias = walk.result(self._in_order(found["kernel"][-1] if is_row else column_sums(self.dz)))
        return dx, dkernel, drecurrent, dbias

    def _in_order(self, columns):
        """Columns of dz in the order of the kernel's."""
        return rolled(columns, self.rolled) if self.rolled else columns


def rolled(array, columns):
    """The array with its first columns moved behind the others."""
    return devices.array_module(array).concatenate([array[..., columns:], array[..., :columns]], axis=-1)


def column_sums(dz):
    """Sums over time and batch as a product with ones: one pass in BLAS, with less rounding than a sum."""
    rows = _rows(dz)
    ones = devices.array_module(rows).ones((1, rows.shape[0]), rows.dtype)
    return blas.matmul(ones, rows)[0]


# OpenBLAS copies its factors into another order, but for products of at most so many multiply-adds. Where one factor
# has few columns the copies take longer than the product: then a small product for each step is faster than one.
# Measured with 120 steps of 256 sequences, 96 columns in one thread: x · kernel with 15 features 1.09 and 0.43 ms, its
# derivative 2.5 and 1.1, xᵀ · dz of 15 steps 0.15 and 0.09; with 40 features and 160 columns still a fifth less.
_UNCOPIED = 1_000_000
_NARROW = 48
_FEW_SEQUENCES = 32


def _is_narrow(x, columns):
    """Whether products of x (time, batch, n) with so many columns go step by step."""
    _, batch, n = x.shape
    return type(x) is np.ndarray and (
        batch >= _FEW_SEQUENCES and min(n, columns) <= _NARROW and batch * n * columns <= _UNCOPIED
    )


def _sum_of_products(x, y):
    """Σ xᵀ · y over all steps and sequences of x (time, batch, n) and y (time, batch, m)."""
    if _is_narrow(x, y.shape[2]):
        return np.matmul(x.swapaxes(1, 2), y).sum(axis=0)
    return blas.matmul(_rows(x).T, _rows(y))


def _rows(array):
    """(..., time, batch, n) seen as (..., time · batch, n)."""
    *before, time, batch, n = array.shape
    return array.reshape(*before, time * batch, n)


def _check_shapes(name, x, states, kernel, recurrent_kernel, columns, mask):
    if x.ndim != 3:
        raise ValueError(
            f"ops.{name} expects x of shape (batch, time, features), but got shape {x.shape}. "
            f"Add the axis that is missing, for instance with ops.expand_dims."
        )
    units = recurrent_kernel.shape[0]
    if recurrent_kernel.shape != (units, columns):
        raise ValueError(
            f"ops.{name} expects a recurrent_kernel of shape (units, {columns // units} * units), "
            f"but got shape {recurrent_kernel.shape}."
        )
    if kernel is None:
        if x.shape[2] != columns:
            raise ValueError(
                f"ops.{name} without a kernel expects x of shape (batch, time, {columns}), the product "
                f"with the kernel, but got shape {x.shape}."
            )
    elif kernel.shape != (x.shape[2], columns):
        raise ValueError(
            f"ops.{name} expects a kernel of shape {(x.shape[2], columns)} for x of shape "
            f"{x.shape} and {units} units, but got shape {kernel.shape}."
        )
    if kernel is not None and recurrent_kernel.dtype != kernel.dtype:
        raise ValueError(
            f"ops.{name} expects weights of one dtype, but kernel is {kernel.dtype} and "
            f"recurrent_kernel is {recurrent_kernel.dtype}. Cast one of them."
        )
    for state in states:
        if state is not None and state.shape != (x.shape[0], units):
            raise ValueError(
                f"ops.{name} expects initial states of shape (batch, units) = "
                f"{(x.shape[0], units)}, but got shape {state.shape}. Pass one row per sequence."
            )
    if mask is not None and mask.shape != x.shape[:2]:
        raise ValueError(
            f"ops.{name} expects a mask of shape (batch, time) = {x.shape[:2]}, but got shape {mask.shape}."
        )


def _check_bias(name, bias, shape, dtype):
    if bias is None:
        return
    if bias.shape != shape:
        raise ValueError(f"ops.{name} expects a bias of shape {shape} or None, but got shape {bias.shape}.")
    if bias.dtype != dtype:
        raise ValueError(
            f"ops.{name} expects a bias of the weights' dtype {dtype}, but got {bias.dtype}. Cast one of them."
        )


def _check_dropout(name, masks, batch, recurrent_kernel):
    if masks is None:
        return
    units, columns = recurrent_kernel.shape
    shape = (columns // units, batch, units)
    if masks.shape != shape:
        raise ValueError(
            f"ops.{name} expects dropout masks of shape (gates, batch, units) = {shape}, but got "
            f"shape {masks.shape}. Pass one for each gate."
        )
