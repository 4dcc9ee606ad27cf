import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpukeras as keras
from gpukeras import ops
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices
from gpukeras.ops import indexing
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, values
from tests.strict_device import forbid_host_reads

X = np.random.default_rng(0).standard_normal((3, 4, 5))
KEYS = [
    1,
    -1,
    slice(1, None),
    (slice(None), 2),
    (slice(None, None, -2), None, 1),
    (Ellipsis, 0),
    (Ellipsis, None),
    (0, 1, 2),
    None,
    np.array([2, 0, 2]),
    np.array([[0, -1], [2, 2]]),
    [2, 0],
    (np.array([0, 1, 0]), np.array([3, 3, 3])),
    (slice(None), np.array([1, 1, 0])),
    (slice(None), np.array([1, 1, 0]), slice(0, 2)),
    (np.array([0, 1]), slice(None), np.array([3, 3])),
    (1, np.array([1, 1, 0])),
]


@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
def test_reading(key, device):
    x = Tensor(devices.to_device(X))
    assert_close(x[key], X[key])
    check_gradients(lambda x: x[key], X)


@pytest.mark.parametrize("key", [X > 0, X[:, 0, 0] > 0, (slice(None), X[0, :, 0] > 0)], ids=range(3))
def test_masks(key, device):
    assert_close(Tensor(devices.to_device(X))[key], X[key])
    check_gradients(lambda x: x[key], X)


def test_reading_with_tensors(device):
    x = Tensor(devices.to_device(X))
    index = ops.convert_to_tensor([2, 0])
    assert_close(x[index], X[[2, 0]])
    assert_close(x[ops.convert_to_tensor(1)], X[1])
    assert_close(x[np.int64(1)], X[1])
    assert_close(x[: ops.convert_to_tensor(2)], X[:2])


def test_nothing_is_read_back_by_slices(device):
    x = Tensor(devices.to_device(X))
    index = ops.convert_to_tensor([2, 0])
    with forbid_host_reads():
        assert x[1:, :, None].shape == (2, 4, 1, 5)
        assert x[index].shape == (2, 4, 5)
        assert ops.take(x, index, axis=1).shape == (3, 2, 5)
        assert ops.one_hot(index, 3).shape == (2, 3)


def test_placeholders():
    x = KerasTensor((None, 4, 5))
    assert x[:, 0].shape == (None, 5)
    assert x[..., None].shape == (None, 4, 5, 1)
    assert x[:, -2:].shape == (None, 2, 5)
    assert ops.take(x, [0, 1, 1], axis=2).shape == (None, 4, 3)
    assert ops.one_hot(KerasTensor((None,), "int32"), 7).shape == (None, 7)
    assert ops.slice(x, (0, 1, 0), (-1, 2, 5)).shape == (None, 2, 5)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_take(axis, float_dtype, device):
    x = X.astype(float_dtype)
    for index in (
        np.array([[1, 0], [2, 1]]),
        np.array(1),
        np.array([-1, 0, -1]),
        np.zeros((0,), "int32"),
    ):
        y = ops.take(x, index, axis=axis)
        assert y.dtype == float_dtype
        assert_close(y, np.take(x, index, axis=axis))
        check_gradients(lambda x, index=index: ops.take(x, index, axis=axis), X)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_take_along_axis(axis, device):
    index = np.argsort(X, axis=axis).take([1, 0], axis=axis)
    assert_close(ops.take_along_axis(X, index, axis=axis), np.take_along_axis(X, index, axis=axis))
    index = np.zeros_like(index)  # one element for all
    check_gradients(lambda x: ops.take_along_axis(x, index, axis=axis), X)


def test_rows_add_up_however_often_they_occur():
    """Rounds, runs and both together; the same bits every time."""
    rng = np.random.default_rng(0)
    for index in (
        rng.integers(0, 50, 400),
        np.zeros(100, int),
        np.r_[np.zeros(90, int), np.arange(30), np.full(40, 7)],
        np.arange(50),
        np.zeros(0, int),
    ):
        rows = rng.standard_normal((len(index), 3))
        expected = np.zeros((50, 3))
        np.add.at(expected, index, rows)
        summed = indexing.add_rows(50, index, rows)
        assert_close(summed, expected)
        assert summed.tobytes() == indexing.add_rows(50, index, rows).tobytes()


