"""Recurrent networks over whole sequences.

One product with the input serves all time steps; then a loop walks through time, once forwards and
once backwards. What every op here has in common:

- x are the sequences (batch, time, features); h and c the initial states, or None for zeros.
- Weights hold the gates side by side, in Keras's order; the bias may be None. So may the kernel:
  then x is the product with it already.
- mask (batch, time) is False where a step is left out: the states stay as they are, and the output
  repeats the state, or is zero with zero_output_for_mask.
- dropout (gates, batch, units) are masks by which each gate's view of h is multiplied at all steps.
- With go_backwards time is walked from its end; outputs come in the order of the walk.
- The outputs of all steps (batch, time, units) are followed by the last states.
"""

from gpukeras.autograd.op import op
from gpukeras.backend import blas, devices
from gpukeras.kernels import recurrent as kernels
from gpukeras.ops._recurrence import StateProduct, Walk, column_sums, state_gradient

__all__ = ["gru", "lstm", "simple_rnn"]


@op
def simple_rnn(
    x,
    h,
    kernel,
    recurrent_kernel,
    bias=None,
    mask=None,
    dropout=None,
    /,
    go_backwards=False,
    zero_output_for_mask=False,
):
    """Elman network.

        h_t = tanh(x_t · kernel + bias + h_{t-1} · recurrent_kernel)

    Shapes:
        x (batch, time, n), h (batch, m), kernel (n, m), recurrent_kernel (m, m), bias (m,),
        mask (batch, time), dropout (1, batch, m)  ->  y (batch, time, m), h (batch, m)

    Keeps x, the weights and all states until the backward pass.

    Example:
        >>> y, h = simple_rnn(np.ones((2, 5, 3)), None, np.ones((3, 4)), np.ones((4, 4)))
        >>> y.shape, h.shape
        ((2, 5, 4), (2, 4))
    """
    weights, bias_shape = (kernel, recurrent_kernel, bias), (recurrent_kernel.shape[0],)
    options = mask, dropout, go_backwards, zero_output_for_mask
    walk = Walk("simple_rnn", x, (h,), weights, bias_shape, *options)
    state = StateProduct(recurrent_kernel, dropout)
    z = walk.input_product(kernel, bias)
    hs = walk.states(h)
    recurrent = walk.step()
    for t in range(walk.time):
        state.product(hs[t], out=recurrent)
        kernels.simple_rnn_forward(z[t], recurrent, hs[t], walk.keep[t], hs[t + 1])

    def backward(dy, needs):
        dy, dh = walk.output_gradients(*dy)
        dz = walk.steps()
        for t in reversed(range(walk.time)):
            walk.add_output_gradient(dh, dy, t)
            kernels.simple_rnn_backward(dh, hs[t + 1], walk.keep[t], dz[t])
            dh = _through(dh, state.gradient(dz[t]), walk.keep[t])
        rows = walk.rows(dz)
        return (
            walk.input_gradient(rows, kernel) if needs.x else None,
            state_gradient(dh, h) if needs.h else None,
            walk.kernel_gradient(rows) if needs.kernel else None,
            state.kernel_gradient(hs[:-1], rows) if needs.recurrent_kernel else None,
            column_sums(rows) if needs.bias else None,
            None,
            None,
        )

    return (walk.outputs(hs), hs[-1]), backward


