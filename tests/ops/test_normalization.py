"""Normalization ops: values by float64 formulas, every derivative, dtypes, masks, errors."""

import numpy as np
import pytest

from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices
from gpukeras.kernels import normalization as kernels
from gpukeras.ops import normalization
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, values


def others(ndim, axis):
    return tuple(a for a in range(ndim) if a != axis % ndim)


def spread(vector, x, axis):
    shape = [1] * x.ndim
    shape[axis] = -1
    return np.reshape(vector, shape)


def standardized(x, axes, epsilon):
    mean, variance = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon)


@pytest.mark.parametrize(("shape", "axis"), [((5, 3), -1), ((4, 3, 2, 5), -1), ((4, 3, 2, 5), 1), ((6,), 0)])
@pytest.mark.parametrize("given", ["both", "scale", "offset", "none"])
class TestBatch:
    def arguments(self, rng, shape, axis, given):
        c = shape[axis]
        offset = rng.standard_normal(c) if given in ("both", "offset") else None
        scale = rng.standard_normal(c) if given in ("both", "scale") else None
        return (
            rng.standard_normal(shape),
            rng.standard_normal(c),
            rng.uniform(0.5, 2, c),
            offset,
            scale,
        )

    def test_given_moments(self, device, rng, float_dtype, shape, axis, given):
        x, mean, variance, offset, scale = (
            None if v is None else v.astype(float_dtype) for v in self.arguments(rng, shape, axis, given)
        )
        y = normalization.batch_normalization(x, mean, variance, axis, offset, scale, epsilon=0.01)
        assert y.dtype == float_dtype
        x, mean, variance = (v.astype("float64") for v in (x, mean, variance))
        z = (x - spread(mean, x, axis)) / np.sqrt(spread(variance, x, axis) + 0.01)
        z = z if scale is None else z * spread(scale, x, axis)
        assert_close(y, z if offset is None else z + spread(offset, x, axis), dtype=float_dtype)

    def test_given_moments_derivative(self, device, rng, shape, axis, given):
        x, mean, variance, offset, scale = self.arguments(rng, shape, axis, given)
        check_gradients(
            lambda *v: normalization.batch_normalization(*v[:3], axis, *v[3:]),
            *(x, mean, variance, offset, scale),
        )

    def test_own_moments(self, device, rng, float_dtype, shape, axis, given):
        x, _, _, offset, scale = (
            None if v is None else v.astype(float_dtype) for v in self.arguments(rng, shape, axis, given)
        )
        y, mean, variance = normalization.batch_norm_train(x, scale, offset, axis=axis, epsilon=0.01)
        assert y.dtype == float_dtype
        assert mean.dtype == variance.dtype == ("float64" if float_dtype == "float64" else "float32")
        x = x.astype("float64")
        z = standardized(x, others(x.ndim, axis), 0.01)
        z = z if scale is None else z * spread(scale, x, axis)
        assert_close(y, z if offset is None else z + spread(offset, x, axis), dtype=float_dtype)
        assert_close(mean, x.mean(axis=others(x.ndim, axis)), dtype=mean.dtype.name)
        assert_close(variance, x.var(axis=others(x.ndim, axis)), dtype=mean.dtype.name)

    def test_own_moments_derivative(self, device, rng, shape, axis, given):
        x, _, _, offset, scale = self.arguments(rng, shape, axis, given)
        check_gradients(normalization.batch_norm_train, x, scale, offset, axis=axis, epsilon=0.1)

        def only_y(*v):
            return normalization.batch_norm_train(*v, axis=axis, epsilon=0.1)[0]

        check_gradients(only_y, x, scale, offset)


def test_masked_moments(device, rng):
    x = rng.standard_normal((3, 4, 5))
    mask = rng.random((3, 4)) < 0.6
    y, mean, variance = normalization.batch_norm_train(x, None, None, mask, epsilon=0.01)
    chosen = x[mask]
    assert_close(mean, chosen.mean(axis=0), dtype="float32")  # divided by count + 1e-7, as in Keras
    assert_close(variance, chosen.var(axis=0), dtype="float32")
    assert_close(y, (x - values(mean)) / np.sqrt(values(variance) + 0.01))
    check_gradients(
        normalization.batch_norm_train,
        *(x, rng.standard_normal(5), rng.standard_normal(5), mask),
        epsilon=0.1,
    )


