import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.symbolic import KerasTensor
from tests.helpers import assert_close, values


def test_filled(device):
    for made, expected in (
        (ops.zeros((2, 3)), np.zeros((2, 3), "float32")),
        (ops.ones(2, "int32"), np.ones(2, "int32")),
        (ops.empty((2,)), np.zeros(2, "float32")),
        (ops.full((2, 2), 7, "float64"), np.full((2, 2), 7.0)),
        (ops.full((2, 2), np.array([1, 2])), np.float32([[1, 2], [1, 2]])),
        (ops.eye(2, 3, 1), np.eye(2, 3, 1, dtype="float32")),
        (ops.identity(3, "float16"), np.identity(3, "float16")),
        (ops.tri(3, 4, -1), np.tri(3, 4, -1, dtype="float32")),
    ):
        assert made.dtype == expected.dtype
        assert_close(made, expected)


def test_likes(float_dtype, device):
    x = np.ones((2, 3), float_dtype)
    for made, expected in (
        (ops.zeros_like(x), np.zeros_like(x)),
        (ops.ones_like(x, "int32"), np.ones_like(x, "int32")),
        (ops.empty_like(x), np.zeros_like(x)),
        (ops.full_like(x, 7), np.full_like(x, 7)),
        (ops.full_like(x, np.arange(3)), np.full_like(x, np.arange(3))),
    ):
        assert made.dtype == expected.dtype
        assert_close(made, expected)
    assert ops.ones_like(KerasTensor((None, 3), float_dtype)).shape == (None, 3)


@pytest.mark.parametrize("arguments", [(5,), (1, 5), (1, 9, 2), (5, 0, -2), (0.0, 1.0, 0.25), (2.5,), (0,)])
def test_arange(arguments, device):
    made = ops.arange(*arguments)
    expected = np.arange(*arguments)
    assert_close(made, expected.astype("int32" if expected.dtype.kind == "i" else "float32"))
    assert ops.arange(*arguments, dtype="float64").dtype == "float64"


def test_arange_of_a_tensor_and_without_step(device):
    assert values(ops.arange(ops.convert_to_tensor(3))).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="step that is not 0"):
        ops.arange(0, 3, 0)


def test_spaces(device):
    assert_close(ops.linspace(0, 1, 5), np.linspace(0, 1, 5, dtype="float32"))
    numbers, step = ops.linspace(0.0, 2.0, 4, endpoint=False, retstep=True, dtype="float64")
    assert_close(numbers, np.linspace(0, 2, 4, endpoint=False))
    assert float(step) == 0.5
    ends = np.array([1.0, 2.0]), np.array([3.0, 5.0])
    assert_close(ops.linspace(*ends, num=3, axis=-1), np.linspace(*ends, num=3, axis=-1))
    assert ops.linspace(0, 1, 1).shape == (1,)
    assert_close(ops.logspace(0, 2, 3, base=2), np.float32([1, 2, 4]))


@pytest.mark.parametrize("indexing", ["xy", "ij"])
def test_meshgrid(indexing, device):
    vectors = np.arange(2.0), np.arange(3.0), np.arange(4.0)
    for count in (1, 2, 3):
        ours = ops.meshgrid(*vectors[:count], indexing=indexing)
        for a, b in zip(ours, np.meshgrid(*vectors[:count], indexing=indexing), strict=True):
            assert_close(a, b)
    with pytest.raises(ValueError, match="'xy' or 'ij'"):
        ops.meshgrid(*vectors, indexing="yx")
