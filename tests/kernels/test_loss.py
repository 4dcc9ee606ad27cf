"""Cross entropies by rows against float64 formulas: many shapes, labels that are no class, large logits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukeras.backend import devices
from gpukeras.kernels import loss
from gpukeras.ops import crossentropy, objective
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, values

SHAPES = st.tuples(st.integers(0, 40), st.integers(1, 70)) | st.just((2049, 257)) | st.just((1031, 129))
DTYPES = st.sampled_from(["float32", "float64"])


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, dtype=DTYPES, beyond=st.booleans(), is_contiguous=st.booleans(), seed=st.integers(0, 99))
def test_sparse_crossentropy_of_logits(shape, dtype, beyond, is_contiguous, seed):
    rng = np.random.default_rng(seed)
    rows, classes = shape
    x = (10 * rng.standard_normal(shape)).astype(dtype)
    x = x if is_contiguous else x.T.copy().T
    label = rng.integers(-2 if beyond else 0, classes + 2 * beyond, rows).astype(np.int32)
    dy = rng.standard_normal(rows).astype(dtype)
    labels = loss.places(label, classes)
    y, *kept = loss.sparse_crossentropy_of_logits(x, labels)
    dx = loss.sparse_crossentropy_of_logits_backward(*kept, labels, dy)

    wide = x.astype(np.float64)
    is_label = (label >= 0) & (label < classes)
    one_hot = (label[:, None] == np.arange(classes)).astype(float)
    shifted = wide - wide.max(axis=1, keepdims=True) if rows else wide
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    assert y.dtype == dx.dtype == dtype
    assert_close(y, -(one_hot * log_p).sum(axis=1), dtype, scale=4)  # of differences of logits up to 50
    assert_close(dx, (dy * is_label)[:, None] * (np.exp(log_p) - one_hot), dtype)


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, dtype=DTYPES, beyond=st.booleans(), is_contiguous=st.booleans(), seed=st.integers(0, 99))
def test_sparse_crossentropy_of_probabilities(shape, dtype, beyond, is_contiguous, seed):
    rng = np.random.default_rng(seed)
    rows, classes = shape
    x = rng.uniform(0.5, 1.5, shape).astype(dtype)
    x = x if is_contiguous else x.T.copy().T
    label = rng.integers(-2 if beyond else 0, classes + 2 * beyond, rows).astype(np.int32)
    dy = rng.standard_normal(rows).astype(dtype)
    labels = loss.places(label, classes)
    y, total, p, clipped = loss.sparse_crossentropy(x, labels, 1e-7)
    dx = loss.sparse_crossentropy_backward(x, total, p, clipped, labels, dy)

    q = x.astype(np.float64) / x.sum(axis=1, keepdims=True, dtype=np.float64)
    one_hot = (label[:, None] == np.arange(classes)).astype(float)
    assert_close(y, -(one_hot * np.log(np.clip(q, 1e-7, 1 - 1e-7))).sum(axis=1), dtype)
    slope = (one_hot.sum(axis=1, keepdims=True) - one_hot / q) / x.sum(axis=1, keepdims=True, dtype=np.float64)
    slope *= classes > 1  # a probability of 1 is clipped
    assert_close(dx, dy[:, None] * slope, dtype, scale=4)


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, dtype=DTYPES, is_contiguous=st.booleans(), seed=st.integers(0, 99))
def test_crossentropy_of_logits(shape, dtype, is_contiguous, seed):
    rng = np.random.default_rng(seed)
    rows, classes = shape
    x, target = (3 * rng.standard_normal(shape)).astype(dtype), rng.uniform(0, 2 / classes, shape).astype(dtype)
    if not is_contiguous:
        x, target = x.T.copy().T, target.T.copy().T
    dy = rng.standard_normal(rows).astype(dtype)
    y, *kept = loss.crossentropy_of_logits(x, target)
    dx = loss.crossentropy_of_logits_backward(*kept, target, dy)
    if not rows:
        assert y.shape == (0,) and dx.shape == shape
        return
    p = softmax(x.astype(np.float64))
    assert_close(y, -(target * np.log(p)).sum(axis=1), dtype, scale=4)
    expected = dy[:, None] * (p * target.sum(axis=1, keepdims=True, dtype=np.float64) - target)
    assert_close(dx, expected, dtype, scale=4)


def test_places_of_labels():
    label, place, is_class = loss.places(np.array([2, 0, 1], np.uint8), 3)
    assert label.dtype == np.int32 and place.tolist() == [2, 3, 7] and is_class is None
    _, place, is_class = loss.places(np.array([-1, 3, 1]), 3)
    assert is_class.tolist() == [False, False, True] and place.tolist() == [0, 3, 7]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32"])
def test_labels_of_any_type_are_read_where_they_lie(dtype, device):
    x = np.random.default_rng(0).uniform(0.1, 1.0, (6, 3)).astype("float32")
    label = np.array([2, 0, 1, 3, 100, 1]).astype(dtype)
    labels = loss.places(devices.to_device(label), 3)
    y, total, p, clipped = loss.sparse_crossentropy(devices.to_device(x), labels, 1e-7)
    dx = loss.sparse_crossentropy_backward(devices.to_device(x), total, p, clipped, labels, total, 0.5)
    share = x[np.arange(6), np.where(label < 3, label, 0).astype(int)] / x.sum(axis=1)
    is_class = label < 3
    assert_close(y, np.where(is_class, -np.log(share), 0), "float32")
    expected = 0.5 * np.where(is_class, 1, 0)[:, None] * (1 - np.eye(3)[(label % 3).astype(int)] / share[:, None])
    assert_close(dx, expected, "float32", scale=4)


def test_huge_logits_and_nan_are_kept_apart():
    """A row with NaN or infinity does not touch its neighbours."""
    x = np.zeros((3, 4), np.float32)
    x[0], x[1, 2] = 3e38, np.nan
    labels = loss.places(np.array([1, 1, 1], np.int32), 4)
    y, *kept = loss.sparse_crossentropy_of_logits(x, labels)
    assert_close(y[[0, 2]], np.log([4.0, 4.0]), "float32")
    assert np.isnan(y[1])
    dx = loss.sparse_crossentropy_of_logits_backward(*kept, labels, np.float32(1.0))
    assert_close(dx[[0, 2]], [[0.25, -0.75, 0.25, 0.25]] * 2, "float32")


MEANS = {
    "sparse": (crossentropy.sparse_categorical_crossentropy, {}),
    "sparse of logits": (crossentropy.sparse_categorical_crossentropy, {"from_logits": True}),
    "binary": (crossentropy.binary_crossentropy, {}),
    "squared": (objective.mean_squared_error, {}),
}


@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize("shape", [(1, 3), (6, 1), (5, 3), (4, 2, 3)])
def test_means_of_hot_losses(name, shape, rng, device):
    function, given_settings = MEANS[name]
    p = rng.uniform(0.1, 0.9, shape)
    t = rng.integers(0, shape[-1], shape[:-1]) if name.startswith("sparse") else rng.integers(0, 2, shape).astype(float)
    y = objective.mean_of(t, p, function, given_settings)
    assert y.shape == ()
    assert_close(y, np.mean(values(function(t, p, **given_settings))), "float64")
    if name.startswith("sparse") and shape[-1] == 1 and "logits" not in name:
        return  # a probability of 1 lies at the edge of the clip
    check_gradients(lambda t, p: objective.mean_of(t, p, function, given_settings), t, p)


def test_mean_of_clipped_probabilities_has_no_slope(device):
    p = np.array([[0.0], [1.0], [0.25]])
    t = np.array([[1.0], [0.0], [1.0]])
    _, backward = objective.mean_of.function(
        *(devices.to_device(v) for v in (t, p)), crossentropy.binary_crossentropy, {}
    )
    dy = devices.to_device(np.ones(()))
    _, dp = backward(dy, (False, True))
    assert_close(dp, [[0.0], [0.0], [-4.0 / 3.0]])