def test_masked_moments_of_another_axis(device, rng):
    x, mask = rng.standard_normal((3, 4, 5)), rng.random((3, 4)) < 0.6
    mask[0] = True
    y, mean, variance = normalization.batch_norm_train(x, None, None, mask, axis=1)
    chosen = [x[mask[:, c], c] for c in range(4)]
    assert_close(mean, [part.mean() for part in chosen], dtype="float32")
    assert_close(variance, [part.var() for part in chosen], dtype="float32")
    check_gradients(normalization.batch_norm_train, x, None, None, mask, axis=1, epsilon=0.1)


def test_everything_masked_out_is_finite(device):
    y, mean, variance = normalization.batch_norm_train(
        np.ones((2, 3, 4), "float32"), None, None, np.zeros((2, 3), bool)
    )
    assert np.isfinite(values(y)).all()
    assert_close(mean, np.zeros(4), dtype="float32")
    assert_close(variance, np.zeros(4), dtype="float32")


def test_far_from_zero_stays_precise(device, rng):
    x = (1000 + rng.standard_normal((5000, 4))).astype("float32")
    y, _, variance = normalization.batch_norm_train(x, epsilon=0.0)
    expected = x.astype("float64")
    assert_close(variance, expected.var(axis=0), dtype="float32", scale=10)
    assert_close(y, standardized(expected, 0, 0.0), dtype="float32", scale=40)  # a mean of 1000 has 24 bits


def test_exponential_average(device):
    y = normalization.exponential_average(np.float32([1.0, 2.0]), np.float32([3.0, 2.0]), 0.75)
    assert y.dtype == "float32"
    assert_close(y, [1.5, 2.0], dtype="float32")


LAYER = [
    ((4, 6), -1),
    ((3, 4, 5), -1),
    ((3, 4, 5), (1, 2)),
    ((3, 4, 5), (1,)),
    ((3, 4, 5), (0, 2)),
    ((3, 4, 5), 0),
]


def feature_shape(shape, axis):
    axes = sorted(a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,)))
    return tuple(shape[a] for a in axes), [s if a in axes else 1 for a, s in enumerate(shape)]


@pytest.mark.parametrize(("shape", "axis"), LAYER)
class TestLayer:
    def test_layer_normalization(self, device, rng, float_dtype, shape, axis):
        features, wide = feature_shape(shape, axis)
        x = rng.standard_normal(shape).astype(float_dtype)
        gamma, beta = rng.standard_normal((2, *features)).astype(float_dtype)
        y = normalization.layer_normalization(x, gamma, beta, axis, 0.01)
        assert y.dtype == float_dtype
        z = standardized(x.astype("float64"), axis, 0.01)
        assert_close(y, z * gamma.reshape(wide) + beta.reshape(wide), dtype=float_dtype)
        assert_close(normalization.layer_normalization(x, axis=axis, epsilon=0.01), z, dtype=float_dtype)

    def test_layer_normalization_derivative(self, device, rng, shape, axis):
        features, _ = feature_shape(shape, axis)
        x, gamma, beta = rng.standard_normal(shape), *rng.standard_normal((2, *features))
        check_gradients(normalization.layer_normalization, x, gamma, beta, axis=axis, epsilon=0.1)
        check_gradients(normalization.layer_normalization, x, None, beta, axis=axis, epsilon=0.1)
        check_gradients(normalization.layer_normalization, x, axis=axis, epsilon=0.1)

    def test_variance_scaling(self, device, rng, float_dtype, shape, axis):
        features, wide = feature_shape(shape, axis)
        x = rng.standard_normal(shape).astype(float_dtype)
        gamma = rng.standard_normal(features).astype(float_dtype)
        y = normalization.layer_normalization(x, gamma, axis=axis, epsilon=0.01, rms_scaling=True)
        assert y.dtype == float_dtype
        x64 = x.astype("float64")
        expected = x64 / np.sqrt(x64.var(axis=axis, keepdims=True) + 0.01) * gamma.reshape(wide)
        assert_close(y, expected, dtype=float_dtype)
        check_gradients(
            normalization.layer_normalization,
            *(x64, gamma.astype("float64")),
            **{"axis": axis, "epsilon": 0.1, "rms_scaling": True},
        )

    def test_rms_normalization(self, device, rng, float_dtype, shape, axis):
        features, wide = feature_shape(shape, axis)
        x = rng.standard_normal(shape).astype(float_dtype)
        scale = rng.standard_normal(features).astype(float_dtype)
        y = normalization.rms_normalization(x, scale, axis, 0.01)
        assert y.dtype == float_dtype
        x64 = x.astype("float64")
        expected = x64 / np.sqrt((x64**2).mean(axis=axis, keepdims=True) + 0.01) * scale.reshape(wide)
        assert_close(y, expected, dtype=float_dtype)
        check_gradients(normalization.rms_normalization, x64, scale.astype("float64"), axis=axis, epsilon=0.1)
        check_gradients(normalization.rms_normalization, x64, axis=axis, epsilon=0.1)


