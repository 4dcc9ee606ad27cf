"""CUDA C at the edges of warps, blocks and chunks, and on numbers that are hard: compared with float64."""

import numpy as np
import pytest

from gpukeras.backend import devices
from gpukeras.kernels import convolution, dropout, indexing, linear, loss, normalization, optimizer, softmax, updates
from tests.emulator.compile import reason_to_skip, schedule
from tests.helpers import assert_close

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))

COLUMNS = 1, 3, 31, 32, 33, 128, 1024, 1025, 2049
ROWS = 1, 7, 8, 9, 63, 64, 127, 128, 129, 700


@pytest.fixture
def on_gpu(seed):
    """A function that calls a kernel with NumPy arrays, on the emulator, and returns NumPy arrays."""
    from tests.emulator import device

    device.install()

    def move(value):
        if isinstance(value, tuple):
            return tuple(move(item) for item in value)
        return device.EmulatorArray(value) if isinstance(value, np.ndarray) else value

    def call(kernel, *args):
        with devices.use_device("emulator"), schedule(seed), np.errstate(all="ignore"):
            made = kernel.on_cuda(*[move(arg) for arg in args])
        assert made is not NotImplemented
        made = made if isinstance(made, tuple) else (made,)
        return tuple(devices.to_numpy(a) for a in made if a is not None)

    return call


