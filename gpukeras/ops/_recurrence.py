"""What the recurrent ops share: the walk through a sequence, and the product with the state."""

from typing import Any

from gpukeras.backend import blas, devices

__all__ = ["StateProduct", "Walk", "column_sums", "state_gradient"]


class Walk:
    """The way through a sequence: checks, layout, direction, masks.

    Arrays inside run (time, batch, ...), so that a step is one contiguous block.

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
        x: The input in the order of the walk (time, batch, features).
        keep: One boolean column (batch, 1) per step, or None each where there is no mask.
    """

    def __init__(self, name, x, states, weights, bias_shape, mask, dropout, go_backwards, zero_output):
        kernel, recurrent_kernel, bias = weights
        _check_shapes(name, x, states, kernel, recurrent_kernel, bias_shape[-1], mask)
        _check_bias(name, bias, bias_shape, recurrent_kernel.dtype)
        _check_dropout(name, dropout, x.shape[0], recurrent_kernel)
        self.batch, self.time, self.features = x.shape
        self.units = recurrent_kernel.shape[0]
        self.dtype, self.x_dtype = recurrent_kernel.dtype, x.dtype
        self.xp = devices.array_module(recurrent_kernel)
        self.go_backwards = go_backwards
        self.zero_output = zero_output and mask is not None
        x = x.swapaxes(0, 1)
        x = self.xp.ascontiguousarray(x[::-1] if go_backwards else x)
        self.x = x if x.dtype == self.dtype else x.astype(self.dtype)
        if mask is None:
            self.mask: Any = None
            self.keep: Any = [None] * self.time
        else:
            mask = mask.T[::-1] if go_backwards else mask.T
            self.mask = self.keep = (mask != 0)[:, :, None]

    def rows(self, array):
        """(time, batch, n) seen as (time · batch, n)."""
        return array.reshape(-1, array.shape[-1])

    def input_product(self, kernel, bias, scale=None):
        """(x · kernel + bias) scale for all steps at once (time, batch, columns)."""
        if kernel is None:
            z = self.rows(self.x) * (1 if scale is None else scale)
        else:
            z = blas.matmul(self.rows(self.x), kernel if scale is None else kernel * scale)
        if bias is not None:
            z += bias if scale is None else bias * scale
        return z.reshape(self.time, self.batch, -1)

    def input_gradient(self, rows, kernel):
        """The gradient of x as it came in (batch, time, features)."""
        dx = rows if kernel is None else blas.matmul(rows, kernel.T)
        dx = dx.reshape(self.time, self.batch, self.features)
        dx = (dx[::-1] if self.go_backwards else dx).swapaxes(0, 1)
        return dx if dx.dtype == self.x_dtype else dx.astype(self.x_dtype)

    def kernel_gradient(self, rows):
        """xᵀ · rows."""
        return blas.matmul(self.rows(self.x).T, rows)

    def states(self, initial):
        """Room for all states (time + 1, batch, units), the first one filled."""
        states = self.xp.empty((self.time + 1, self.batch, self.units), self.dtype)
        states[0] = 0 if initial is None else initial
        return states

    def steps(self, parts=1):
        """Room for `parts` times the units at every step (time, batch, columns)."""
        return self.xp.empty((self.time, self.batch, parts * self.units), self.dtype)

    def step(self, parts=1):
        """Room for `parts` times the units at one step (batch, columns)."""
        return self.xp.empty((self.batch, parts * self.units), self.dtype)

    def halves(self, gates, *sigmoids):
        """½ in the columns of the numbered gates, 1 elsewhere; scaling by halves loses no bit."""
        halves = self.xp.ones((gates, self.units), self.dtype)
        for gate in sigmoids:
            halves[gate] = 0.5
        return halves.reshape(-1)

    def outputs(self, states):
        """The output of all steps (batch, time, units), from the states after each."""
        y = states[1:] * self.mask if self.zero_output else states[1:]
        return y.swapaxes(0, 1)

    def output_gradients(self, dy, *dstates):
        """dy in the order of the walk, or None; then the states' gradients, ours to change."""
        running = []
        for d in dstates:
            state = self.step()
            state[...] = 0 if d is None else d
            running.append(state)
        return None if dy is None else dy.swapaxes(0, 1), *running

    def add_output_gradient(self, dh, dy, t):
        """dh += dy_t."""
        if dy is not None:
            dh += dy[t] * self.mask[t] if self.zero_output else dy[t]


class StateProduct:
    """h · kernel, where each gate may see h through a dropout mask of its own.

        product_k = (h masks_k) · kernel_k

    Args:
        kernel: (units, gates · units).
        masks: (gates, batch, units), or None.
    """

    def __init__(self, kernel, masks):
        self.kernel, self.masks = kernel, masks
        if masks is not None:
            units = kernel.shape[0]
            self.gates = kernel.shape[1] // units
            self.parts = kernel.reshape(units, self.gates, units).swapaxes(0, 1)

    def product(self, h, out):
        """out ← h · kernel."""
        if self.masks is None:
            blas.matmul(h, self.kernel, out=out)
            return
        by_gate = out.reshape(h.shape[0], self.gates, h.shape[1])
        by_gate[...] = blas.matmul(h * self.masks, self.parts).swapaxes(0, 1)

    def gradient(self, dz):
        """The gradient of h."""
        if self.masks is None:
            return blas.matmul(dz, self.kernel.T)
        by_gate = dz.reshape(dz.shape[0], self.gates, -1).swapaxes(0, 1)
        dh = blas.matmul(by_gate, self.parts.swapaxes(1, 2))
        dh *= self.masks
        return dh.sum(axis=0)

    def kernel_gradient(self, hs, rows):
        """The gradient of the kernel, from the states before all steps (time, batch, units)."""
        if self.masks is None:
            return blas.matmul(hs.reshape(-1, hs.shape[-1]).T, rows)
        units = hs.shape[-1]
        parts = [
            blas.matmul((hs * mask).reshape(-1, units).T, rows[:, k * units : (k + 1) * units])
            for k, mask in enumerate(self.masks)
        ]
        return devices.array_module(hs).concatenate(parts, axis=1)


def state_gradient(d, state):
    """The gradient of an initial state in its own dtype."""
    return d if d.dtype == state.dtype else d.astype(state.dtype)


def column_sums(rows):
    """Sums over axis 0 as a product with ones: one pass in BLAS, with less rounding than a sum."""
    ones = devices.array_module(rows).ones((1, rows.shape[0]), rows.dtype)
    return blas.matmul(ones, rows)[0]


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