def test_half_precision_gradients_keep_the_dtypes_of_the_inputs(device, rng):
    x = Tensor(devices.to_device(rng.standard_normal((4, 6)).astype("float16")))
    gamma = Tensor(devices.to_device(np.ones(6, "float32")))
    for function in (
        normalization.layer_normalization,
        lambda x, g: normalization.batch_norm_train(x, g)[0],
    ):
        with Tape() as tape:
            tape.watch(x)
            tape.watch(gamma)
            y = function(x, gamma)
        _, outputs, backward, needs = tape.entries[0]
        dy = devices.to_device(np.ones((4, 6), "float16"))
        assert y.dtype == "float16"
        gradients = backward((dy, None, None) if isinstance(outputs, tuple) else dy, needs)
        assert gradients[0].dtype == "float16"
        assert gradients[1].dtype == "float32"


@pytest.mark.parametrize(
    ("shape", "axis", "groups"),
    [((3, 6), -1, 2), ((2, 3, 4, 6), -1, 3), ((2, 6, 3), 1, 6), ((2, 4, 3), 1, 1)],
)
def test_group_normalization(device, rng, float_dtype, shape, axis, groups):
    x = rng.standard_normal(shape).astype(float_dtype)
    gamma, beta = rng.standard_normal((2, shape[axis])).astype(float_dtype)
    y = normalization.group_normalization(x, gamma, beta, groups=groups, axis=axis, epsilon=0.01)
    assert y.dtype == float_dtype
    x64 = x.astype("float64")
    parts = [standardized(p, others(p.ndim, 0), 0.01) for p in np.split(x64, groups, axis=axis)]
    expected = np.concatenate(parts, axis=axis) * spread(gamma, x64, axis) + spread(beta, x64, axis)
    assert_close(y, expected, dtype=float_dtype)
    check_gradients(
        normalization.group_normalization,
        *(x64, gamma.astype("float64"), beta.astype("float64")),
        **{"groups": groups, "axis": axis, "epsilon": 0.1},
    )
    check_gradients(normalization.group_normalization, x64, groups=groups, axis=axis, epsilon=0.1)


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name",
    [
        "batch_moments",
        "batch_scale",
        "batch_scale_backward",
        "batch_sums",
        "layer_norm",
        "layer_norm_backward",
    ],
)
def test_forms_of_the_kernels_agree(rng, name, dtype):
    kernel = getattr(kernels, name)

    def random(shape, dtype):
        return rng.standard_normal(shape).astype(dtype)

    for arguments in kernel.sample_function(random, dtype):
        copies = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        got, expected = as_tuple(kernel(*arguments)), as_tuple(kernel.reference(*copies))
        for a, b in zip(arguments, copies, strict=True):
            if isinstance(a, np.ndarray):
                assert_close(a, b, dtype=dtype, scale=50)  # sums of thousands of terms within
        for a, b in zip(got, expected, strict=True):
            if a is None:
                assert b is None
            else:
                assert_close(a, b, dtype=dtype, scale=500)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: normalization.batch_normalization(x, np.ones(2), np.ones(3), -1),
            r"needs mean of shape \(3,\), but got \(2,\)",
        ),
        (lambda x: normalization.batch_norm_train(x, np.ones(2)), r"needs scale of shape"),
        (
            lambda x: normalization.batch_norm_train(x, axis=2),
            r"got axis=2 for an array of shape \(4, 3\)",
        ),
        (
            lambda x: normalization.batch_norm_train(x, None, None, np.ones((4, 3))),
            "takes a mask of the shape",
        ),
        (lambda x: normalization.layer_normalization(x, np.ones(2)), "needs gamma of as many"),
        (lambda x: normalization.layer_normalization(x, None, np.ones(2)), "needs beta of as many"),
        (lambda x: normalization.layer_normalization(x, axis=5), "Choose from -2 to 1"),
        (lambda x: normalization.group_normalization(x, groups=2), "Choose a divisor of 3"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((4, 3)))
