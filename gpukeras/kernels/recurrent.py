"""One time step of the recurrent cells, all that is not a matrix product: forward and backward, in place.

A step works on a few small arrays that stay in the cache, so every line writes into memory it is handed.
Sigmoids are taken as ``σ(z) = ½ tanh(½z) + ½``: it cannot overflow, and one tanh serves all gates. The halves
inside are folded into the weights by the caller, so pre-activations of sigmoid gates arrive halved.

`keep` is None, or a boolean column (batch, 1) with False where the step is masked: there the new state is
the old one, and its gradient passes by the cell untouched.
"""

from gpukeras.backend import devices
from gpukeras.kernels.kernel import kernel

__all__ = [
    "gru_after_backward",
    "gru_after_forward",
    "gru_before_backward",
    "gru_mix",
    "lstm_backward",
    "lstm_forward",
    "sigmoid_of_half",
    "simple_rnn_backward",
    "simple_rnn_forward",
]


@kernel
def simple_rnn_forward(z, recurrent, h_before, keep, h):
    """h ← tanh(z + recurrent)."""
    xp = devices.array_module(z)
    xp.add(z, recurrent, out=h)
    xp.tanh(h, out=h)
    if keep is not None:
        xp.copyto(h, h_before, where=~keep)


@simple_rnn_forward.samples
def simple_rnn_forward(random, dtype):
    for keep in (None, random((5, 1), dtype) > 0):
        yield (*(random((5, 7), dtype) for _ in range(3)), keep, random((5, 7), dtype))


@kernel
def simple_rnn_backward(dh, h, keep, dz):
    """dz ← dh (1 - h²); dh ← the part that passes by masked rows (only with `keep`)."""
    xp = devices.array_module(dh)
    xp.multiply(h, h, out=dz)
    xp.subtract(1, dz, out=dz)
    xp.multiply(dz, dh, out=dz)
    if keep is not None:
        dz *= keep
        dh *= ~keep


@simple_rnn_backward.samples
def simple_rnn_backward(random, dtype):
    for keep in (None, random((5, 1), dtype) > 0):
        yield random((5, 7), dtype), random((5, 7), dtype), keep, random((5, 7), dtype)


@kernel
def lstm_forward(z, recurrent, halves, h_before, c_before, keep, h, c, tanh_c):
    """The gates i, f, g, o of z + recurrent, left in z; then c ← f c_before + i g and h ← o tanh(c).

    Shapes:
        z, recurrent (batch, 4 units); halves (4 units,) with ½ for i, f, o and 1 for g; others (batch, units)
    """
    xp = devices.array_module(z)
    z += recurrent
    xp.tanh(z, out=z)
    z *= halves
    z += 1 - halves
    units = h.shape[1]
    i, f, g, o = (
        z[:, :units],
        z[:, units : 2 * units],
        z[:, 2 * units : 3 * units],
        z[:, 3 * units :],
    )
    xp.multiply(i, g, out=h)
    xp.multiply(f, c_before, out=c)
    c += h
    xp.tanh(c, out=tanh_c)
    xp.multiply(o, tanh_c, out=h)
    if keep is not None:
        xp.copyto(h, h_before, where=~keep)
        xp.copyto(c, c_before, where=~keep)


@lstm_forward.samples
def lstm_forward(random, dtype):
    halves = abs(random((28,), dtype)) * 0 + 0.5
    halves[14:21] = 1
    for keep in (None, random((5, 1), dtype) > 0):
        wide = [random((5, 28), dtype) for _ in range(2)]
        yield (
            *wide,
            halves,
            random((5, 7), dtype),
            random((5, 7), dtype),
            keep,
            *(random((5, 7), dtype) for _ in range(3)),
        )


@kernel
def lstm_backward(dh, dc, gates, c_before, tanh_c, keep, dz):
    """The gradient of the pre-activations into dz, that of c_before into dc.

        do = dh tanh(c),  dc += dh o (1 - tanh²(c)),  di = dc g,  df = dc c_before,  dg = dc i
        dz = those times the gate's slope;  dc ← dc f

    dh ← the part that passes by masked rows (only with `keep`).
    """
    xp = devices.array_module(dh)
    units = dh.shape[1]
    i, f, g, o = (gates[:, k * units : (k + 1) * units] for k in range(4))
    dz_i, dz_f, dz_g, dz_o = (dz[:, k * units : (k + 1) * units] for k in range(4))
    if keep is not None:
        dh_kept, dc_kept = dh * ~keep, dc * ~keep
        dh *= keep
        dc *= keep
    xp.multiply(gates, gates, out=dz)
    xp.subtract(gates[:, : 2 * units], dz[:, : 2 * units], out=dz[:, : 2 * units])  # σ' = σ - σ²
    xp.subtract(1, dz_g, out=dz_g)
    xp.subtract(o, dz_o, out=dz_o)
    slope = tanh_c * tanh_c
    xp.subtract(1, slope, out=slope)
    slope *= o
    slope *= dh
    dc += slope
    dz_o *= dh
    dz_o *= tanh_c
    dz_i *= g
    dz_f *= c_before
    dz_g *= i
    into_c = dz.reshape(-1, 4, units)[:, :3]
    into_c *= dc[:, None]
    dc *= f
    if keep is not None:
        dh[...] = dh_kept
        dc += dc_kept