SCATTERED = {
    "rows": (np.array([3, 0, 3, -1]),),
    "pairs": (np.array([[0, 1], [0, 0]]), np.array([2, 2])),
    "a number and numbers": (1, np.array([4, 0, 4])),
    "a slice": (np.array([1, 1, 3]), slice(1, None, 2)),
    "a mask": (np.arange(20).reshape(4, 5) % 3 == 0,),
    "an array behind an ellipsis": (Ellipsis, np.array([1, 0, 1])),
    "elements": (np.array([0, 0, 3]), np.array([1, 1, 2]), np.array([0, 0, 1])),
}


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16, "int32"])
@pytest.mark.parametrize("name", SCATTERED)
def test_values_are_added_where_an_index_says(name, dtype, device, rng):
    """On a GPU by a kernel that adds in a fixed order, and never by `add.at`, which takes no bfloat16 either."""
    index = SCATTERED[name]
    target = (rng.normal(size=(4, 5, 2)) * 8).round().astype(dtype)
    values_ = (rng.normal(size=target[index].shape) * 8).round().astype(dtype)
    expected = target.astype("float64")
    np.add.at(expected, index, values_.astype("float64"))
    on_device = tuple(devices.to_device(part) if isinstance(part, np.ndarray) else part for part in index)
    for order in "CF":
        found = devices.to_device(target.copy(order))
        indexing.scatter_add(found, on_device, devices.to_device(values_))
        np.testing.assert_array_equal(values(found).astype("float64"), expected)
    one = devices.to_device(target.copy())
    indexing.scatter_add(one, on_device, devices.to_device(values_[..., :1]))  # which is broadcast


@pytest.mark.parametrize("device", ["emulator"], indirect=True)
@pytest.mark.parametrize("op", ["get_item", "take_along_axis", "scatter", "scatter_update"])
def test_a_gpu_adds_by_no_atomics(op, device, rng, monkeypatch):
    monkeypatch.setattr(devices.default_module(), "add", None)  # whose `at` they would be
    x, index = rng.normal(size=(4, 5)).astype("float32"), np.array([[0, 1], [3, 2], [0, 1]])
    x = keras.Variable(x)
    with keras.GradientTape() as tape:
        if op == "get_item":
            y = x[index[:, 0], index[:, 1]]
        elif op == "take_along_axis":
            y = ops.take_along_axis(x, index[:, :1].repeat(5, 1) % 4, axis=0)
        elif op == "scatter":
            y = ops.scatter(index, ops.take(ops.reshape(x, (-1,)), [0, 1, 2]), (4, 5))
        else:
            y = ops.scatter_update(x, index, ops.take(ops.reshape(x, (-1,)), [0, 1, 2]), "add")
        loss = ops.sum(y)
    assert np.isfinite(values(tape.gradient(loss, x))).all()


@given(
    count=st.sampled_from([1, 3, 40, 70_000]),
    shape=st.sampled_from([(), (0,), (1,), (5,), (2, 3)]),
    often=st.integers(0, 60),
    seldom=st.integers(0, 60),
    seed=st.integers(0, 9),
)
@settings(max_examples=80, derandomize=True, deadline=None)
def test_rows_add_up_as_one_by_one(count, shape, often, seldom, seed):
    """Some rows occur often, some seldom, in tables of more and of fewer rows than 16 bits can number."""
    rng = np.random.default_rng(seed)
    index = rng.permutation(np.r_[rng.integers(0, min(count, 3), often), rng.integers(0, count, seldom)])
    rows = rng.standard_normal((len(index), *shape))
    expected = np.zeros((count, *shape))
    np.add.at(expected, index, rows)
    assert_close(indexing.add_rows(count, index, rows), expected)
    out = np.full_like(expected, np.nan)
    assert indexing.add_rows(count, index, rows, out) is out
    assert_close(out, expected)


def test_the_gradient_of_rows_takes_any_layout(device):
    """Also that of a recurrent layer, whose time runs before its batch."""
    table = np.arange(12.0).reshape(4, 3)
    index, factor = np.array([[0, -1, 2, 0], [3, 3, 0, 1]]), np.arange(24.0).reshape(2, 4, 3)
    check_gradients(lambda x: ops.take(x, index, axis=0), table)
    check_gradients(lambda x: ops.swapaxes(ops.take(x, index, axis=0), 0, 1) * factor.swapaxes(0, 1), table)


