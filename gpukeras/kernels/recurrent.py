"""The recurrent cells' walks through time, forwards and backwards, over whole sequences.

What the walks have in common:

- Arrays run (time, batch, ...); `gates` begin with one axis more, of slots (slots, time, batch, units), so that
  what a step reads and writes lies in few long pieces.
- `fill` is a function of a slice of steps, or None: it puts the input's part of their pre-activations into the gates'
  first slots, where they are already without it. The walk adds the state's part and leaves the gates there.
- Pre-activations of sigmoid gates arrive halved, ``σ(z) = ½ tanh(½ z) + ½``: the halves are in the weights. NumPy's
  tanh takes half the time of its exp, all gates share one call, and nothing overflows.
- h (time + 1, batch, units) holds the state before each step and after the last; h[0] is given.
- kernel multiplies the state: forwards one matrix per gate (gates, units, units), in the order of the slots and
  halved as above; backwards the whole matrix (units, gates · units) as the layer has it.
- dropout (gates, batch, units) are masks by which each gate's view of the state is multiplied, or None; in the
  kernel's order.
- keep (time, batch, 1) is False where a step is masked, or None: there the new state is the old one, and its
  gradient passes by the cell untouched.
- Backwards, dz (time, batch, columns) takes the gradients of the pre-activations; dh (and dc) hold the gradients of
  the last states and end as those of the first; dy (time, batch, units) are those of all outputs, or None.
- Backwards, `sums` are functions of a slice of steps. Each is called for runs of steps of which dz is complete; the
  walk returns for each the sum of what it returned, or None. So come the weights' gradients, and dx.

On the CPU a step is counted in NumPy calls: forwards 9 for the LSTM and 12 for the GRU; backwards all that does not
depend on the running gradient is computed for several steps at once, and a step is left with 5. How
two cores find work is in `gpukeras.kernels.walks`.
"""

import itertools

import numpy as np

from gpukeras.backend import blas, cuda, devices
from gpukeras.kernels.kernel import kernel
from gpukeras.kernels.walks import (
    backward_product,
    backwards,
    by_gate,
    fill_all,
    forward_product,
    forwards,
    numbers_of,
    steps_of,
    whole,
)

__all__ = [
    "gru_after_backward",
    "gru_after_forward",
    "gru_before_backward",
    "gru_before_forward",
    "lstm_backward",
    "lstm_forward",
    "simple_rnn_backward",
    "simple_rnn_forward",
]

_CUDA = cuda.Source("recurrent")


# --- What the references share -------------------------------------------------------------------------------------


def _sigmoid_of_halved(z):
    """1 / (1 + exp(-2 z))."""
    return 0.5 * devices.array_module(z).tanh(z) + 0.5


def _state_product(h, kernel, dropout):
    """h · kernel for each gate (gates, batch, units)."""
    return blas.matmul(h if dropout is None else h * dropout, kernel)


def _state_gradient(dz, kernel, dropout):
    """The gradient of the state that one step's product saw, from that of its pre-activations (batch, columns)."""
    if dropout is None:
        return blas.matmul(dz, kernel.T)
    parts = blas.matmul(by_gate(dz, len(dropout)), by_gate(kernel, len(dropout)).swapaxes(1, 2))
    return (parts * dropout).sum(axis=0)


def _where_kept(keep, t, new, old):
    return new if keep is None else devices.array_module(new).where(keep[t], new, old)


def _step_back(t, dz, direct, dh, kernel, dropout, keep, first=0, last=None):
    """dz is cleared where the step is masked; dh ← direct + dz · kernelᵀ, or as it was where masked."""
    if keep is not None:
        dz *= keep[t]
    dh[...] = _where_kept(keep, t, direct + _state_gradient(dz[:, first:last], kernel, dropout), dh)


# --- What the forms for the GPU share --------------------------------------------------------------------------------


def _in_one_piece(array):
    """The array, if there is one, C-contiguous."""
    return None if array is None else devices.array_module(array).ascontiguousarray(array)


def _product(h, kernel, dropout):
    """`_state_product` in the dtype of h, which NumPy's products of bfloat16 do not have."""
    return _state_product(h, kernel, dropout).astype(h.dtype, copy=False)


