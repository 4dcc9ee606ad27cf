import numpy as np
import pytest

from gpukeras import ops
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, values

X = np.random.default_rng(0).standard_normal((3, 4, 5))
IDS = np.array([1, 0, 1, 3, -1, 9])
ROWS = np.random.default_rng(1).standard_normal((6, 2))


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_order(axis, device):
    assert_close(ops.sort(X, axis=axis), np.sort(X, axis=axis))
    np.testing.assert_array_equal(values(ops.argsort(X, axis=axis)), np.argsort(X, axis=axis))
    assert ops.argsort(X).dtype == "int32"
    check_gradients(ops.sort, X, axis=axis)


def test_equal_elements_keep_their_order(device):
    assert values(ops.argsort(np.array([1, 0, 1, 0]))).tolist() == [1, 3, 0, 2]
    assert values(ops.top_k(np.array([1, 0, 1, 0]), 3)[1]).tolist() == [0, 2, 1]


def test_top_k(float_dtype, device):
    x = X.astype(float_dtype)
    largest, places = ops.top_k(x, 2)
    assert (largest.dtype, places.dtype) == (float_dtype, "int32")
    assert_close(largest, np.sort(x, axis=-1)[..., ::-1][..., :2])
    assert_close(np.take_along_axis(x, values(places), -1), largest)
    check_gradients(lambda x: ops.top_k(x, 2)[0], X)
    with pytest.raises(ValueError, match="cannot find 6 elements"):
        ops.top_k(x, 6)


def test_in_top_k(device):
    scores = np.array([[0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [np.nan, 0.1, 0.2], [0.1, 0.5, 0.4]])
    targets = np.array([2, 0, 0, 7])
    assert values(ops.in_top_k(targets, scores, 1)).tolist() == [False, False, False, False]
    assert values(ops.in_top_k(targets, scores, 2)).tolist() == [True, True, False, False]
    with pytest.raises(ValueError, match="predictions .batch, classes."):
        ops.in_top_k(targets, targets, 1)


def test_segments(device):
    for name, start, join in (
        ("segment_sum", 0.0, np.add),
        ("segment_max", -np.inf, np.maximum),
        ("segment_min", np.inf, np.minimum),
        ("segment_prod", 1.0, np.multiply),
    ):
        expected = np.full((4, 2), start)
        for row, i in zip(ROWS, IDS, strict=True):
            if 0 <= i < 4:
                expected[i] = join(expected[i], row)
        assert_close(getattr(ops, name)(ROWS, IDS, num_segments=4), expected)
    check_gradients(lambda x: ops.segment_sum(x, IDS, 4), ROWS)
    ids = np.array([1, 0, 1, 0, 1, 1])
    assert ops.segment_sum(ROWS, ids).shape == (2, 2)
    check_gradients(lambda x: ops.segment_max(x, ids, 2), ROWS)
    check_gradients(lambda x: ops.segment_min(x, ids), ROWS)
    with pytest.raises(ValueError, match="one segment id for each"):
        ops.segment_sum(ROWS, ids[:2])


def test_places_in_sorted_vectors(device):
    edges = np.array([-1.0, 0.0, 1.0])
    for side in ("left", "right"):
        ours = ops.searchsorted(edges, np.append(X[0, 0], edges), side=side)
        assert ours.dtype == "int32"
        np.testing.assert_array_equal(values(ours), np.searchsorted(edges, np.append(X[0, 0], edges), side))
    np.testing.assert_array_equal(values(ops.digitize(X, edges)), np.digitize(X, edges))
    with pytest.raises(ValueError, match="'left' or 'right'"):
        ops.searchsorted(edges, edges, side="up")
    with pytest.raises(ValueError, match="sorted vector"):
        ops.searchsorted(X, edges)


def test_bincount(device):
    x = np.array([0, 3, 3, 1])
    np.testing.assert_array_equal(values(ops.bincount(x, minlength=6)), np.bincount(x, minlength=6))
    weights = np.array([0.5, 1.0, 2.0, 3.0])
    assert_close(ops.bincount(x, weights=weights), np.bincount(x, weights=weights))
    assert values(ops.bincount(np.array([[0, 1], [1, 1]]))).tolist() == [[1, 1], [0, 2]]
    with pytest.raises(NotImplementedError, match="sparse"):
        ops.bincount(x, sparse=True)
    with pytest.raises(ValueError, match="vector or a matrix"):
        ops.bincount(np.zeros((1, 1, 1), int))


def test_isin(device):
    x = np.arange(6).reshape(2, 3)
    assert_close(ops.isin(x, [1, 4]), np.isin(x, [1, 4]))
    assert_close(ops.isin(x, [1, 4], invert=True), np.isin(x, [1, 4], invert=True))


def test_diff(device):
    for n in (0, 1, 2):
        for axis in (0, -1):
            assert_close(ops.diff(X, n=n, axis=axis), np.diff(X, n=n, axis=axis))
    check_gradients(ops.diff, X, n=2, axis=1)


@pytest.mark.parametrize("axis", [None, 1, (0, 2)])
@pytest.mark.parametrize("method", ["linear", "lower", "higher", "midpoint", "nearest"])
def test_quantile(method, axis, device):
    for q in (0.0, 0.3, 1.0, [0.2, 0.7]):
        for keepdims in (False, True):
            settings = {"axis": axis, "method": method, "keepdims": keepdims}
            assert_close(ops.quantile(X, q, **settings), np.quantile(X, q, **settings))
    check_gradients(ops.quantile, X, q=[0.2, 0.7], axis=axis, method=method)


def test_median(device):
    assert_close(ops.median(X, axis=1, keepdims=True), np.median(X, axis=1, keepdims=True))
    check_gradients(ops.median, X, axis=-1)
    with pytest.raises(ValueError, match="method must be"):
        ops.quantile(X, 0.5, method="best")