def test_the_gradient_of_rows_goes_into_the_optimizers_buffer():
    """Two uses of one table add up, and the buffer's old values are gone."""
    table = keras.Variable(np.ones((4, 3), "float32"))
    for uses in (1, 2):
        place = np.full((4, 3), 7, "float32")
        with Tape() as tape:
            y = sum(ops.take(table, np.array([[0, 2], [2, 0]]), axis=0) for _ in range(uses))
        (found,) = tape.gradients([(y, np.ones((2, 2, 3), "float32"))], [table], {id(table.array): place})
        assert (found is place) == (uses == 1)
        assert_close(found, uses * np.array([2.0, 0, 2, 0])[:, None] * np.ones(3, "float32"))


def test_blocks(device):
    assert_close(ops.slice(X, (0, 1, 2), (2, -1, 2)), X[:2, 1:, 2:4])
    assert_close(ops.slice(X, (2, 3, 4), (2, 2, 2)), X[1:, 2:, 3:])  # moved until it fits
    updates = np.ones((2, 1, 2))
    expected = X.copy()
    expected[1:, 2:3, 3:] = 1
    assert_close(ops.slice_update(X, (1, 2, 3), updates), expected)
    check_gradients(lambda x: ops.slice(x, (0, 1, 2), (2, 2, 2)), X)
    check_gradients(lambda x, u: ops.slice_update(x, (1, 2, 3), u), X, updates)
    with pytest.raises(ValueError, match="a start and a size for each axis"):
        ops.slice(X, (0, 1), (2, 2))
    with pytest.raises(ValueError, match="does not fit"):
        ops.slice(X, (0, 0, 0), (4, 2, 2))


def test_scatter(device):
    index = np.array([[0, 1], [2, 3], [0, 1]])
    rows = X[0, :3]
    expected = np.zeros((3, 4, 5))
    np.add.at(expected, (index[:, 0], index[:, 1]), rows)
    assert_close(ops.scatter(index, rows, (3, 4, 5)), expected)
    check_gradients(lambda v: ops.scatter(index, v, (3, 4, 5)), rows)


def test_scatter_update(device):
    index = np.array([[0, 1], [2, 3]])
    rows = X[0, :2] + 1
    at = index[:, 0], index[:, 1]
    for reduction, join in (
        (None, lambda a, b: b),
        ("add", np.add),
        ("mul", np.multiply),
        ("max", np.maximum),
        ("min", np.minimum),
    ):
        expected = X.copy()
        expected[at] = join(X[at], rows)
        assert_close(ops.scatter_update(X, index, rows, reduction=reduction), expected)
    check_gradients(lambda x, u: ops.scatter_update(x, index, u), X, rows)
    check_gradients(lambda x, u: ops.scatter_update(x, index, u, "add"), X, rows)
    with pytest.raises(ValueError, match="reduction must be"):
        ops.scatter_update(X, index, rows, reduction="mean")


def test_one_hot(device):
    index = np.array([[0, 2], [1, -1]])
    expected = (index[..., None] == np.arange(3)).astype("float32")
    for axis in (-1, 0, 1):
        assert_close(ops.one_hot(index, 3, axis=axis), np.moveaxis(expected, -1, axis))
    assert ops.one_hot(index, 3, dtype="int32").dtype == "int32"
    assert_close(ops.multi_hot(index, 3), expected.max(axis=1))
    assert_close(ops.multi_hot(index[0], num_tokens=3), expected[0].max(axis=0))
    with pytest.raises(NotImplementedError, match="sparse"):
        ops.one_hot(index, 3, sparse=True)
    with pytest.raises(ValueError, match="num_classes"):
        ops.multi_hot(index)
    with pytest.raises(TypeError, match="unknown arguments"):
        ops.multi_hot(index, 3, classes=2)


def test_nonzero(device):
    for ours, theirs in zip(ops.nonzero(X > 0), np.nonzero(X > 0), strict=True):
        np.testing.assert_array_equal(values(ours), theirs)


def test_errors():
    x = Tensor(X)
    with pytest.raises(IndexError, match="Tensor of shape .3, 4, 5.*out of bounds"):
        x[3]
    with pytest.raises(IndexError, match="indexed by integers, slices and masks"):
        x[np.array([0.5])]
    with pytest.raises(IndexError, match="take needs indices below 3.*from 0 to 3"):
        ops.take(x, [0, 3], axis=0)
    with pytest.raises(ValueError, match="as many axes as x"):
        ops.take_along_axis(x, [0, 1], axis=0)
    with pytest.raises(TypeError, match="slice_update"):
        x[0] = 1.0