def _walk_back(step, direct, dz, dh, keep, sums):
    """Call ``through = step(t, *running)`` for all steps, the last one first, and complete dh after it.

    A step's CUDA kernel takes `running` after the number of elements: units, t, time, keep, through, direct. With the
    last two it makes dh from what the step that was called before has left (`completed` in recurrent.cu).
    """
    through, time, units = None, len(dz), dh.shape[1]
    for t in reversed(range(time)):
        through = step(t, units, t, time, keep, through, direct).astype(dh.dtype, copy=False)
    if through is not None:
        _CUDA.singly("last_gradient", dh, units, time, keep, through, direct, dh)
    return whole(sums, time)


# --- Elman network -------------------------------------------------------------------------------------------------


@kernel
def simple_rnn_forward(gates, h, kernel, dropout, keep, fill=None):
    """h_{t+1} ← tanh(z_t + h_t · kernel), with z in the one slot of the gates."""
    fill_all(fill, gates)
    for t in range(gates.shape[1]):
        z = gates[0, t] + _state_product(h[t], kernel, dropout)[0]
        h[t + 1] = _where_kept(keep, t, devices.array_module(z).tanh(z), h[t])


@simple_rnn_forward.cpu
def simple_rnn_forward(gates, h, kernel, dropout, keep, fill=None):
    def walk(rows, runs):
        z, hs = list(gates[0, :, rows]), list(h[:, rows])
        (recurrent,), multiply = forward_product(kernel, dropout, rows, hs[0])
        masked = None if keep is None else ~keep[:, rows]
        for t in itertools.chain.from_iterable(runs):
            multiply(hs[t])
            np.add(recurrent, z[t], out=recurrent)
            np.tanh(recurrent, out=hs[t + 1])
            if masked is not None:
                np.copyto(hs[t + 1], hs[t], where=masked[t])

    forwards(walk, 1, gates, fill)


@simple_rnn_forward.cuda(strided=("kernel", "dropout", "keep"))
def simple_rnn_forward(gates, h, kernel, dropout, keep, fill=None):
    fill_all(fill, gates)
    _, time, _, units = gates.shape
    keep = _in_one_piece(keep)
    for t in range(time):
        _CUDA.singly("simple_rnn_step", h[t], units, t, time, _product(h[t], kernel, dropout), keep, gates, h)


@simple_rnn_forward.samples
def simple_rnn_forward(random, dtype):
    for dropout, keep in _options(random, dtype, 1):
        yield random((1, 3, 5, 7), dtype), random((4, 5, 7), dtype), _small(random, (1, 7, 7), dtype), dropout, keep


@kernel
def simple_rnn_backward(dz, dy, dh, h, kernel, dropout, keep, sums=()):
    """dz ← dh (1 - h²)."""
    for t in reversed(range(len(dz))):
        if dy is not None:
            dh += dy[t]
        dz[t] = dh * (1 - h[t + 1] * h[t + 1])
        _step_back(t, dz[t], 0, dh, kernel, dropout, keep)
    return whole(sums, len(dz))


@simple_rnn_backward.cpu
def simple_rnn_backward(dz, dy, dh, h, kernel, dropout, keep, sums=()):
    kept, passes = numbers_of(keep, dz.dtype)
    one = np.array(1, dz.dtype)

    def prepare(steps, factors):
        (slope,), after = factors, h[1:][steps]
        np.multiply(after, after, out=slope)
        np.subtract(one, slope, out=slope)
        if kept is not None:
            slope *= kept[steps]

    def walk(runs):
        multiply, passed = backward_product(kernel, dropout, dh), np.empty_like(dh)
        for start, stop, slopes in runs:
            for t in range(stop - 1, start - 1, -1):
                out = dz[t]
                if dy is not None:
                    np.add(dh, dy[t], out=dh)
                np.multiply(slopes[t - start], dh, out=out)
                if passes is not None:
                    np.multiply(dh, passes[t], out=passed)
                multiply(out)
                if passes is not None:
                    np.add(dh, passed, out=dh)

    return backwards(walk, dz, dh.shape[1], sums, 1, prepare, lambda room: list(room[0]))


