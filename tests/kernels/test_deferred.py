import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpukeras as keras
from gpukeras import ops
from gpukeras.autograd.tape import Tape
from gpukeras.backend import memory, threads
from gpukeras.kernels import columns, convolution, pooling
from gpukeras.kernels.deferred import Deferred, as_array
from gpukeras.kernels.windows import windows_of
from gpukeras.ops.convolution import conv_with_bias
from tests.helpers import assert_close


@pytest.fixture(autouse=True)
def always_deferred(monkeypatch):
    monkeypatch.setattr(pooling, "_DEFERRED", 0)


def pooled(shape, size, random, dtype="float32"):
    """The gradient that a pooling gives back, deferred, and the output of the rectifier before it, with ties."""
    windows = windows_of(shape[1:-1], size, size, "valid", (1,) * len(size))
    y = np.maximum(random.normal(size=shape).round(1), 0).astype(dtype)
    top = pooling.max_pool(y, windows)
    dy = random.normal(size=top.shape).astype(dtype)
    return pooling.deferred_max_pool_gradient(dy, y, top, windows), y


@pytest.mark.parametrize(
    ("shape", "size"), [((5, 8, 6, 3), (2, 2)), ((4, 11, 7, 16), (2, 3)), ((3, 9, 4), (3,)), ((0, 4, 4, 2), (2, 2))]
)
def test_parts_are_parts_of_the_whole(shape, size):
    gradient, y = pooled(shape, size, np.random.default_rng(0))
    whole = pooling.max_pool_gradient.reference(gradient.dy, y, gradient.y, gradient.windows)
    np.testing.assert_array_equal(gradient.array(), whole)
    assert (gradient.shape, gradient.dtype) == (whole.shape, whole.dtype)
    for samples in (slice(0, 2), slice(2, shape[0])):
        around = np.full((*whole[samples].shape[:-1], shape[-1] + 2), np.nan, "float32")
        gradient.write(samples, around[..., 1:-1])
        np.testing.assert_array_equal(around[..., 1:-1], whole[samples])
        assert np.isnan(around[..., [0, -1]]).all()
    rectified = gradient.after_rectifier(y)
    expected, sums = convolution.rectifier_gradient.reference(whole, y, True)
    np.testing.assert_array_equal(rectified.array(), expected)
    assert_close(rectified.sum_of_rows(), sums)
    assert gradient.after_rectifier(y.copy()) is None


@pytest.mark.parametrize(
    ("x", "weights", "padding", "dilation"),
    [
        ((9, 14, 14, 8), (3, 3, 8, 40), "valid", 1),
        ((9, 14, 14, 40), (3, 3, 40, 16), "same", 1),
        ((40, 28, 28, 1), (3, 3, 1, 32), "valid", 1),
        ((6, 20, 20, 60), (3, 3, 60, 20), "same", 1),
        ((2, 90, 64, 60), (3, 3, 60, 40), "same", 1),
        ((5, 12, 12, 8), (3, 3, 4, 16), "same", 2),
        ((5, 12, 12, 8), (1, 1, 8, 16), "valid", 1),
        ((3, 120, 8), (5, 8, 16), "causal", 1),
        ((3, 2, 2, 2), (2, 2, 2, 4), "same", 1),
    ],
    ids=str,
)
def test_convolutions_take_it_with_the_same_bits(x, weights, padding, dilation):
    random = np.random.default_rng(1)
    rank = len(x) - 2
    windows = windows_of(x[1:-1], weights[:-2], (1,) * rank, padding, (dilation,) * rank)
    groups = x[-1] // weights[-2]
    x, weights = (random.normal(size=shape).astype("float32") for shape in (x, weights))
    gradient, y = pooled((len(x), *windows.grid, weights.shape[-1]), (2,) * rank, random)
    gradient = gradient.after_rectifier(y)
    dy = gradient.array()
    with memory.poison():
        for function, before, after in (
            (convolution.convolve_gradients, (x,), (weights, windows, groups)),
            (convolution.convolve_kernel_gradient, (x,), (windows, groups)),
            (convolution.convolve_input_gradient, (), (weights, windows, groups)),
        ):
            found, expected = (function(*before, d, *after) for d in (gradient, dy))
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b)