@pytest.mark.parametrize("columns", COLUMNS)
class TestRows:
    def test_softmax_and_its_gradient(self, columns, on_gpu, rng):
        x = 5.0 * rng.standard_normal((9, columns)).astype("float32")
        expected = np.empty_like(x, "float64")
        softmax.softmax.reference(x.astype("float64"), expected)
        (y,) = on_gpu(softmax.softmax, x, np.empty_like(x))
        assert_close(y, expected, "float32")
        dy, dx = rng.standard_normal(x.shape).astype("float32"), np.empty_like(expected)
        softmax.softmax_backward.reference(expected, dy.astype("float64"), dx)
        assert_close(on_gpu(softmax.softmax_backward, y, dy, np.empty_like(x))[0], dx, "float32")

    def test_log_softmax(self, columns, on_gpu, rng):
        x = 5.0 * rng.standard_normal((9, columns)).astype("float32")
        expected, dx = np.empty_like(x, "float64"), np.empty_like(x, "float64")
        softmax.log_softmax.reference(x.astype("float64"), expected)
        (y,) = on_gpu(softmax.log_softmax, x, np.empty_like(x))
        assert_close(y, expected, "float32", scale=2)
        dy = rng.standard_normal(x.shape).astype("float32")
        softmax.log_softmax_backward.reference(expected, dy.astype("float64"), dx)
        found = on_gpu(softmax.log_softmax_backward, expected.astype("float32"), dy, np.empty_like(x))[0]
        assert_close(found, dx, "float32", scale=4)

    def test_softmax_of_infinite_and_missing_numbers(self, columns, on_gpu):
        x = np.zeros((3, columns), "float32")
        x[0, -1], x[1, 0], x[2, :-1] = np.nan, np.inf, -np.inf
        expected = np.empty_like(x)
        with np.errstate(all="ignore"):
            softmax.softmax.reference(x, expected)
        np.testing.assert_allclose(on_gpu(softmax.softmax, x, np.empty_like(x))[0], expected, rtol=1e-6)

    def test_crossentropies(self, columns, on_gpu, rng):
        x, label = 3.0 * rng.standard_normal((9, columns)).astype("float32"), rng.integers(-1, columns + 1, 9)
        labels = loss.places(label.astype("int32"), columns)
        wide = loss.sparse_crossentropy_of_logits.reference(x.astype("float64"), labels)
        found = on_gpu(loss.sparse_crossentropy_of_logits, x, labels)
        for a, b in zip(found, wide, strict=True):
            assert_close(a, b, "float32")
        dy = rng.standard_normal(9).astype("float32")
        wide = loss.sparse_crossentropy_of_logits_backward.reference(*wide[1:], labels, dy.astype("float64"))
        found = on_gpu(loss.sparse_crossentropy_of_logits_backward, *found[1:], labels, dy)
        assert_close(found[0], wide, "float32")

    def test_crossentropies_of_infinite_and_missing_numbers(self, columns, on_gpu):
        x = np.zeros((5, columns), "float32")
        x[0, -1], x[1, 0], x[2, :-1], x[3, : columns // 2], x[4] = np.nan, np.inf, -np.inf, -np.inf, -np.inf
        labels = loss.places(np.full(5, columns - 1, "int32"), columns)
        with np.errstate(all="ignore"):
            expected = loss.sparse_crossentropy_of_logits.reference(x, labels)
            dx = loss.sparse_crossentropy_of_logits_backward.reference(*expected[1:], labels, np.ones(5, "float32"))
        found = on_gpu(loss.sparse_crossentropy_of_logits, x, labels)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
        found = on_gpu(loss.sparse_crossentropy_of_logits_backward, *found[1:], labels, np.ones(5, "float32"))
        np.testing.assert_allclose(found[0], dx, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("shift", [0, 1, 3])
    def test_crossentropies_of_arrays_that_begin_differently(self, columns, shift, on_gpu, rng):
        size = 9 * columns
        x = rng.standard_normal(size + shift).astype("float32")[shift:].reshape(9, columns)
        target, dy = rng.random((9, columns)).astype("float32"), rng.standard_normal(9).astype("float32")
        labels = loss.places(rng.integers(-1, columns + 1, 9).astype("int32"), columns)
        for kernel, backward, given in (
            (loss.sparse_crossentropy_of_logits, loss.sparse_crossentropy_of_logits_backward, labels),
            (loss.crossentropy_of_logits, loss.crossentropy_of_logits_backward, target),
        ):
            expected, found = kernel.reference(x, given), on_gpu(kernel, x, given)
            for a, b in zip(found, expected, strict=True):
                assert_close(a, b, "float32", scale=10)
            (dx,) = on_gpu(backward, *found[1:], given, dy)
            assert_close(dx, backward.reference(*expected[1:], given, dy), "float32", scale=10)

    @pytest.mark.parametrize("is_centred", [True, False])
    def test_layer_norm_far_from_zero(self, columns, is_centred, on_gpu, rng):
        x = (100.0 * is_centred + rng.standard_normal((9, columns))).astype("float32")
        gamma, wide = rng.standard_normal(columns).astype("float32"), x.astype("float64")
        expected = [np.empty_like(wide) for _ in range(2)]
        root = normalization.layer_norm.reference(wide, gamma.astype("float64"), None, *expected, 1e-3, is_centred)
        z, y = np.empty_like(x), np.empty_like(x)
        assert_close(on_gpu(normalization.layer_norm, x, gamma, None, z, y, 1e-3, is_centred)[0], root, "float32", 100)
        assert_close(y, expected[1], "float32", scale=200)  # a mean of 100 costs two digits


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("columns", [1, 31, 33, 70])
class TestColumns:
    def test_sums(self, rows, columns, on_gpu, rng):
        x = rng.standard_normal((rows, columns)).astype("float32")
        (found,) = on_gpu(linear.sum_of_rows, x)
        assert_close(found, x.astype("float64").sum(axis=0), "float32", scale=10)

    def test_moments_of_small_spread_about_a_large_mean(self, rows, columns, on_gpu, rng):
        x = (1000.0 + 0.01 * rng.standard_normal((rows, columns, 1))).astype("float32")
        x[0] = -500.0  # far from the others, and the first that is seen
        mean, variance = on_gpu(normalization.batch_moments, x)
        wide = x.astype("float64")
        assert_close(mean, wide.mean(axis=(0, 2)), "float32")
        assert_close(variance, wide.var(axis=(0, 2)), "float32", scale=10)

    def test_moments_without_the_outlier(self, rows, columns, on_gpu, rng):
        x = (1000.0 + 0.01 * rng.standard_normal((rows, columns, 1))).astype("float32")
        _, variance = on_gpu(normalization.batch_moments, x)
        np.testing.assert_allclose(variance, x.astype("float64").var(axis=(0, 2)), rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("columns", [1, 3, 8, 72, 136])
@pytest.mark.parametrize("rows", [0, 1, 31, 33, 129, 700])
def test_rectifier_gradient_and_its_sums(rows, columns, dtype, on_gpu, rng):
    dy, y = (rng.integers(-2, 3, (rows, columns)).astype(dtype) for _ in range(2))
    expected = np.where(y > 0, dy, 0)
    for out in (None, np.full(columns, np.nan, "float32")):
        dx, sums = on_gpu(convolution.rectifier_gradient, dy, y, True, out)
        assert dx.dtype == dtype and sums.dtype == (dtype if out is None else "float32")
        np.testing.assert_array_equal(dx, expected)
        np.testing.assert_array_equal(sums, expected.sum(axis=0, dtype="float32").astype(sums.dtype))


@pytest.mark.parametrize("n", [1, 63, 64, 65, 128, 1000])
@pytest.mark.parametrize("count", [1, 2, 50])
def test_rows_of_equal_index_are_added_up(n, count, on_gpu, rng):
    values, index = rng.standard_normal((n, 33)).astype("float32"), rng.integers(0, count, n)
    total = rng.standard_normal((count, 33)).astype("float32")
    expected = total.astype("float64")
    np.add.at(expected, index, values)
    on_gpu(indexing.add_rows, values, index, total)
    assert_close(total, expected, "float32", scale=10)


def test_an_index_out_of_range_is_left_out(on_gpu):
    values, index, total = np.ones((200, 3), "float32"), np.array([-1, 0, 1, 5] * 50), np.zeros((2, 3), "float32")
    on_gpu(indexing.add_rows, values, index, total)
    np.testing.assert_array_equal(total, np.full((2, 3), 50))


@pytest.mark.parametrize("rate", [0.5, 0.3, 0.999, 0.001, 0.0, 1.0])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dropout_draws_the_same_bits_everywhere(rate, dtype, on_gpu, rng):
    state = np.array([12345, 3], np.uint32)
    for size in 1, 7, 8, 9, 16, 5003:
        x = rng.standard_normal(size).astype(dtype)
        x[:1] = np.nan
        expected = dropout.dropout.reference(x, state, rate)
        found = on_gpu(dropout.dropout, x, state, rate)[0]
        np.testing.assert_array_equal(found == 0, expected == 0)
        assert_close(found, expected, dtype)


@pytest.mark.parametrize("step", [0, 1, 10, 100_000, 2**31 - 2])
def test_adam_at_early_and_late_steps(step, on_gpu, rng):
    arrays = [rng.standard_normal(50).astype("float32") for _ in range(3)] + [rng.random(50, "float32")]
    settings = np.array(step, np.int32), np.array(0.01, np.float32), 0.9, 0.999, 1e-7
    given, expected = [a.copy() for a in arrays], [a.copy() for a in arrays]
    on_gpu(optimizer.adam, *given, None, *settings)
    optimizer.adam.reference(*expected, None, *settings)
    for a, b in zip(given, expected, strict=True):
        assert_close(a, b)


def test_infinite_gradients_become_nan_and_not_nothing(on_gpu):
    for bad in np.inf, np.nan:
        param, grad = np.ones(9, "float32"), np.ones(9, "float32")
        grad[4] = bad
        on_gpu(updates.scale_by_norm, grad, 1.0)
        assert np.isnan(grad[4])
        on_gpu(optimizer.lion, param, grad, np.zeros(9, "float32"), np.array(0.1, np.float32), 0.9, 0.99)
        assert np.isnan(param[4]) and np.isfinite(param[3]) == np.isfinite(grad[3])


@pytest.mark.parametrize("columns", [1, 3, 4, 33, 64])
def test_rows_beyond_the_ends_count_on(columns, on_gpu, rng):
    x, index = rng.standard_normal((7, columns)).astype("float32"), rng.integers(-30, 30, (9, 5)).astype("int32")
    (y,) = on_gpu(indexing.take_rows, x, index)
    np.testing.assert_array_equal(y, x[index % 7])