@simple_rnn_backward.cuda(strided=("kernel", "dropout", "keep", "dy"))
def simple_rnn_backward(dz, dy, dh, h, kernel, dropout, keep, sums=()):
    dy, keep = _in_one_piece(dy), _in_one_piece(keep)

    def step(t, *running):
        _CUDA.singly("simple_rnn_step_back", dh, *running, dy, h, dh, dz)
        return _state_gradient(dz[t], kernel, dropout)

    return _walk_back(step, None, dz, dh, keep, sums)


@simple_rnn_backward.samples
def simple_rnn_backward(random, dtype):
    for dropout, keep in _options(random, dtype, 1):
        for dy in (None, random((3, 5, 7), dtype)):
            dh, h = random((5, 7), dtype), _small(random, (4, 5, 7), dtype)
            yield random((3, 5, 7), dtype), dy, dh, h, _small(random, (7, 7), dtype), dropout, keep


# --- LSTM ----------------------------------------------------------------------------------------------------------


@kernel
def lstm_forward(gates, h, c, kernel, dropout, keep, fill=None):
    """The gates i, f, o and g; then c ← f c + i g and h ← o tanh(c).

    Slots of the gates: i, f, o, g, the c before the step, tanh of the c after it. c (batch, units) comes as the first
    and ends as the last.
    """
    xp = devices.array_module(gates)
    fill_all(fill, gates)
    for t in range(gates.shape[1]):
        z = gates[:4, t] + _state_product(h[t], kernel, dropout)
        (i, f, o), g = _sigmoid_of_halved(z[:3]), xp.tanh(z[3])
        after = f * c + i * g
        tanh_c = xp.tanh(after)
        for slot, value in enumerate((i, f, o, g, c, tanh_c)):
            gates[slot, t] = value
        h[t + 1] = _where_kept(keep, t, o * tanh_c, h[t])
        c[...] = _where_kept(keep, t, after, c)


@lstm_forward.cpu
def lstm_forward(gates, h, c, kernel, dropout, keep, fill=None):
    half = np.array(0.5, gates.dtype)

    def walk(rows, runs):
        block, hs = gates[:, :, rows], list(h[:, rows])
        z, i_f_o, i_f, g_c = steps_of(block[:4]), steps_of(block[:3]), steps_of(block[:2]), steps_of(block[3:5])
        o, tanh_c = list(block[2]), list(block[5])
        cs = [*block[4], c[rows]]  # before each step and after the last
        cs[0][...] = cs[-1]
        recurrent, multiply = forward_product(kernel, dropout, rows, hs[0])
        both = np.empty((2, *hs[0].shape), h.dtype)
        i_g, f_c = both
        masked = None if keep is None else ~keep[:, rows]
        for t in itertools.chain.from_iterable(runs):
            sigmoids, after = i_f_o[t], cs[t + 1]
            multiply(hs[t])
            np.add(recurrent, z[t], out=recurrent)
            np.tanh(recurrent, out=z[t])
            np.multiply(sigmoids, half, out=sigmoids)
            np.add(sigmoids, half, out=sigmoids)
            np.multiply(i_f[t], g_c[t], out=both)
            np.add(i_g, f_c, out=after)
            np.tanh(after, out=tanh_c[t])
            np.multiply(o[t], tanh_c[t], out=hs[t + 1])
            if masked is not None:
                np.copyto(hs[t + 1], hs[t], where=masked[t])
                np.copyto(after, cs[t], where=masked[t])

    forwards(walk, 4, gates, fill)


@lstm_forward.cuda(strided=("kernel", "dropout", "keep"), wide=("c",))
def lstm_forward(gates, h, c, kernel, dropout, keep, fill=None):
    fill_all(fill, gates)
    _, time, _, units = gates.shape
    keep = _in_one_piece(keep)
    for t in range(time):
        _CUDA.singly("lstm_step", h[t], units, t, time, _product(h[t], kernel, dropout), keep, gates, h, c)


@lstm_forward.samples
def lstm_forward(random, dtype):
    for dropout, keep in _options(random, dtype, 4):
        h, c = random((4, 5, 7), dtype), random((5, 7), dtype)
        yield random((6, 3, 5, 7), dtype), h, c, _small(random, (4, 7, 7), dtype), dropout, keep