@given(
    problem=st.fixed_dictionaries(
        {
            "batch": st.integers(0, 7),
            "axes": st.lists(  # space, size, dilation of the convolution, size of the pooling
                st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3)),
                min_size=1,
                max_size=3,
            ),
            "padding": st.sampled_from(["valid", "same"]),
            "channels": st.sampled_from([1, 3, 8]),
            "filters": st.sampled_from([1, 4, 9]),
            "block": st.sampled_from([1, 3000, 1 << 20]),
            "dtype": st.sampled_from(["float32", "float64"]),
            "seed": st.integers(0, 99),
        }
    )
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_shape_and_any_number_of_threads(problem, monkeypatch):
    monkeypatch.setattr(columns, "_BLOCK_BYTES", problem["block"])
    random, rank = np.random.default_rng(problem["seed"]), len(problem["axes"])
    space, size, dilation, pool = zip(*problem["axes"], strict=True)
    windows = windows_of(space, size, (1,) * rank, problem["padding"], dilation)
    if not all(grid >= n for grid, n in zip(windows.grid, pool, strict=True)):
        return
    channels, filters = problem["channels"], problem["filters"]
    x = random.normal(size=(problem["batch"], *space, channels)).astype(problem["dtype"])
    weights = random.normal(size=(*size, channels, filters)).astype(problem["dtype"])
    gradient, y = pooled((problem["batch"], *windows.grid, filters), pool, random, problem["dtype"])
    gradient = gradient.after_rectifier(y)
    found = []
    for count in (1, 2, 5):
        with memory.poison(), threads.use_count(count):
            found.append(convolution.convolve_gradients(x, gradient, weights, windows, 1))
    reference = convolution.convolve_gradients.reference(x, gradient.array(), weights, windows, 1)
    for first, second, third, expected in zip(*found, reference, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, third)
        assert_close(first, expected)


def gradients(function, x, weights):
    with Tape() as tape:
        tape.watch(x)
        outputs = function(x, *weights)
    seeds = [(y, np.random.default_rng(2).normal(size=y.shape).astype("float32")) for y in outputs]
    return tape.gradients(seeds, [x, *weights])


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("between", ["nothing", "tanh", "split", "a second reader"])
def test_the_tape_gives_others_the_array(data_format, between, monkeypatch):
    random = np.random.default_rng(3)
    shape = (4, 9, 9, 3) if data_format == "channels_last" else (4, 3, 9, 9)
    x = ops.convert_to_tensor(random.normal(size=shape).astype("float32"))
    weights = [keras.Variable(random.normal(size=s).astype("float32")) for s in ((3, 3, 3, 8), (8,))]

    def function(x, kernel, bias):
        y = conv_with_bias(x, kernel, bias, data_format=data_format, is_rectified=True)
        if between == "tanh":
            y = ops.tanh(y)
        if between == "split":
            y = ops.split(y, 2, axis=0)[1]
        outputs = [ops.max_pool(y, 2, data_format=data_format)]
        if between == "a second reader":
            outputs += [y * 2.0, ops.max_pool(y, 3, data_format=data_format)]
        return outputs

    found = gradients(function, x, weights)
    monkeypatch.setattr(pooling, "_DEFERRED", np.inf)
    for a, b in zip(found, gradients(function, x, weights), strict=True):
        assert type(a) is np.ndarray
        assert_close(a, b)


def test_a_result_of_the_tape_is_an_array():
    x = ops.convert_to_tensor(np.random.default_rng(4).normal(size=(2, 4, 4, 3)).astype("float32"))
    with Tape() as tape:
        tape.watch(x)
        y = ops.max_pool(x, 2)
    (dx,) = tape.gradients([(y, np.ones(y.shape, "float32"))], [x])
    assert type(dx) is np.ndarray
    assert dx.sum() == y.array.size


def test_what_is_no_gradient_is_as_it_is():
    assert as_array(None) is None
    with pytest.raises(NotImplementedError):
        Deferred((2,), np.dtype("float32")).array()


def test_training_uses_it(monkeypatch):
    """The step as it is written, and the one from the list of its ops, with the bits of each other."""
    written = []
    write = pooling._write_gradient
    monkeypatch.setattr(
        pooling, "_write_gradient", lambda *given: written.append(len(given[0])) or write(*given), raising=True
    )
    whole = []
    monkeypatch.setattr(pooling._MaxPoolGradient, "array", lambda self: whole.append(self) or self.never)

    def fitted(jit_compile):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                keras.layers.Conv2D(32, 3, activation="relu"),
                keras.layers.MaxPooling2D(),
                keras.layers.Flatten(),
                keras.layers.Dense(3),
            ]
        )
        model.compile("sgd", "mse", jit_compile=jit_compile)
        random = np.random.default_rng(5)
        x, y = random.normal(size=(256, 28, 28, 1)), random.normal(size=(256, 3))
        model.fit(x.astype("float32"), y.astype("float32"), batch_size=64, epochs=1, verbose=0)
        return model.get_weights()

    for a, b in zip(fitted("auto"), fitted(False), strict=True):
        np.testing.assert_array_equal(a, b)
    assert sum(written) == 2 * 256
    assert not whole
