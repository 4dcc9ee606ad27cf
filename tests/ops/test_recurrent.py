"""Recurrent ops: against plain float64 loops, their derivatives, dtypes, masks, errors."""

import gc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import cuda, devices
from gpukeras.ops import _recurrence, recurrent
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, values

BATCH, TIME, FEATURES, UNITS = 3, 5, 4, 2
GATES = {"simple_rnn": 1, "lstm": 4, "gru": 3}


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def simple_rnn_step(x, states, w, u, b):
    h = np.tanh(x @ w + (0 if b is None else b) + states[0] @ u)
    return [h]


def lstm_step(x, states, w, u, b):
    h, c = states
    i, f, g, o = np.split(x @ w + h @ u + (0 if b is None else b), 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c]


def gru_after_step(x, states, w, u, b):
    (h,) = states
    b = np.zeros((2, w.shape[1])) if b is None else b
    xz, xr, xh = np.split(x @ w + b[0], 3, axis=1)
    hz, hr, hh = np.split(h @ u + b[1], 3, axis=1)
    z, r = sigmoid(xz + hz), sigmoid(xr + hr)
    return [z * h + (1 - z) * np.tanh(xh + r * hh)]


def gru_before_step(x, states, w, u, b):
    (h,) = states
    n = h.shape[1]
    xz, xr, xh = np.split(x @ w + (0 if b is None else b), 3, axis=1)
    z, r = sigmoid(xz + h @ u[:, :n]), sigmoid(xr + h @ u[:, n : 2 * n])
    return [z * h + (1 - z) * np.tanh(xh + (r * h) @ u[:, 2 * n :])]


CELLS = {
    "simple_rnn": (recurrent.simple_rnn, simple_rnn_step, {}),
    "lstm": (recurrent.lstm, lstm_step, {}),
    "gru_after": (recurrent.gru, gru_after_step, {"reset_after": True}),
    "gru_before": (recurrent.gru, gru_before_step, {"reset_after": False}),
}


def reference(step, x, states, w, u, b, mask=None, go_backwards=False, zero_output_for_mask=False):
    """The definition, one step at a time."""
    order = range(x.shape[1])
    outputs = []
    for t in reversed(order) if go_backwards else order:
        new = step(x[:, t], states, w, u, b)
        y = new[0]
        if mask is not None:
            keep = mask[:, t, None]
            y = np.where(keep, y, 0 if zero_output_for_mask else states[0])
            new = [np.where(keep, n, s) for n, s in zip(new, states, strict=True)]
        outputs.append(y)
        states = new
    return np.stack(outputs, axis=1), *states


def make(cell, rng, use_bias=True, time=TIME, batch=BATCH):
    """x, states, kernel, recurrent kernel, bias."""
    gates = GATES[cell.split("_")[0] if cell != "simple_rnn" else cell]
    bias_shape = (2, gates * UNITS) if cell == "gru_after" else (gates * UNITS,)
    return (
        rng.standard_normal((batch, time, FEATURES)),
        [rng.standard_normal((batch, UNITS)) for _ in range(2 if cell == "lstm" else 1)],
        rng.standard_normal((FEATURES, gates * UNITS)),
        rng.standard_normal((UNITS, gates * UNITS)),
        rng.standard_normal(bias_shape) if use_bias else None,
    )


def dropout_masks(cell, rng, batch=BATCH):
    gates = GATES[cell.split("_")[0] if cell != "simple_rnn" else cell]
    return np.where(rng.random((gates, batch, UNITS)) < 0.4, 0.0, 1 / 0.6)


MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 0, 1]], bool)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("masked, zero", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_values(cell, go_backwards, masked, zero, use_bias, rng, device):
    function, step, settings = CELLS[cell]
    x, states, w, u, b = make(cell, rng, use_bias)
    mask = MASK if masked else None
    options = {"go_backwards": go_backwards, "zero_output_for_mask": zero}
    got = function(x, *states, w, u, b, mask, **settings, **options)
    for actual, expected in zip(got, reference(step, x, states, w, u, b, mask, **options), strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize("cell", CELLS)
def test_states_left_out_are_zeros(cell, rng, device):
    function, _, settings = CELLS[cell]
    x, states, w, u, b = make(cell, rng)
    got = function(x, *(None for _ in states), w, u, b, **settings)
    for actual, expected in zip(got, function(x, *(s * 0 for s in states), w, u, b, **settings), strict=True):
        assert_close(actual, values(expected))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("masked, zero", [(False, False), (True, False), (True, True)])
def test_gradients(cell, go_backwards, masked, zero, rng, device):
    function, _, settings = CELLS[cell]
    x, states, w, u, b = make(cell, rng)
    mask = MASK if masked else None
    settings = {**settings, "go_backwards": go_backwards, "zero_output_for_mask": zero}
    check_gradients(function, x, *states, w, u, b, mask, **settings)


@pytest.mark.parametrize("cell", CELLS)
@given(
    sizes=st.tuples(*[st.sampled_from([1, 2, 3, 7])] * 3),
    batch=st.sampled_from([0, 1, 2, 5, 33]),
    has_kernel=st.booleans(),
    go_backwards=st.booleans(),
    is_contiguous=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_products_step_by_step(cell, sizes, batch, has_kernel, go_backwards, is_contiguous, seed, monkeypatch):
    """Few columns are multiplied step by step, which must give what one product gives."""
    function, _, options = CELLS[cell]
    time, features, units = sizes
    rng = np.random.default_rng(seed)
    columns = GATES[cell.split("_")[0] if cell.startswith("gru") else cell] * units
    x = rng.standard_normal((batch, time, features if has_kernel else columns))
    x = x if is_contiguous else x.T.copy().T
    weights = [rng.standard_normal((n, columns)) for n in (features, units)]
    bias = rng.standard_normal((2, columns) if cell == "gru_after" else columns)
    states = [None] * (2 if cell == "lstm" else 1)
    found = []
    for few in (1, 100):
        monkeypatch.setattr(_recurrence, "_FEW_SEQUENCES", few)
        inputs = [Tensor(a) for a in (x, *weights, bias)]
        with Tape() as tape:
            for tensor in inputs:
                tape.watch(tensor)
            kernel = inputs[1] if has_kernel else None
            y, *last = function(inputs[0], *states, kernel, *inputs[2:], **options, go_backwards=go_backwards)
        gradients = tape.gradients([(y, np.ones(y.shape))], [inputs[0], *inputs[2:], *inputs[1 : 1 + has_kernel]])
        found.append([y, *last, *gradients])
    for by_step, at_once in zip(*found, strict=True):
        assert_close(by_step, at_once)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("go_backwards, masked", [(False, False), (True, True)])
def test_recurrent_dropout(cell, go_backwards, masked, rng, device):
    function, _, settings = CELLS[cell]
    x, states, w, u, b = make(cell, rng)
    drop = dropout_masks(cell, rng)
    mask = MASK if masked else None
    settings = {**settings, "go_backwards": go_backwards}
    check_gradients(function, x, *states, w, u, b, mask, Tensor(devices.to_device(drop)), **settings)
    # One step by hand: gate k sees the state times mask k.
    got = function(x[:, :1], *states, w, u, b, None, drop, **settings)[0]
    n = UNITS
    wide = np.concatenate([states[0] * m for m in drop], axis=1)
    parts = [u[:, k * n : (k + 1) * n] for k in range(len(drop))]
    diagonal = np.block([[p if i == k else p * 0 for i in range(len(parts))] for k, p in enumerate(parts)])
    if cell == "simple_rnn":
        expected = np.tanh(x[:, 0] @ w + b + wide @ diagonal)
    elif cell == "lstm":
        i, f, g, o = np.split(x[:, 0] @ w + b + wide @ diagonal, 4, axis=1)
        expected = sigmoid(o) * np.tanh(sigmoid(f) * states[1] + sigmoid(i) * np.tanh(g))
    else:
        bias, second = b if cell == "gru_after" else (b, 0 * b)
        hz, hr, hh = np.split(wide @ diagonal + second, 3, axis=1)
        xz, xr, xh = np.split(x[:, 0] @ w + bias, 3, axis=1)
        z, r = sigmoid(xz + hz), sigmoid(xr + hr)
        inner = r * hh if cell == "gru_after" else (r * states[0] * drop[2]) @ parts[2]
        expected = z * states[0] + (1 - z) * np.tanh(xh + inner)
    assert_close(got[:, 0], expected)


@pytest.mark.parametrize("cell", CELLS)
def test_without_a_kernel_x_is_the_product(cell, rng, device):
    function, _, settings = CELLS[cell]
    x, states, w, u, b = make(cell, rng)
    got = function(x @ w, *states, None, u, b, MASK, **settings)
    for y, expected in zip(got, function(x, *states, w, u, b, MASK, **settings), strict=True):
        assert_close(y, values(expected))
    check_gradients(function, x @ w, *states, None, u, b, MASK, go_backwards=True, **settings)
    with pytest.raises(ValueError, match=r"without a kernel expects x of shape"):
        function(x[:, :, :1], *states, None, u, b, **settings)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_without_bias_of_one_step_and_one_sequence(cell, rng, device):
    function, _, settings = CELLS[cell]
    x, states, w, u, _ = make(cell, rng, time=1, batch=1)
    check_gradients(function, x, *states, w, u, **settings)


@pytest.mark.parametrize("cell", CELLS)
def test_every_subset_of_gradients(cell, rng):
    function, _, settings = CELLS[cell]
    x, states, w, u, b = make(cell, rng)
    arrays = (x, *states, w, u, b, None, None)
    outputs, backward = function.function(*arrays, **settings)
    dy = tuple(rng.standard_normal(y.shape) for y in outputs)
    names = [
        n
        for n in ("x", "h", "c", "kernel", "recurrent_kernel", "bias", "mask", "dropout")
        if n != "c" or cell == "lstm"
    ]

    class Needs:
        pass

    def run(wanted, dy):
        needs = Needs()
        for name in names:
            setattr(needs, name, name in wanted)
        return dict(zip(names, backward(dy, needs), strict=True))

    everything = run(names[:-2], dy)
    for name in names[:-2]:
        alone = run([name], dy)
        assert [n for n, g in alone.items() if g is not None] == [name]
        assert_close(alone[name], everything[name])
    # An output nobody used has no gradient: the same as a gradient of zeros.
    for k in range(len(dy)):
        without = run(names[:-2], tuple(None if j == k else d for j, d in enumerate(dy)))
        zeros = run(names[:-2], tuple(d * 0 if j == k else d for j, d in enumerate(dy)))
        for name in names[:-2]:
            assert_close(without[name], zeros[name])


@pytest.mark.parametrize("cell", CELLS)
def test_dtype_is_kept(cell, rng, float_dtype, device):
    function, step, settings = CELLS[cell]
    x, states, w, u, b = make(cell, rng)
    cast = [a.astype(float_dtype) for a in (x, *states, w, u, b)]
    got = function(*cast, **settings)
    for actual, expected in zip(got, reference(step, x, states, w, u, b), strict=True):
        assert actual.dtype == float_dtype
        # Weights and inputs were rounded too, and errors add up over the steps.
        assert_close(actual, expected, dtype=float_dtype, scale=10)
    arrays = [devices.to_device(a) for a in (*cast, None) if a is not None]
    outputs, backward = function.function(*arrays, None, None, **settings)
    needs = type("Needs", (), {"__getattr__": lambda self, name: True})()
    gradients = backward(tuple(outputs), needs)[:-2]
    assert [g.dtype.name for g in gradients] == [float_dtype] * len(cast)
    assert [g.shape for g in gradients] == [a.shape for a in cast]


class Everything:
    """Needs of which all are true."""

    def __getattr__(self, name):
        return True


def gradients_of(function, arrays, dy=None, **settings):
    """The outputs of an op on raw arrays, and its gradients for dy, or for gradients that equal the outputs."""
    outputs, backward = function.function(*arrays, **settings)
    return outputs, backward(outputs if dy is None else dy, Everything())


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_halves_are_computed_in_float32(cell, dtype, rng, device):
    """Only the results are rounded: they are those of float32 for the same numbers. CUDA C rounds between kernels."""
    function, _, settings = CELLS[cell]
    x, states, w, u, b = make(cell, rng)
    narrow = [a.astype(dtype) for a in (x, *states, w, u, b)]
    wide = [devices.to_device(a.astype("float32")) for a in narrow]
    expected, _ = gradients_of(function, wide, **settings)
    dy = tuple(devices.to_device(values(y).astype(dtype)) for y in expected)
    _, expected_gradients = gradients_of(function, wide, tuple(d.astype("float32") for d in dy), **settings)
    got, gradients = gradients_of(function, [devices.to_device(a) for a in narrow], dy, **settings)
    for y, wanted in zip([*got, *gradients[:-2]], [*expected, *expected_gradients[:-2]], strict=True):
        assert y.dtype == dtype
        if cuda.runs_on(y):
            assert_close(y, wanted, dtype=y.dtype.name, scale=10)  # errors add up over the steps
        else:
            assert values(y).tobytes() == values(wanted).astype(dtype).tobytes()


@pytest.mark.parametrize("cell", CELLS)
def test_no_sequences(cell, rng, device):
    function, _, settings = CELLS[cell]
    x, states, w, u, b = make(cell, rng, batch=0)
    arrays = [devices.to_device(a) for a in (x, *states, w, u, b)]
    outputs, gradients = gradients_of(function, arrays, **settings)
    assert [y.shape for y in outputs] == [(0, TIME, UNITS), *((0, UNITS) for _ in states)]
    assert [g.shape for g in gradients[:-2]] == [a.shape for a in arrays]
    assert all((values(g) == 0).all() for g in gradients[:-2])


@pytest.mark.parametrize("cell", CELLS)
def test_two_backward_passes_give_the_same(cell, rng, device):
    function, _, settings = CELLS[cell]
    x, states, w, u, b = make(cell, rng)
    arrays = [devices.to_device(a) for a in (x, *states, w, u, b, MASK)]
    outputs, backward = function.function(*arrays, **settings)
    first, second = (backward(outputs, Everything())[:-2] for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert values(one).tobytes() == values(other).tobytes()


@pytest.mark.parametrize("cell", CELLS)
def test_arrays_are_freed_without_the_garbage_collector(cell, rng):
    """A cycle of references would keep the arrays of many steps."""
    function, _, settings = CELLS[cell]
    x, states, w, u, b = make(cell, rng, time=80, batch=64)
    wide = np.concatenate([u] * 32, axis=0)  # of 64 units: enough work to be shared out
    columns = u.shape[1] // UNITS * 64
    arrays = [x, *(np.concatenate([s] * 32, axis=1) for s in states), np.resize(w, (FEATURES, columns))]
    arrays += [np.resize(wide, (64, columns)) / 64, np.resize(b, (*b.shape[:-1], columns))]
    gc.collect()
    gc.disable()
    try:
        gradients_of(function, [a.astype("float32") for a in arrays], **settings)
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("cell", CELLS)
def test_large_inputs_do_not_overflow(cell, rng):
    function, _, settings = CELLS[cell]
    x, states, w, u, b = make(cell, rng)
    w, u, b = (a.astype("float32") for a in (w, u, b))
    with np.errstate(all="raise", under="ignore"):
        y = function((x * 1e4).astype("float32"), *states, w, u, b, **settings)[0]
    assert np.isfinite(values(y)).all()


def test_a_mask_of_integers(rng, device):
    x, states, w, u, b = make("lstm", rng)
    got = recurrent.lstm(x, *states, w, u, b, MASK.astype("int32"))
    for actual, expected in zip(got, recurrent.lstm(x, *states, w, u, b, MASK), strict=True):
        assert_close(actual, values(expected))


def test_what_a_masked_step_holds_does_not_matter(rng):
    x, states, w, u, b = make("gru_after", rng)
    other = np.where(MASK[:, :, None], x, 100.0)
    for a, b_ in zip(
        recurrent.gru(x, *states, w, u, b, MASK),
        recurrent.gru(other, *states, w, u, b, MASK),
        strict=True,
    ):
        assert_close(a, values(b_))


def test_errors(rng):
    x, states, w, u, b = make("lstm", rng)
    with pytest.raises(
        ValueError,
        match=r"lstm expects x of shape \(batch, time, features\), but got shape \(3, 4\)",
    ):
        recurrent.lstm(x[:, 0], *states, w, u, b)
    with pytest.raises(
        ValueError,
        match=r"initial states of shape \(batch, units\) = \(3, 2\), but got shape \(2, 2\)",
    ):
        recurrent.lstm(x, states[0][:2], states[1], w, u, b)
    with pytest.raises(ValueError, match=r"recurrent_kernel of shape \(units, 4 \* units\), but got shape \(2, 6\)"):
        recurrent.lstm(x, *states, w, u[:, :6], b)
    with pytest.raises(ValueError, match=r"kernel of shape \(4, 8\).*but got shape \(3, 8\)"):
        recurrent.lstm(x, *states, w[:3], u, b)
    with pytest.raises(ValueError, match=r"bias of shape \(8,\) or None, but got shape \(2, 8\)"):
        recurrent.lstm(x, *states, w, u, np.stack([b, b]))
    with pytest.raises(ValueError, match=r"mask of shape \(batch, time\) = \(3, 5\), but got shape \(5, 3\)"):
        recurrent.lstm(x, *states, w, u, b, MASK.T)
    with pytest.raises(
        ValueError,
        match=r"weights of one dtype, but kernel is float64 and recurrent_kernel is float32",
    ):
        recurrent.lstm(x, *states, w, u.astype("float32"), b)
    with pytest.raises(ValueError, match=r"bias of the weights' dtype float64, but got float32"):
        recurrent.lstm(x, *states, w, u, b.astype("float32"))
    with pytest.raises(ValueError, match=r"dropout masks of shape .*\(4, 3, 2\), but got shape \(3, 2\)"):
        recurrent.lstm(x, *states, w, u, b, None, states[0])
    x, states, w, u, b = make("gru_after", rng)
    with pytest.raises(ValueError, match=r"gru expects a bias of shape \(6,\)"):
        recurrent.gru(x, *states, w, u, b, reset_after=False)


@pytest.mark.parametrize("cell", CELLS)
def test_nothing_is_read_on_the_host(cell, rng):
    from tests import strict_device

    strict_device.install()
    function, _, settings = CELLS[cell]
    x, states, w, u, b = make(cell, rng)
    with devices.use_device("strict"):
        arrays = [devices.to_device(a) for a in (x, *states, w, u, b, MASK, dropout_masks(cell, rng))]
        with strict_device.forbid_host_reads():
            outputs, backward = function.function(*arrays, **settings)
            needs = type("Needs", (), {"__getattr__": lambda self, name: True})()
            gradients = backward(tuple(outputs), needs)
    assert [g is None for g in gradients] == [False] * (len(arrays) - 2) + [True, True]