@kernel
def lstm_backward(dz, dy, dh, dc, gates, kernel, dropout, keep, sums=()):
    """Columns of dz: i, f, g, o, as in the kernel.

    do = dh tanh(c),  dc += dh o (1 - tanh²(c)),  di = dc g,  df = dc c_before,  dg = dc i
    dz = those times the gate's slope;  dc ← dc f
    """
    xp = devices.array_module(dz)
    for t in reversed(range(len(dz))):
        if dy is not None:
            dh += dy[t]
        i, f, o, g, before, tanh_c = [gates[slot, t] for slot in range(6)]
        d = dc + dh * o * (1 - tanh_c * tanh_c)
        di, df, dg, do = d * g * i * (1 - i), d * before * f * (1 - f), d * i * (1 - g * g), dh * tanh_c * o * (1 - o)
        dz[t] = xp.concatenate([di, df, dg, do], axis=1)
        dc[...] = _where_kept(keep, t, d * f, dc)
        _step_back(t, dz[t], 0, dh, kernel, dropout, keep)
    return whole(sums, len(dz))


@lstm_backward.cpu
def lstm_backward(dz, dy, dh, dc, gates, kernel, dropout, keep, sums=()):
    kept, passes = numbers_of(keep, dz.dtype)

    def prepare(steps, factors):
        _lstm_factors(gates[:, steps], factors)
        if kept is not None and passes is not None:
            factors *= kept[steps]
            factors[0] += passes[steps]

    def walk(runs):
        multiply, passed, dc_now = backward_product(kernel, dropout, dh), np.empty_like(dh), np.empty_like(dc)
        # What a step computes, in the factors' order: from dc its rest and di, df, dg; from dh do and a part of dc.
        parts = np.zeros((6, *dh.shape), dh.dtype)
        from_dc, from_dh, into_dz, rest, part = parts[:4], parts[4:], parts[1:5], parts[0], parts[5]
        rest[...] = dc
        for start, stop, (of_dc, of_dh) in runs:
            for t in range(stop - 1, start - 1, -1):
                out = dz[t]
                if dy is not None:
                    np.add(dh, dy[t], out=dh)
                np.multiply(of_dh[t - start], dh, out=from_dh)
                np.add(rest, part, out=dc_now)
                np.multiply(of_dc[t - start], dc_now, out=from_dc)
                np.copyto(by_gate(out, 4), into_dz)
                if passes is not None:
                    np.multiply(dh, passes[t], out=passed)
                multiply(out)
                if passes is not None:
                    np.add(dh, passed, out=dh)
        dc[...] = rest

    return backwards(walk, dz, dh.shape[1], sums, 6, prepare, lambda room: (steps_of(room[:4]), steps_of(room[4:])))


def _lstm_factors(gates, factors):
    """What dc and dh are multiplied by at each of several steps.

    dc: f, g i (1 - i), c_before f (1 - f), i (1 - g²);  dh: tanh(c) o (1 - o), o (1 - tanh²(c))
    """
    np.multiply(gates[:2], gates[:2], out=factors[1:3])
    np.multiply(gates[2:4], gates[2:4], out=factors[4:2:-1])
    np.multiply(gates[5], gates[5], out=factors[5])
    np.subtract(gates[:2], factors[1:3], out=factors[1:3])  # of i and f: σ' = σ - σ²
    np.subtract(gates[2], factors[4], out=factors[4])
    np.subtract(1, factors[3::2], out=factors[3::2])  # of g and c: tanh' = 1 - tanh²
    factors[1:3] *= gates[3:5]
    factors[3::2] *= gates[:3:2]
    factors[4] *= gates[5]
    factors[0] = gates[1]


@lstm_backward.cuda(strided=("kernel", "dropout", "keep", "dy"), wide=("dc",))
def lstm_backward(dz, dy, dh, dc, gates, kernel, dropout, keep, sums=()):
    dy, keep = _in_one_piece(dy), _in_one_piece(keep)

    def step(t, *running):
        _CUDA.singly("lstm_step_back", dh, *running, dy, gates, dh, dc, dz)
        return _state_gradient(dz[t], kernel, dropout)

    return _walk_back(step, None, dz, dh, keep, sums)


@lstm_backward.samples
def lstm_backward(random, dtype):
    for dropout, keep in _options(random, dtype, 4):
        for dy in (None, random((3, 5, 7), dtype)):
            dh, dc, gates = random((5, 7), dtype), random((5, 7), dtype), _small(random, (6, 3, 5, 7), dtype)
            yield random((3, 5, 28), dtype), dy, dh, dc, gates, _small(random, (7, 28), dtype), dropout, keep