@lstm_backward.samples
def lstm_backward(random, dtype):
    for keep in (None, random((5, 1), dtype) > 0):
        small = [random((5, 7), dtype) for _ in range(4)]
        gates, dz = random((5, 28), dtype), random((5, 28), dtype)
        yield small[0], small[1], gates, small[2], small[3], keep, dz


@kernel
def sigmoid_of_half(z):
    """z ← ½ tanh(z) + ½, the sigmoid of twice z."""
    xp = devices.array_module(z)
    xp.tanh(z, out=z)
    z *= 0.5
    z += 0.5


@sigmoid_of_half.samples
def sigmoid_of_half(random, dtype):
    yield (random((5, 7), dtype),)


@kernel
def gru_mix(z, candidate, h_before, keep, h):
    """h ← z h_before + (1 - z) candidate."""
    xp = devices.array_module(z)
    xp.subtract(h_before, candidate, out=h)
    h *= z
    h += candidate
    if keep is not None:
        xp.copyto(h, h_before, where=~keep)


@gru_mix.samples
def gru_mix(random, dtype):
    for keep in (None, random((5, 1), dtype) > 0):
        yield (*(random((5, 7), dtype) for _ in range(3)), keep, random((5, 7), dtype))


@kernel
def gru_after_forward(z, recurrent, h_before, keep, h):
    """A GRU step whose reset gate acts after the product; gates z, r and the candidate are left in z.

        z, r = σ(z + recurrent),  candidate = tanh(z + r recurrent),  h ← z h_before + (1 - z) candidate

    Shapes:
        z, recurrent (batch, 3 units); h_before, h (batch, units)
    """
    xp = devices.array_module(z)
    units = h.shape[1]
    gates, reset, candidate = z[:, : 2 * units], z[:, units : 2 * units], z[:, 2 * units :]
    gates += recurrent[:, : 2 * units]
    sigmoid_of_half(gates)
    xp.multiply(reset, recurrent[:, 2 * units :], out=h)
    candidate += h
    xp.tanh(candidate, out=candidate)
    gru_mix(z[:, :units], candidate, h_before, keep, h)


@gru_after_forward.samples
def gru_after_forward(random, dtype):
    for keep in (None, random((5, 1), dtype) > 0):
        yield (
            random((5, 21), dtype),
            random((5, 21), dtype),
            random((5, 7), dtype),
            keep,
            random((5, 7), dtype),
        )


def _gru_outer_backward(dh, gates, h_before, keep, d_candidate, d_update):
    """What both forms of the GRU share: the gradients of the candidate and of the update gate.

    dh ← dh z, the part that reaches h_before without a product; all of it in masked rows.
    """
    xp = devices.array_module(dh)
    units = dh.shape[1]
    z, candidate = gates[:, :units], gates[:, 2 * units :]
    if keep is not None:
        dh_kept = dh * ~keep
        dh *= keep
    xp.subtract(h_before, candidate, out=d_update)
    d_update *= dh
    xp.multiply(z, dh, out=d_candidate)
    d_update *= z
    xp.subtract(dh, d_candidate, out=d_candidate)  # dh (1 - z)
    slope = 1 - z
    d_update *= slope
    xp.multiply(candidate, candidate, out=slope)
    xp.subtract(1, slope, out=slope)
    d_candidate *= slope
    dh *= z
    if keep is not None:
        dh += dh_kept


@kernel
def gru_after_backward(dh, gates, recurrent_candidate, h_before, keep, dz):
    """The gradients of the pre-activations, in dz as (candidate, z, r, candidate times r).

    dh ← the part that reaches h_before without a product.
    """
    xp = devices.array_module(dh)
    units = dh.shape[1]
    d_candidate, d_update, d_reset, d_recurrent = (dz[:, k * units : (k + 1) * units] for k in range(4))
    _gru_outer_backward(dh, gates, h_before, keep, d_candidate, d_update)
    reset = gates[:, units : 2 * units]
    xp.multiply(d_candidate, reset, out=d_recurrent)
    xp.subtract(1, reset, out=d_reset)
    d_reset *= recurrent_candidate
    d_reset *= d_recurrent


@gru_after_backward.samples
def gru_after_backward(random, dtype):
    for keep in (None, random((5, 1), dtype) > 0):
        small = [random((5, 7), dtype) for _ in range(3)]
        yield small[0], random((5, 21), dtype), small[1], small[2], keep, random((5, 28), dtype)


@kernel
def gru_before_backward(dh, gates, h_before, keep, dz):
    """The first half of the step backwards where the reset gate acts before the product.

    Fills the columns of z and of the candidate in dz (z, r, candidate); those of r need a product first.
    dh ← the part that reaches h_before without a product.
    """
    units = dh.shape[1]
    _gru_outer_backward(dh, gates, h_before, keep, dz[:, 2 * units :], dz[:, :units])


@gru_before_backward.samples
def gru_before_backward(random, dtype):
    for keep in (None, random((5, 1), dtype) > 0):
        yield (
            random((5, 7), dtype),
            random((5, 21), dtype),
            random((5, 7), dtype),
            keep,
            random((5, 21), dtype),
        )