@op
def lstm(
    x,
    h,
    c,
    kernel,
    recurrent_kernel,
    bias=None,
    mask=None,
    dropout=None,
    /,
    go_backwards=False,
    zero_output_for_mask=False,
):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997), gates in the order i, f, g, o.

        i, f, o = σ(x_t · kernel + h_{t-1} · recurrent_kernel + bias),  g = tanh(the same)
        c_t = f c_{t-1} + i g
        h_t = o tanh(c_t)

    Shapes:
        x (batch, time, n), h and c (batch, m), kernel (n, 4m), recurrent_kernel (m, 4m),
        bias (4m,), mask (batch, time), dropout (4, batch, m)
        ->  y (batch, time, m), h (batch, m), c (batch, m)

    Keeps x, the weights, the gates and all states until the backward pass.

    Example:
        >>> y, h, c = lstm(np.ones((2, 5, 3)), None, None, np.ones((3, 16)), np.ones((4, 16)))
        >>> y.shape, h.shape, c.shape
        ((2, 5, 4), (2, 4), (2, 4))
    """
    weights, bias_shape = (kernel, recurrent_kernel, bias), (4 * recurrent_kernel.shape[0],)
    options = mask, dropout, go_backwards, zero_output_for_mask
    walk = Walk("lstm", x, (h, c), weights, bias_shape, *options)
    halves = walk.halves(4, 0, 1, 3)
    halved = StateProduct(recurrent_kernel * halves, dropout)
    z = walk.input_product(kernel, bias, halves)
    hs, cs = walk.states(h), walk.states(c)
    tanh_c = walk.steps()
    recurrent = walk.step(4)
    for t in range(walk.time):
        halved.product(hs[t], out=recurrent)
        kernels.lstm_forward(z[t], recurrent, halves, hs[t], cs[t], walk.keep[t], hs[t + 1], cs[t + 1], tanh_c[t])

    def backward(dy, needs):
        state = StateProduct(recurrent_kernel, dropout)
        dy, dh, dc = walk.output_gradients(*dy)
        dz = walk.steps(4)
        for t in reversed(range(walk.time)):
            walk.add_output_gradient(dh, dy, t)
            kernels.lstm_backward(dh, dc, z[t], cs[t], tanh_c[t], walk.keep[t], dz[t])
            dh = _through(dh, state.gradient(dz[t]), walk.keep[t])
        rows = walk.rows(dz)
        return (
            walk.input_gradient(rows, kernel) if needs.x else None,
            state_gradient(dh, h) if needs.h else None,
            state_gradient(dc, c) if needs.c else None,
            walk.kernel_gradient(rows) if needs.kernel else None,
            state.kernel_gradient(hs[:-1], rows) if needs.recurrent_kernel else None,
            column_sums(rows) if needs.bias else None,
            None,
            None,
        )

    return (walk.outputs(hs), hs[-1], cs[-1]), backward


@op
def gru(
    x,
    h,
    kernel,
    recurrent_kernel,
    bias=None,
    mask=None,
    dropout=None,
    /,
    reset_after=True,
    go_backwards=False,
    zero_output_for_mask=False,
):
    """Gated recurrent unit (Cho et al., 2014), gates in the order z, r, candidate.

        z, r = σ(x_t · kernel + h_{t-1} · recurrent_kernel + bias)
        candidate = tanh(x_t · kernel + bias + r (h_{t-1} · recurrent_kernel + second bias))
        h_t = z h_{t-1} + (1 - z) candidate

    The candidate is that of reset_after; otherwise the reset gate comes before the product:

        candidate = tanh(x_t · kernel + bias + (r h_{t-1}) · recurrent_kernel)

    Shapes:
        x (batch, time, n), h (batch, m), kernel (n, 3m), recurrent_kernel (m, 3m),
        bias (2, 3m) for input and state where reset_after, else (3m,), mask (batch, time),
        dropout (3, batch, m)  ->  y (batch, time, m), h (batch, m)

    Keeps x, the weights, the gates and all states until the backward pass.

    Example:
        >>> y, h = gru(np.ones((2, 5, 3)), None, np.ones((3, 12)), np.ones((4, 12)))
        >>> y.shape, h.shape
        ((2, 5, 4), (2, 4))
    """
    columns = 3 * recurrent_kernel.shape[0]
    weights, bias_shape = (
        (kernel, recurrent_kernel, bias),
        (2, columns) if reset_after else (columns,),
    )
    options = mask, dropout, go_backwards, zero_output_for_mask
    walk = Walk("gru", x, (h,), weights, bias_shape, *options)
    form = _gru_reset_after if reset_after else _gru_reset_before
    return form(walk, h, kernel, recurrent_kernel, bias, dropout)


def _gru_reset_after(walk, h, kernel, recurrent_kernel, bias, dropout):
    units = walk.units
    halves = walk.halves(3, 0, 1)
    halved = StateProduct(recurrent_kernel * halves, dropout)
    recurrent_bias = None if bias is None else bias[1] * halves
    z = walk.input_product(kernel, None if bias is None else bias[0], halves)
    hs = walk.states(h)
    recurrent = walk.steps(3)
    for t in range(walk.time):
        step = recurrent[t]
        halved.product(hs[t], out=step)
        if bias is not None:
            step += recurrent_bias
        kernels.gru_after_forward(z[t], step, hs[t], walk.keep[t], hs[t + 1])

    def backward(dy, needs):
        state = StateProduct(recurrent_kernel, dropout)
        dy, dh = walk.output_gradients(*dy)
        # Columns: candidate, z, r, candidate times r. The input sees the first three, the state
        # the last three.
        dz = walk.steps(4)
        for t in reversed(range(walk.time)):
            walk.add_output_gradient(dh, dy, t)
            candidate = recurrent[t][:, 2 * units :]
            kernels.gru_after_backward(dh, z[t], candidate, hs[t], walk.keep[t], dz[t])
            dh += state.gradient(dz[t][:, units:])
        xp = devices.array_module(dz)
        rows = walk.rows(dz)
        into_x, into_h = rows[:, : 3 * units], rows[:, units:]
        dx = dkernel = dbias = None
        if needs.x and kernel is None:
            in_order = xp.concatenate([into_x[:, units:], into_x[:, :units]], axis=1)
            dx = walk.input_gradient(in_order, None)
        elif needs.x:
            rolled = xp.concatenate([kernel[:, 2 * units :], kernel[:, : 2 * units]], axis=1)
            dx = walk.input_gradient(into_x, rolled)
        if needs.kernel:
            d = walk.kernel_gradient(into_x)
            dkernel = xp.concatenate([d[:, units:], d[:, :units]], axis=1)
        if needs.bias:
            d = column_sums(rows)
            dbias = xp.stack([xp.concatenate([d[units : 3 * units], d[:units]]), d[units:]])
        return (
            dx,
            state_gradient(dh, h) if needs.h else None,
            dkernel,
            state.kernel_gradient(hs[:-1], into_h) if needs.recurrent_kernel else None,
            dbias,
            None,
            None,
        )

    return (walk.outputs(hs), hs[-1]), backward


def _gru_reset_before(walk, h, kernel, recurrent_kernel, bias, dropout):
    units = walk.units
    halves = walk.halves(3, 0, 1)
    of_gates, of_candidate = recurrent_kernel[:, : 2 * units], recurrent_kernel[:, 2 * units :]
    gate_masks, candidate_mask = (None, None) if dropout is None else (dropout[:2], dropout[2])
    halved = StateProduct(of_gates * 0.5, gate_masks)
    z = walk.input_product(kernel, bias, halves)
    hs = walk.states(h)
    reset_h = walk.steps()  # r h, dropped
    recurrent = walk.step(2)
    xp = devices.array_module(z)
    for t in range(walk.time):
        gates, candidate = z[t][:, : 2 * units], z[t][:, 2 * units :]
        halved.product(hs[t], out=recurrent)
        gates += recurrent
        kernels.sigmoid_of_half(gates)
        dropped = reset_h[t]
        xp.multiply(gates[:, units:], hs[t], out=dropped)
        if candidate_mask is not None:
            dropped *= candidate_mask
        candidate += blas.matmul(dropped, of_candidate)
        xp.tanh(candidate, out=candidate)
        kernels.gru_mix(gates[:, :units], candidate, hs[t], walk.keep[t], hs[t + 1])

    def backward(dy, needs):
        state = StateProduct(of_gates, gate_masks)
        dy, dh = walk.output_gradients(*dy)
        dz = walk.steps(3)
        for t in reversed(range(walk.time)):
            walk.add_output_gradient(dh, dy, t)
            kernels.gru_before_backward(dh, z[t], hs[t], walk.keep[t], dz[t])
            d_reset, reset = dz[t][:, units : 2 * units], z[t][:, units : 2 * units]
            d_reset_h = blas.matmul(dz[t][:, 2 * units :], of_candidate.T)
            if candidate_mask is not None:
                d_reset_h *= candidate_mask
            d_reset_h *= reset
            dh += d_reset_h
            xp.subtract(1, reset, out=d_reset)
            d_reset *= d_reset_h
            d_reset *= hs[t]
            dh += state.gradient(dz[t][:, : 2 * units])
        rows = walk.rows(dz)
        drecurrent = None
        if needs.recurrent_kernel:
            into_gates = state.kernel_gradient(hs[:-1], rows[:, : 2 * units])
            into_candidate = blas.matmul(walk.rows(reset_h).T, rows[:, 2 * units :])
            drecurrent = xp.concatenate([into_gates, into_candidate], axis=1)
        return (
            walk.input_gradient(rows, kernel) if needs.x else None,
            state_gradient(dh, h) if needs.h else None,
            walk.kernel_gradient(rows) if needs.kernel else None,
            drecurrent,
            column_sums(rows) if needs.bias else None,
            None,
            None,
        )

    return (walk.outputs(hs), hs[-1]), backward


def _through(dh, d_before, keep):
    """The gradient of the state before a step: through the cell, and past it where it is masked."""
    if keep is None:
        return d_before
    dh += d_before
    return dh