# --- GRU, the reset gate after the product -------------------------------------------------------------------------


@kernel
def gru_after_forward(gates, h, kernel, bias, dropout, keep, fill=None):
    """The gates z, r and the candidate = tanh(z + r recurrent); h ← z h + (1 - z) candidate.

    Slots of the gates: z, r, the candidate, and the candidate's recurrent part, the state's product plus bias (units,).
    """
    xp = devices.array_module(gates)
    fill_all(fill, gates)
    for t in range(gates.shape[1]):
        product = _state_product(h[t], kernel, dropout)
        z, r = _sigmoid_of_halved(gates[:2, t] + product[:2])
        recurrent = product[2] if bias is None else product[2] + bias
        candidate = xp.tanh(gates[2, t] + r * recurrent)
        for slot, value in enumerate((z, r, candidate, recurrent)):
            gates[slot, t] = value
        h[t + 1] = _where_kept(keep, t, z * (h[t] - candidate) + candidate, h[t])


@gru_after_forward.cpu
def gru_after_forward(gates, h, kernel, bias, dropout, keep, fill=None):
    half = np.array(0.5, gates.dtype)

    def walk(rows, runs):
        block, hs = gates[:, :, rows], list(h[:, rows])
        z_r, (z, r, candidates, recurrents) = steps_of(block[:2]), [list(slot) for slot in block]
        product, multiply = forward_product(kernel, dropout, rows, hs[0])
        two, part = product[:2], product[2]
        wide_bias = np.zeros_like(part)  # one row for each sequence: no broadcast within the loop
        if bias is not None:
            wide_bias += bias
        masked = None if keep is None else ~keep[:, rows]
        for t in itertools.chain.from_iterable(runs):
            candidate, recurrent, after = candidates[t], recurrents[t], hs[t + 1]
            multiply(hs[t])
            np.add(two, z_r[t], out=two)
            np.tanh(two, out=z_r[t])
            np.multiply(z_r[t], half, out=z_r[t])
            np.add(z_r[t], half, out=z_r[t])
            np.add(part, wide_bias, out=recurrent)
            np.multiply(recurrent, r[t], out=part)
            np.add(part, candidate, out=part)
            np.tanh(part, out=candidate)
            np.subtract(hs[t], candidate, out=part)
            np.multiply(part, z[t], out=part)
            np.add(part, candidate, out=after)
            if masked is not None:
                np.copyto(after, hs[t], where=masked[t])

    forwards(walk, 3, gates, fill)


@gru_after_forward.cuda(strided=("kernel", "dropout", "keep"))
def gru_after_forward(gates, h, kernel, bias, dropout, keep, fill=None):
    fill_all(fill, gates)
    _, time, _, units = gates.shape
    keep = _in_one_piece(keep)
    for t in range(time):
        product = _product(h[t], kernel, dropout)
        _CUDA.singly("gru_after_step", h[t], units, t, time, product, bias, keep, gates, h)


@gru_after_forward.samples
def gru_after_forward(random, dtype):
    for dropout, keep in _options(random, dtype, 3):
        for bias in (None, random((7,), dtype)):
            h, kernel = random((4, 5, 7), dtype), _small(random, (3, 7, 7), dtype)
            yield random((4, 3, 5, 7), dtype), h, kernel, bias, dropout, keep


@kernel
def gru_after_backward(dz, dy, dh, gates, h, kernel, dropout, keep, sums=()):
    """Columns of dz: candidate, z, r, and the candidate's recurrent part. The state sees the last three.

    d_candidate = dh (1 - z) (1 - candidate²),  d_recurrent = d_candidate r,
    d_z = dh (h - candidate) z (1 - z),  d_r = d_candidate recurrent r (1 - r)
    """
    xp = devices.array_module(dz)
    for t in reversed(range(len(dz))):
        if dy is not None:
            dh += dy[t]
        z, r, candidate, recurrent = [gates[slot, t] for slot in range(4)]
        d_candidate = dh * (1 - z) * (1 - candidate * candidate)
        d_z, d_r = dh * (h[t] - candidate) * z * (1 - z), d_candidate * recurrent * r * (1 - r)
        dz[t] = xp.concatenate([d_candidate, d_z, d_r, d_candidate * r], axis=1)
        _step_back(t, dz[t], dh * z, dh, kernel, dropout, keep, first=dh.shape[1])
    return whole(sums, len(dz))


