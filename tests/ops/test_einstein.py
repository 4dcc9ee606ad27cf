import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.testing import check_gradients
from tests.helpers import assert_close

CASES = [
    ("ij->ij", (3, 4)),
    ("ij->ji", (3, 4)),
    ("ij->", (3, 4)),
    ("ijk->kj", (2, 3, 4)),
    ("ii", (3, 3)),
    ("ii->i", (3, 3)),
    ("iij->ji", (3, 3, 2)),
    ("ba", (3, 4)),
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij,jk", (2, 3), (3, 4)),
    ("ij,kj->ki", (2, 3), (4, 3)),
    ("i,j->ij", (2,), (3,)),
    ("ij,ij->", (2, 3), (2, 3)),
    ("ij,ij->i", (2, 3), (2, 3)),
    ("i,j->j", (2,), (3,)),
    ("bqhd,bkhd->bhqk", (2, 3, 4, 5), (2, 6, 4, 5)),
    ("bhqk,bkhd->bqhd", (2, 4, 3, 6), (2, 6, 4, 5)),
    ("abc,cde->abde", (2, 3, 4), (4, 5, 6)),
    ("abde,cde->abc", (2, 3, 5, 6), (4, 5, 6)),
    ("...ij,jk->...ik", (2, 5, 3, 4), (4, 2)),
    ("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 2)),
    ("...j,...j->...", (2, 3, 4), (2, 3, 4)),
    ("i...,i...->...", (2, 3), (2, 3)),
    ("ab,bc,cd->ad", (2, 3), (3, 4), (4, 5)),
    ("a,ab,b->", (2,), (2, 3), (3,)),
    ("ab, ac -> bc", (2, 3), (2, 4)),
]


@pytest.mark.parametrize(("subscripts", "shapes"), [(case[0], case[1:]) for case in CASES])
def test_einsum(subscripts, shapes, device):
    random = np.random.default_rng(0)
    operands = [random.standard_normal(shape) for shape in shapes]
    expected = np.einsum(subscripts, *operands)
    assert_close(ops.einsum(subscripts, *operands), expected)
    assert ops.einsum(subscripts, *map(KerasTensor, shapes)).shape == expected.shape
    check_gradients(lambda *xs: ops.einsum(subscripts, *xs), *operands)


def test_dtype_is_kept(float_dtype, device):
    x = np.ones((2, 3), float_dtype)
    assert ops.einsum("ij,kj->ik", x, x).dtype == float_dtype


def test_unknown_batch():
    x = KerasTensor((None, 3, 4))
    assert ops.einsum("abc,cd->abd", x, np.ones((4, 5), "float32")).shape == (None, 3, 5)


def test_errors():
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match="names 2 operands, but got 1"):
        ops.einsum("ij,jk->ik", x)
    with pytest.raises(ValueError, match="operand 0 has 2 axes, which do not fit 'ijk'"):
        ops.einsum("ijk->i", x)
    with pytest.raises(ValueError, match="each letter of the result"):
        ops.einsum("ij->ik", x)
    with pytest.raises(ValueError, match="axis 'j' has size 3 in one operand"):
        ops.einsum("ij,jk->ik", x, x)
    with pytest.raises(TypeError, match="unknown arguments"):
        ops.einsum("ij->i", x, order="C")
