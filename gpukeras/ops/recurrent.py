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
from gpukeras.kernels import recurrent as kernels
from gpukeras.ops._recurrence import Gradients, Walk, column_sums, rolled

__all__ = ["gru", "lstm", "simple_rnn"]

# Which gate each slot of the kernels holds, and its factor: pre-activations of sigmoid gates are halved.
_SIMPLE_RNN_SLOTS = ((0, 1),)
_LSTM_SLOTS = ((0, 0.5), (1, 0.5), (3, 0.5), (2, 1))  # i, f, o, g
_GRU_SLOTS = ((0, 0.5), (1, 0.5), (2, 1))  # z, r, candidate


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
    gates, hs = walk.slots(1), walk.states(h)
    fill = walk.input_product(walk.bias, _SIMPLE_RNN_SLOTS, gates)
    kernels.simple_rnn_forward(gates, hs, walk.recurrent_kernel[None], walk.dropout, walk.keep, fill)

    def backward(dy, needs):
        dz, dh = walk.columns(1), walk.state(dy[1])
        found = Gradients(walk, needs, dz, walk.kernel, (hs[:-1], dz, walk.dropout))
        settings = walk.recurrent_kernel, walk.dropout, walk.keep, found.sums().values()
        sums = kernels.simple_rnn_backward(dz, walk.output_gradient(dy[0]), dh, hs, *settings)
        dx, *weights = found.of_sums(sums)
        return dx, _of_state(needs.h, dh, h), *weights, None, None

    return walk.outputs(hs), backward


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
    gates, hs, last_c = walk.slots(6), walk.states(h), walk.state(c, is_wide=True)
    fill = walk.input_product(walk.bias, _LSTM_SLOTS, gates[:4])
    by_slot, masks = walk.by_slot(walk.recurrent_kernel, _LSTM_SLOTS), walk.masks_by_slot(_LSTM_SLOTS)
    kernels.lstm_forward(gates, hs, last_c, by_slot, masks, walk.keep, fill)

    def backward(dy, needs):
        dz, dh, dc = walk.columns(4), walk.state(dy[1]), walk.state(dy[2], is_wide=True)
        found = Gradients(walk, needs, dz, walk.kernel, (hs[:-1], dz, walk.dropout))
        settings = walk.recurrent_kernel, walk.dropout, walk.keep, found.sums().values()
        sums = kernels.lstm_backward(dz, walk.output_gradient(dy[0]), dh, dc, gates, *settings)
        dx, *weights = found.of_sums(sums)
        states = _of_state(needs.h, dh, h), _of_state(needs.c, dc, c)
        return dx, *states, *weights, None, None

    return (*walk.outputs(hs), walk.result(last_c)), backward


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
    return _gru_reset_after(walk, h) if reset_after else _gru_reset_before(walk, h)


def _gru_reset_after(walk, h):
    xp, units, bias = walk.xp, walk.units, walk.bias
    of_input = of_candidate = None
    if bias is not None:
        # The gates see the sum of both biases; the candidate's second one is multiplied by r.
        of_input, of_candidate = bias[0].copy(), bias[1, 2 * units :]
        of_input[: 2 * units] += bias[1, : 2 * units]
    gates, hs = walk.slots(4), walk.states(h)
    fill = walk.input_product(of_input, _GRU_SLOTS, gates[:3])
    by_slot = walk.by_slot(walk.recurrent_kernel, _GRU_SLOTS)
    kernels.gru_after_forward(gates, hs, by_slot, of_candidate, walk.dropout, walk.keep, fill)

    def backward(dy, needs):
        dz, dh = walk.columns(4), walk.state(dy[1])
        # Columns of dz: candidate, z, r, recurrent part of the candidate. The input sees the first three, the state
        # the last three, so that neither is a copy.
        into_x, into_h = dz[:, :, : 3 * units], dz[:, :, units:]
        kernel = None if walk.kernel is None else rolled(walk.kernel, 2 * units)
        of_state = hs[:-1], into_h, walk.dropout
        found = Gradients(walk, needs, into_x, kernel, of_state, rolled=units, has_bias=False)
        settings = walk.recurrent_kernel, walk.dropout, walk.keep, found.sums().values()
        sums = kernels.gru_after_backward(dz, walk.output_gradient(dy[0]), dh, gates, hs, *settings)
        dx, dkernel, drecurrent, dbias = found.of_sums(sums)
        if dbias is not None:
            of_recurrent = walk.result(column_sums(dz[:, :, 3 * units :]))
            dbias = xp.stack([dbias, xp.concatenate([dbias[: 2 * units], of_recurrent])])
        return dx, _of_state(needs.h, dh, h), dkernel, drecurrent, dbias, None, None

    return walk.outputs(hs), backward


def _gru_reset_before(walk, h):
    units, dropout = walk.units, walk.dropout
    gates, hs = walk.slots(4), walk.states(h)
    fill = walk.input_product(walk.bias, _GRU_SLOTS, gates[:3])
    by_slot = walk.by_slot(walk.recurrent_kernel, _GRU_SLOTS)
    kernels.gru_before_forward(gates, hs, by_slot, dropout, walk.keep, fill)

    def backward(dy, needs):
        dz, dh = walk.columns(3), walk.state(dy[1])
        of_gates = hs[:-1], dz[:, :, : 2 * units], None if dropout is None else dropout[:2]
        of_candidate = gates[3], dz[:, :, 2 * units :], None
        found = Gradients(walk, needs, dz, walk.kernel, of_gates, of_candidate)
        settings = walk.recurrent_kernel, dropout, walk.keep, found.sums().values()
        sums = kernels.gru_before_backward(dz, walk.output_gradient(dy[0]), dh, gates, hs, *settings)
        dx, *weights = found.of_sums(sums)
        return dx, _of_state(needs.h, dh, h), *weights, None, None

    return walk.outputs(hs), backward


def _of_state(is_needed, gradient, state):
    """The gradient of an initial state in the state's type, None where not needed."""
    return gradient.astype(state.dtype, copy=False) if is_needed else None