@gru_after_backward.cpu
def gru_after_backward(dz, dy, dh, gates, h, kernel, dropout, keep, sums=()):
    units = dh.shape[1]
    kept, passes = numbers_of(keep, dz.dtype)

    def prepare(steps, factors):
        _gru_after_factors(gates[:, steps], h[:-1][steps], factors)
        if kept is not None and passes is not None:
            factors *= kept[steps]
            factors[0] += passes[steps]

    def walk(runs):
        through, parts = np.empty_like(dh), np.empty((5, *dh.shape), dh.dtype)
        multiply = backward_product(kernel, dropout, through)
        direct, into_dz = parts[0], parts[1:]
        for start, stop, of_dh in runs:
            for t in range(stop - 1, start - 1, -1):
                out = dz[t]
                if dy is not None:
                    np.add(dh, dy[t], out=dh)
                np.multiply(of_dh[t - start], dh, out=parts)
                np.copyto(by_gate(out, 4), into_dz)
                multiply(out[:, units:])
                np.add(direct, through, out=dh)

    return backwards(walk, dz, units, sums, 5, prepare, steps_of)


def _gru_after_factors(gates, h, factors):
    """What dh is multiplied by at each of several steps: z, then the factors of dz's columns."""
    z, r, candidate, recurrent = gates
    rest, of_candidate, of_z, of_r, of_recurrent = factors
    np.subtract(1, z, out=rest)
    np.multiply(candidate, candidate, out=of_candidate)
    np.subtract(1, of_candidate, out=of_candidate)
    of_candidate *= rest
    np.subtract(h, candidate, out=of_z)
    of_z *= z
    of_z *= rest
    np.multiply(of_candidate, r, out=of_recurrent)
    np.subtract(1, r, out=of_r)
    of_r *= recurrent
    of_r *= of_recurrent
    rest[...] = z


@gru_after_backward.cuda(strided=("kernel", "dropout", "keep", "dy"))
def gru_after_backward(dz, dy, dh, gates, h, kernel, dropout, keep, sums=()):
    dy, keep = _in_one_piece(dy), _in_one_piece(keep)
    units, direct = dh.shape[1], devices.array_module(dh).empty_like(dh)

    def step(t, *running):
        _CUDA.singly("gru_after_step_back", dh, *running, dy, gates, h, dh, dz)
        return _state_gradient(dz[t][:, units:], kernel, dropout)

    return _walk_back(step, direct, dz, dh, keep, sums)


@gru_after_backward.samples
def gru_after_backward(random, dtype):
    for dropout, keep in _options(random, dtype, 3):
        for dy in (None, random((3, 5, 7), dtype)):
            dh, gates, h = random((5, 7), dtype), _small(random, (4, 3, 5, 7), dtype), random((4, 5, 7), dtype)
            yield random((3, 5, 28), dtype), dy, dh, gates, h, _small(random, (7, 21), dtype), dropout, keep


# --- GRU, the reset gate before the product ------------------------------------------------------------------------


@kernel
def gru_before_forward(gates, h, kernel, dropout, keep, fill=None):
    """The gates z, r and the candidate = tanh(z + (r h) · kernel); h ← z h + (1 - z) candidate.

    Slots of the gates: z, r, the candidate, and r h, dropped. The kernel's last matrix is that of the candidate.
    """
    xp = devices.array_module(gates)
    fill_all(fill, gates)
    for t in range(gates.shape[1]):
        product = _state_product(h[t], kernel[:2], None if dropout is None else dropout[:2])
        z, r = _sigmoid_of_halved(gates[:2, t] + product)
        reset = r * h[t] if dropout is None else r * h[t] * dropout[2]
        candidate = xp.tanh(gates[2, t] + blas.matmul(reset, kernel[2]))
        for slot, value in enumerate((z, r, candidate, reset)):
            gates[slot, t] = value
        h[t + 1] = _where_kept(keep, t, z * (h[t] - candidate) + candidate, h[t])


