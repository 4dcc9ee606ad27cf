import numpy as np
import pytest

import gpukeras as keras
from gpukeras.backend import dtypes
from gpukeras.backend.memory import ALIGNMENT, FlatBuffer

NAMES = ["bool", "uint8", "int8", "int16", "int32", "int64", "uint32", "float16", "bfloat16", "float32", "float64"]


@pytest.mark.oracle
@pytest.mark.parametrize("first", [*NAMES, int, float])
def test_promotion_equals_keras(first):
    from tests.oracle import keras as oracle_keras

    for second in NAMES:
        if "64" in str(first) or "64" in second:
            continue  # Keras on JAX has no 64-bit types unless JAX is told so
        if "uint32" in (first, second) and {"int8", "int16", "int32"} & {first, second}:
            continue  # int64 on the other backends
        expected = oracle_keras.backend.result_type(first, second)
        assert dtypes.result_type(first, second).name == expected, (first, second)


def test_names_and_errors():
    assert dtypes.name_of(float) == "float32" and dtypes.name_of(int) == "int32" and dtypes.name_of(bool) == "bool"
    assert dtypes.name_of(np.float64) == "float64" and dtypes.as_dtype("bfloat16").itemsize == 2
    with pytest.raises(ValueError, match="'float32'"):
        dtypes.name_of("flaot32")


def test_floatx_and_policies():
    keras.config.set_floatx("float64")
    try:
        assert keras.layers.Dense(1)(np.ones((1, 1))).dtype == "float64"
        assert keras.ops.ones(2).dtype == "float64"
    finally:
        keras.config.set_floatx("float32")
    with pytest.raises(ValueError, match="floatx"):
        keras.config.set_floatx("int8")
    policy = keras.DTypePolicy("mixed_float16")
    assert (policy.compute_dtype, policy.variable_dtype) == ("float16", "float32")
    assert policy == keras.DTypePolicy.from_config(policy.get_config())
    with pytest.raises(ValueError, match="mixed"):
        keras.DTypePolicy("mixed_float8")


def test_flat_buffers_hold_aligned_views():
    buffer = FlatBuffer([(3, 2), (), (65,), (0, 4)], "float32")
    for view, (start, stop) in zip(buffer.views, buffer.segments, strict=True):
        assert start % ALIGNMENT == 0 and stop - start == view.size
        view[...] = 1
    assert buffer.array.sum() == 3 * 2 + 1 + 65
    assert [view.shape for view in buffer.like().views] == [(3, 2), (), (65,), (0, 4)]
    assert buffer.like().array.sum() == 0