@gru_before_forward.cpu
def gru_before_forward(gates, h, kernel, dropout, keep, fill=None):
    half = np.array(0.5, gates.dtype)
    of_gates, of_candidate = kernel[:2], kernel[2]
    gate_masks, candidate_masks = (None, None) if dropout is None else (dropout[:2], dropout[2])

    def walk(rows, runs):
        block, hs = gates[:, :, rows], list(h[:, rows])
        z_r, (z, r, candidates, resets) = steps_of(block[:2]), [list(slot) for slot in block]
        two, multiply = forward_product(of_gates, gate_masks, rows, hs[0])
        masks = None if candidate_masks is None else candidate_masks[rows]
        masked = None if keep is None else ~keep[:, rows]
        part = np.empty_like(hs[0])
        for t in itertools.chain.from_iterable(runs):
            candidate, reset, after = candidates[t], resets[t], hs[t + 1]
            multiply(hs[t])
            np.add(two, z_r[t], out=two)
            np.tanh(two, out=z_r[t])
            np.multiply(z_r[t], half, out=z_r[t])
            np.add(z_r[t], half, out=z_r[t])
            np.multiply(r[t], hs[t], out=reset)
            if masks is not None:
                np.multiply(reset, masks, out=reset)
            np.dot(reset, of_candidate, out=part)
            np.add(part, candidate, out=part)
            np.tanh(part, out=candidate)
            np.subtract(hs[t], candidate, out=part)
            np.multiply(part, z[t], out=part)
            np.add(part, candidate, out=after)
            if masked is not None:
                np.copyto(after, hs[t], where=masked[t])

    forwards(walk, 3, gates, fill)


@gru_before_forward.cuda(strided=("kernel", "keep"))
def gru_before_forward(gates, h, kernel, dropout, keep, fill=None):
    fill_all(fill, gates)
    _, time, _, units = gates.shape
    reset = devices.array_module(h).empty_like(h[0])
    of_gates = None if dropout is None else dropout[:2]
    keep = _in_one_piece(keep)
    for t in range(time):
        product = _product(h[t], kernel[:2], of_gates)
        _CUDA.singly("gru_before_reset", reset, units, t, time, product, dropout, gates, h, reset)
        product = blas.matmul(reset, kernel[2]).astype(h.dtype, copy=False)
        _CUDA.singly("gru_before_step", reset, units, t, time, product, keep, gates, h)


@gru_before_forward.samples
def gru_before_forward(random, dtype):
    for dropout, keep in _options(random, dtype, 3):
        yield random((4, 3, 5, 7), dtype), random((4, 5, 7), dtype), _small(random, (3, 7, 7), dtype), dropout, keep


@kernel
def gru_before_backward(dz, dy, dh, gates, h, kernel, dropout, keep, sums=()):
    """Columns of dz: z, r, candidate. The state sees the first two, r h the last.

    d_candidate = dh (1 - z) (1 - candidate²),  d_reset_h = d_candidate · kernelᵀ,
    d_z = dh (h - candidate) z (1 - z),  d_r = d_reset_h h r (1 - r)
    """
    xp = devices.array_module(dz)
    columns = 2 * dh.shape[1]  # of z and r
    gate_masks, candidate_masks = (None, None) if dropout is None else (dropout[:2], dropout[2])
    for t in reversed(range(len(dz))):
        if dy is not None:
            dh += dy[t]
        z, r, candidate = [gates[slot, t] for slot in range(3)]
        d_candidate = dh * (1 - z) * (1 - candidate * candidate)
        d_reset_h = blas.matmul(d_candidate, kernel[:, columns:].T)
        if candidate_masks is not None:
            d_reset_h *= candidate_masks
        d_z, d_r = dh * (h[t] - candidate) * z * (1 - z), d_reset_h * h[t] * r * (1 - r)
        dz[t] = xp.concatenate([d_z, d_r, d_candidate], axis=1)
        direct = dh * z + d_reset_h * r
        _step_back(t, dz[t], direct, dh, kernel[:, :columns], gate_masks, keep, last=columns)
    return whole(sums, len(dz))


@gru_before_backward.cpu
def gru_before_backward(dz, dy, dh, gates, h, kernel, dropout, keep, sums=()):
    units = dh.shape[1]
    kept, passes = numbers_of(keep, dz.dtype)
    of_gates, of_candidate = kernel[:, : 2 * units], kernel[:, 2 * units :].T
    gate_masks, masks = (None, None) if dropout is None else (dropout[:2], dropout[2])

    # Factors of dh and of d_reset_h in turn: then dz's columns come first, and each kind lies in even strides.
    def prepare(steps, factors):
        _gru_before_factors(gates[:, steps], h[:-1][steps], factors)
        if kept is not None and passes is not None:
            factors *= kept[steps]
            factors[4] += passes[steps]

    def walk(runs):
        through, d_reset_h, parts = np.empty_like(dh), np.empty_like(dh), np.empty((5, *dh.shape), dh.dtype)
        multiply = backward_product(of_gates, gate_masks, through)
        from_dh, from_reset, into_dz = parts[::2], parts[1::2], parts[:3]
        d_candidate, from_r, from_z = parts[2:]
        for start, stop, (of_dh, of_reset) in runs:
            for t in range(stop - 1, start - 1, -1):
                out = dz[t]
                if dy is not None:
                    np.add(dh, dy[t], out=dh)
                np.multiply(of_dh[t - start], dh, out=from_dh)
                np.dot(d_candidate, of_candidate, out=d_reset_h)
                if masks is not None:
                    np.multiply(d_reset_h, masks, out=d_reset_h)
                np.multiply(of_reset[t - start], d_reset_h, out=from_reset)
                np.copyto(by_gate(out, 3), into_dz)
                multiply(out[:, : 2 * units])
                np.add(through, from_r, out=through)
                np.add(through, from_z, out=dh)

    return backwards(walk, dz, units, sums, 5, prepare, lambda room: (steps_of(room[::2]), steps_of(room[1::2])))


def _gru_before_factors(gates, h, factors):
    """Factors for the columns z, r and candidate of dz, then for what of r h and of dh reaches the state before."""
    z, r, candidate, _ = gates
    of_z, of_r, of_candidate, of_reset, direct = factors
    np.subtract(1, z, out=direct)
    np.multiply(candidate, candidate, out=of_candidate)
    np.subtract(1, of_candidate, out=of_candidate)
    of_candidate *= direct
    np.subtract(h, candidate, out=of_z)
    of_z *= z
    of_z *= direct
    np.subtract(1, r, out=of_r)
    of_r *= r
    of_r *= h
    of_reset[...] = r
    direct[...] = z


@gru_before_backward.cuda(strided=("kernel", "keep", "dy"))
def gru_before_backward(dz, dy, dh, gates, h, kernel, dropout, keep, sums=()):
    dy, keep = _in_one_piece(dy), _in_one_piece(keep)
    time, units, xp = len(dz), dh.shape[1], devices.array_module(dh)
    d_candidate, direct = xp.empty_like(dh), xp.empty_like(dh)
    of_gates, of_candidate = kernel[:, : 2 * units], kernel[:, 2 * units :].T
    masks = None if dropout is None else dropout[:2]

    def step(t, *running):
        _CUDA.singly("gru_before_candidate_back", dh, *running, dy, gates, h, dh, d_candidate, dz)
        d_reset_h = blas.matmul(d_candidate, of_candidate).astype(dh.dtype, copy=False)
        place = units, t, time, keep
        _CUDA.singly("gru_before_reset_back", dh, *place, d_reset_h, dropout, gates, h, dh, direct, dz)
        return _state_gradient(dz[t][:, : 2 * units], of_gates, masks)

    return _walk_back(step, direct, dz, dh, keep, sums)


@gru_before_backward.samples
def gru_before_backward(random, dtype):
    for dropout, keep in _options(random, dtype, 3):
        for dy in (None, random((3, 5, 7), dtype)):
            dh, gates, h = random((5, 7), dtype), _small(random, (4, 3, 5, 7), dtype), random((4, 5, 7), dtype)
            yield random((3, 5, 21), dtype), dy, dh, gates, h, _small(random, (7, 21), dtype), dropout, keep


def _small(random, shape, dtype):
    """Numbers below 1 as gates and weights are: with larger ones gradients grow from step to step."""
    return 0.3 * random(shape, dtype)


def _options(random, dtype, gates):
    """Masks of dropout and of steps for samples of 3 steps of 5 sequences, 7 units."""
    keep = random((3, 5, 1), dtype) > 0
    for dropout in (None, random((gates, 5, 7), dtype)):
        yield dropout, None
        yield dropout, keep
