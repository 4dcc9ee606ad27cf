"""The basic ops against the installed Keras: values and dtypes, over a table of calls and dtypes."""

import numpy as np
import pytest

from gpukeras import ops
from tests.helpers import TOLERANCES, values

pytestmark = pytest.mark.oracle

DTYPES = ["bool", "int8", "uint8", "int32", "float16", "float32"]
SCALARS = [True, 2, 0.5]


def array(dtype, shape=(3, 4), seed=0, low=-3.0, high=3.0):
    random = np.random.default_rng(seed)
    x = random.uniform(low, high, shape)
    if dtype == "bool":
        return x > (low + high) / 2
    if dtype == "uint8":
        x = np.abs(x)
    return np.round(x).astype(dtype) if dtype in ("int8", "uint8", "int32") else x.astype(dtype)


def both(name, *args, **settings):
    """What the oracle and we give: lists of arrays, or the type of the error."""
    from tests.oracle import keras

    with np.errstate(all="ignore"):
        try:
            expected = getattr(keras.ops, name)(*args, **settings)
        except Exception:
            return None, None
        actual = getattr(ops, name)(*args, **settings)
    return _flat(actual), _flat(expected)


def _flat(result):
    if isinstance(result, (list, tuple)):
        return [leaf for part in result for leaf in _flat(part)]
    return [result]


def assert_same(name, *args, **settings):
    """The same values and dtypes. Where the oracle refuses there is nothing to compare."""
    actual, expected = both(name, *args, **settings)
    if expected is None:
        pytest.skip("the oracle refuses these arguments")
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        theirs_array = np.asarray(theirs)
        ours_array = values(ours)
        assert ours_array.dtype.name == theirs_array.dtype.name
        assert ours_array.shape == theirs_array.shape
        if ours_array.dtype.name in TOLERANCES:
            # The oracle's own rounding comes in too, and XLA's short forms of transcendental functions.
            rtol, atol = TOLERANCES[ours_array.dtype.name]
            np.testing.assert_allclose(
                ours_array.astype("float64"),
                theirs_array.astype("float64"),
                rtol=2 * rtol,
                atol=2 * atol,
            )
        else:
            np.testing.assert_array_equal(ours_array, theirs_array)


def assert_same_dtypes(name, calls):
    """The dtype of each call's result. JAX finds it without compiling, so that many can be asked for."""
    from tests.oracle import jax, keras

    different = []
    for args in calls:
        arrays = [a for a in args if isinstance(a, np.ndarray)]

        def call(*traced, args=args):
            given = iter(traced)
            return getattr(keras.ops, name)(*(next(given) if isinstance(a, np.ndarray) else a for a in args))

        try:
            expected = jax.eval_shape(call, *arrays).dtype
        except Exception:
            continue  # the oracle refuses these arguments
        with np.errstate(all="ignore"):
            actual = getattr(ops, name)(*args).dtype
        if actual != expected:
            kinds = [getattr(a, "dtype", type(a).__name__) for a in args]
            different.append(f"{name} of {', '.join(map(str, kinds))}: {actual}, Keras {expected}")
    assert not different, "\n".join(different)


UNARY = (
    "abs absolute arccos arccosh arcsin arcsinh arctan arctanh bitwise_invert bitwise_not ceil copy cos "
    "cosh deg2rad erf erfc exp expm1 floor isfinite isinf isnan log log10 log1p log2 logical_not "
    "nan_to_num negative ones_like rad2deg reciprocal round rsqrt sign sin sinh sqrt square tan tanh "
    "trunc zeros_like all amax amin any argmax argmin argsort average count_nonzero cumprod cumsum "
    "logsumexp max mean median min prod sort std sum var ravel transpose diagonal trace tril triu "
    "flip diff norm nonzero normalize"
).split()


@pytest.mark.parametrize("dtype", ["int32", "float16", "float32"])
@pytest.mark.parametrize("name", UNARY)
def test_of_one_array(name, dtype):
    assert_same(name, array(dtype))


@pytest.mark.parametrize("name", [name for name in UNARY if name != "nonzero"])
def test_dtypes_of_one_array(name):
    assert_same_dtypes(name, [(array(dtype),) for dtype in DTYPES])


@pytest.mark.parametrize("name", UNARY[: UNARY.index("all")])
def test_dtypes_of_a_python_number(name):
    assert_same_dtypes(name, [(scalar,) for scalar in SCALARS])


BINARY = (
    "add arctan2 bitwise_and bitwise_or bitwise_xor divide divide_no_nan equal floor_divide greater "
    "greater_equal isclose less less_equal logaddexp logical_and logical_or logical_xor maximum minimum "
    "mod multiply not_equal power subtract true_divide"
).split()


@pytest.mark.parametrize(("dtype1", "dtype2"), [("int32", "int32"), ("float32", "float32"), ("int8", "float16")])
@pytest.mark.parametrize("name", BINARY)
def test_of_two_arrays(name, dtype1, dtype2):
    x2 = array(dtype2, seed=1, low=0.6, high=2.4)
    assert_same(name, array(dtype1, low=0.6 if name == "power" else -3), x2)


@pytest.mark.parametrize("name", BINARY)
def test_dtypes_of_two_arrays(name):
    x = {dtype: array(dtype, low=0.6) for dtype in DTYPES}
    assert_same_dtypes(name, [(x[dtype1], x[dtype2]) for dtype1 in DTYPES for dtype2 in DTYPES])


@pytest.mark.parametrize("name", BINARY)
def test_dtypes_of_an_array_and_a_python_number(name):
    calls = []
    for dtype in DTYPES:
        for scalar in SCALARS:
            if name in ("arctan2", "logaddexp") and dtype == "float16" and scalar == 0.5:
                continue  # Keras's op and its own compute_output_spec disagree; we follow the latter
            x = array(dtype, low=0.6)
            calls += [(x, scalar), (scalar, x)]
    assert_same_dtypes(name, [*calls, (3, 2), (3, 2.5), (True, 2)])


F = array("float32")
G = array("float32", seed=1)
CUBE = array("float32", (2, 3, 4))
INDEX = np.array([[2, 0], [1, 1]], "int32")
SQUARE = array("float32", (2, 3, 3)) + 4 * np.eye(3, dtype="float32")
POSITIVE = (SQUARE @ SQUARE.swapaxes(-1, -2)).astype("float32")

CALLS = [
    ("clip", (F, -1, 1), {}),
    ("clip", (array("int32"), -1, 1), {}),
    ("clip", (array("bool"), 0, 1), {}),
    ("clip", (F, G, G + 1), {}),
    ("where", (F > 0, F, G), {}),
    ("where", (F > 0, F, 0), {}),
    ("where", (F > 0, 1, 0.5), {}),
    ("where", (F > 0, array("int32"), G), {}),
    ("where", (F > 0,), {}),
    ("round", (F,), {"decimals": 1}),
    ("nan_to_num", (np.array([np.nan, np.inf, -np.inf, 1.0], "float32"),), {}),
    ("nan_to_num", (np.array([np.nan, np.inf, -np.inf, 1.0], "float32"), 1.0, 2.0, 3.0), {}),
    ("allclose", (F, F), {}),
    ("isclose", (np.float32([np.nan, np.inf]), np.float32([np.nan, np.inf])), {"equal_nan": True}),
    ("bitwise_left_shift", (array("int32"), np.int32(2)), {}),
    ("bitwise_right_shift", (array("int32"), np.int32(1)), {}),
    *[
        (name, (CUBE,), {"axis": axis, "keepdims": keepdims})
        for name in "sum mean prod max min std var any all logsumexp amax amin median".split()
        for axis in (None, 0, -1, (0, 2), (-1, -2))
        for keepdims in (False, True)
    ],
    *[
        (name, (CUBE,), {"axis": axis, "keepdims": keepdims})
        for name in ("argmax", "argmin")
        for axis in (None, 1, -1)
        for keepdims in (False, True)
    ],
    *[
        (name, (CUBE,), {"axis": axis})
        for name in "cumsum cumprod sort argsort count_nonzero".split()
        for axis in (None, 0, -1)
        if not (name in ("sort", "argsort") and axis is None)
    ],
    ("max", (CUBE,), {"axis": 1, "initial": 0.5}),
    ("min", (CUBE,), {"axis": 1, "initial": 0.5}),
    ("max", (np.zeros((0, 2), "float32"),), {"axis": 0, "initial": 0.5}),
    ("sum", (np.zeros((0, 2), "float32"),), {"axis": 0}),
    ("cumsum", (array("int32"),), {"axis": 0, "dtype": "float32"}),
    ("prod", (array("int32"),), {"axis": 0, "dtype": "float32"}),
    ("moments", (CUBE, (0, 2)), {"keepdims": True}),
    ("moments", (CUBE.astype("float16"), (0, 2)), {}),
    ("average", (CUBE,), {"axis": 1, "weights": np.array([1.0, 2.0, 3.0], "float32")}),
    ("average", (CUBE,), {"weights": np.abs(CUBE)}),
    ("quantile", (CUBE, 0.3), {"axis": 1}),
    ("quantile", (CUBE, np.array([0.3, 0.8], "float32")), {"axis": (0, 2), "keepdims": True}),
    ("quantile", (CUBE, 0.3), {"axis": 1, "method": "nearest"}),
    ("quantile", (CUBE, 0.3), {"axis": 1, "method": "lower"}),
    ("quantile", (CUBE, 0.3), {"axis": 1, "method": "higher"}),
    ("quantile", (CUBE, 0.3), {"axis": 1, "method": "midpoint"}),
    ("top_k", (F, 2), {}),
    ("top_k", (array("int32"), 3), {}),
    ("in_top_k", (np.array([0, 3, 1]), F), {"k": 2}),
    ("segment_sum", (F, np.array([0, 2, 0]), 4), {}),
    ("segment_max", (F, np.array([0, 2, 0]), 4), {}),
    ("segment_min", (F, np.array([0, 2, 0]), 3), {}),
    ("segment_prod", (F, np.array([0, 2, 0]), 3), {}),
    ("searchsorted", (np.sort(F[0]), G[0]), {}),
    ("searchsorted", (np.array([1, 2, 2, 3]), np.array([2])), {"side": "right"}),
    ("digitize", (F, np.array([-1.0, 0.0, 1.0], "float32")), {}),
    ("bincount", (np.array([1, 5, 1]),), {}),
    ("bincount", (np.array([[1, 5, 1], [0, 0, 2]]),), {"minlength": 8}),
    ("bincount", (np.array([1, 5, 1]),), {"weights": np.array([0.5, 1.0, 2.0], "float32")}),
    ("isin", (array("int32"), np.array([1, 2], "int32")), {}),
    ("isin", (array("int32"), np.array([1, 2], "int32")), {"invert": True}),
    ("diff", (CUBE,), {"n": 2, "axis": 1}),
    ("reshape", (CUBE, (4, -1)), {}),
    ("reshape", (CUBE, -1), {}),
    ("transpose", (CUBE, (1, 2, 0)), {}),
    ("swapaxes", (CUBE, 0, -1), {}),
    ("moveaxis", (CUBE, 0, -1), {}),
    ("moveaxis", (CUBE, (0, 1), (-1, 0)), {}),
    ("expand_dims", (CUBE, -1), {}),
    ("expand_dims", (CUBE, (0, 2)), {}),
    ("squeeze", (CUBE[:, :1],), {}),
    ("squeeze", (CUBE[:, :1], 1), {}),
    ("broadcast_to", (F, (2, 3, 4)), {}),
    ("flip", (CUBE, 1), {}),
    ("flip", (CUBE, (0, 2)), {}),
    ("roll", (CUBE, 1), {}),
    ("roll", (CUBE, 2), {"axis": 1}),
    ("roll", (CUBE, (1, -1)), {"axis": (0, 2)}),
    *[("rot90", (CUBE, k), {"axes": axes}) for k in range(-1, 4) for axes in ((0, 1), (2, 1))],
    ("repeat", (CUBE, 2), {}),
    ("repeat", (CUBE, 2), {"axis": 1}),
    ("repeat", (CUBE, [1, 0, 2]), {"axis": 1}),
    ("tile", (CUBE, 2), {}),
    ("tile", (CUBE, (2, 1, 1, 3)), {}),
    ("tile", (CUBE, (2, 1)), {}),
    ("concatenate", ([F, G],), {"axis": -1}),
    ("concatenate", ([F, array("int32"), array("float16")],), {}),
    ("stack", ([F, G],), {"axis": -1}),
    ("stack", ([array("int32"), array("bool")],), {"axis": 1}),
    ("hstack", ([F, G],), {}),
    ("hstack", ([F[0], G[0]],), {}),
    ("vstack", ([F[0], G],), {}),
    ("dstack", ([F, G],), {}),
    ("append", (F, G), {"axis": 1}),
    ("append", (F, G), {}),
    ("split", (CUBE, 2), {"axis": -1}),
    ("split", (CUBE, [1, 3]), {"axis": -1}),
    ("array_split", (CUBE, 3), {"axis": -1}),
    ("unstack", (CUBE,), {"axis": 1}),
    ("ravel", (CUBE,), {}),
    ("pad", (F, 1), {}),
    ("pad", (F, ((1, 0), (2, 3))), {"mode": "constant", "constant_values": 7}),
    ("pad", (F, ((1, 0), (2, 3))), {"mode": "reflect"}),
    ("pad", (F, ((1, 2), (2, 3))), {"mode": "symmetric"}),
    ("pad", (F, ((1, 0), (0, 0))), {"mode": "symmetric"}),
    ("tril", (CUBE,), {"k": 1}),
    ("triu", (CUBE,), {"k": -1}),
    ("diagonal", (CUBE,), {"offset": 1, "axis1": 0, "axis2": 2}),
    ("diag", (F,), {"k": 1}),
    ("diag", (F[0],), {"k": -1}),
    ("trace", (CUBE,), {"offset": 1}),
    ("zeros", ((2, 3),), {}),
    ("ones", ((2, 3), "int32"), {}),
    ("full", ((2, 3), 7), {}),
    ("full", ((2, 3), True, "bool"), {}),
    ("full_like", (F, 2), {}),
    ("full_like", (F, 2, "int32"), {}),
    ("zeros_like", (F, "int32"), {}),
    ("eye", (3,), {}),
    ("eye", (3, 4, 1), {"dtype": "int32"}),
    ("identity", (3,), {}),
    ("tri", (3, 4, -1), {}),
    ("arange", (5,), {}),
    ("arange", (1, 7, 2), {}),
    ("arange", (0.0, 1.0, 0.25), {}),
    ("arange", (5, 1, -1), {}),
    ("arange", (5,), {"dtype": "float32"}),
    ("arange", (np.int16(3),), {}),
    ("linspace", (0, 1, 5), {}),
    ("linspace", (0.0, 1.0), {"num": 4, "endpoint": False, "retstep": True}),
    ("linspace", (F[0], G[0]), {"num": 4, "axis": -1}),
    ("logspace", (0, 2, 5), {}),
    ("meshgrid", (F[0], G[0, :2]), {}),
    ("meshgrid", (F[0], G[0, :2], F[1]), {"indexing": "ij"}),
    ("take", (CUBE, INDEX), {}),
    ("take", (CUBE, INDEX), {"axis": 1}),
    ("take", (CUBE, np.array([-1, 0])), {"axis": 0}),
    ("take", (CUBE, 1), {"axis": -1}),
    ("take_along_axis", (F, np.array([[0], [3], [1]])), {"axis": 1}),
    ("take_along_axis", (F, np.array([0, 5])), {}),
    ("slice", (CUBE, (0, 1, 1), (2, 1, 2)), {}),
    ("slice", (CUBE, (0, 2, 3), (2, 2, 2)), {}),
    ("slice_update", (CUBE, (0, 1, 1), np.ones((2, 1, 2), "float32")), {}),
    ("scatter", (np.array([[0], [2], [2]]), F, (4, 4)), {}),
    ("scatter", (np.array([[0, 1], [2, 2], [2, 2]]), F[:, 0], (4, 4)), {}),
    ("scatter_update", (F, np.array([[0, 1], [2, 2]]), np.ones(2, "float32")), {}),
    ("scatter_update", (F, np.array([[0], [2]]), np.ones((2, 4), "float32")), {}),
    *[
        (
            "scatter_update",
            (F, np.array([[0, 1], [2, 2]]), np.full(2, 0.5, "float32"), reduction),
            {},
        )
        for reduction in ("add", "mul", "max", "min")
    ],
    ("one_hot", (INDEX, 3), {}),
    ("one_hot", (INDEX, 3), {"axis": 0, "dtype": "int32"}),
    ("one_hot", (INDEX, 3), {"axis": 1}),
    ("one_hot", (np.array([-1, 3, 0]), 3), {}),
    ("multi_hot", (INDEX, 3), {}),
    ("multi_hot", (INDEX[0], 3), {}),
    ("get_item", (CUBE, (slice(None), 1, None, slice(None, None, 2))), {}),
    ("get_item", (CUBE, INDEX % 2), {}),
    ("get_item", (CUBE, CUBE > 0), {}),
    ("get_item", (CUBE, (Ellipsis, np.array([0, 2]))), {}),
    ("matmul", (CUBE, SQUARE[0, :, :1].repeat(4, 0)[:4]), {}),
    ("matmul", (array("int32", (3, 3)), array("int32", (3, 3))), {}),
    ("matmul", (array("int8", (3, 3)), array("float16", (3, 3))), {}),
    ("matmul", (F, F[0]), {}),
    ("dot", (CUBE, array("float32", (4, 2))), {}),
    ("dot", (F[0], G[0]), {}),
    ("dot", (F, 2.0), {}),
    ("inner", (CUBE, F), {}),
    ("vdot", (F, G), {}),
    ("outer", (F, G[0]), {}),
    ("tensordot", (CUBE, array("float32", (4, 3, 2))), {"axes": [[1, 2], [1, 0]]}),
    ("tensordot", (CUBE, array("float32", (3, 4, 2))), {"axes": 2}),
    ("tensordot", (F, G), {"axes": 0}),
    ("einsum", ("ij,kj->ik", F, G), {}),
    ("einsum", ("...ij,kj->...ik", CUBE, G), {}),
    ("einsum", ("ij,kj->ik", array("int32"), G), {}),
    ("einsum", ("ij,kj->ik", array("int32"), array("int32")), {}),
    ("cross", (F[:, :3], G[:, :3]), {}),
    *[("norm", (F,), {"ord": o, "axis": 1}) for o in (None, 0, 1, 2, 3, np.inf, -np.inf)],
    *[("norm", (CUBE,), {"ord": o, "axis": (1, 2), "keepdims": True}) for o in (None, "fro", 1, -1, np.inf, -np.inf)],
    ("norm", (CUBE,), {}),
    *[("normalize", (F,), {"order": o, "axis": a}) for o in (1, 2, 3) for a in (0, -1)],
    ("inv", (SQUARE,), {}),
    ("det", (SQUARE,), {}),
    ("solve", (SQUARE, SQUARE[:, :, :2]), {}),
    ("solve", (SQUARE[0], SQUARE[0, 0]), {}),
    ("cholesky", (POSITIVE,), {}),
    ("cholesky", (POSITIVE,), {"upper": True}),
    ("erfinv", (np.array([-0.9, 0.1, 0.5], "float32"),), {}),
    ("cast", (F, "int32"), {}),
    ("cast", (F, "float16"), {}),
    ("cast", (F, "bool"), {}),
    ("saturate_cast", (100 * F, "uint8"), {}),
    ("saturate_cast", (array("int32") * 100, "int8"), {}),
    ("saturate_cast", (1e5 * F, "float16"), {}),
    ("convert_to_tensor", ([1, 2],), {}),
    ("convert_to_tensor", ([1.0, 2],), {}),
    ("convert_to_tensor", ([True],), {}),
    ("convert_to_tensor", (F, "int32"), {}),
    ("logical_not", (F,), {}),
]


@pytest.mark.parametrize(("name", "args", "settings"), CALLS, ids=[f"{i}-{call[0]}" for i, call in enumerate(CALLS)])
def test_call(name, args, settings):
    assert_same(name, *args, **settings)


def test_signatures_are_kerass():
    """Names, order and defaults of all arguments."""
    import inspect

    from tests.oracle import keras

    def arguments(function):
        return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]

    different = []
    for name in ops.__all__:
        theirs = getattr(keras.ops, name, None)
        if name == "layer_normalization":
            continue  # its **kwargs are one argument, which is named here
        if callable(theirs) and arguments(getattr(ops, name)) != arguments(theirs):
            different.append(f"{name}: {arguments(getattr(ops, name))}, Keras {arguments(theirs)}")
    assert not different, "\n".join(different)


TIES = {
    "maximum": (lambda ops_, x: ops_.maximum(x, 1.0), [0.0, 1.0, 2.0]),
    "maximum of itself": (lambda ops_, x: ops_.maximum(x, x), [0.0, 1.0]),
    "minimum": (lambda ops_, x: ops_.minimum(1.0, x), [0.0, 1.0, 2.0]),
    "clip": (lambda ops_, x: ops_.clip(x, 0, 1), [-1.0, 0.0, 0.5, 1.0, 2.0]),
    "abs": (lambda ops_, x: ops_.abs(x), [-1.0, 0.0, 2.0]),
    "max": (lambda ops_, x: ops_.max(x), [1.0, 2.0, 2.0]),
    "min": (lambda ops_, x: ops_.min(x), [1.0, 1.0, 2.0]),
    "sign": (lambda ops_, x: ops_.sign(x), [-1.0, 0.0, 2.0]),
    "floor": (lambda ops_, x: ops_.floor(x) + ops_.round(x) + ops_.ceil(x), [0.5, 1.0]),
    "mod": (lambda ops_, x: x % 0.7 + 2.3 % x, [0.5, 1.1]),
    "power": (lambda ops_, x: x**2 + x**0 + x**3, [0.0, -1.0, 2.0]),
    "divide_no_nan": (lambda ops_, x: ops_.divide_no_nan(1.0, x), [0.0, 2.0]),
    "sort": (lambda ops_, x: ops_.sort(x) * np.array([1.0, 2.0, 3.0], "float32"), [2.0, 1.0, 2.0]),
    "top_k": (lambda ops_, x: ops_.top_k(x, 2)[0], [2.0, 1.0, 2.0, 2.0]),
    "prod": (lambda ops_, x: ops_.prod(x), [0.0, 2.0, 3.0]),
    "cast": (lambda ops_, x: x * ops_.cast(ops_.cast(x, "int32"), "float32"), [1.5, 2.0]),
    "where": (lambda ops_, x: ops_.where(x > 1, x, 0.0), [1.0, 2.0]),
}


@pytest.mark.parametrize("name", TIES)
def test_gradients_at_ties_and_kinks(name):
    from gpukeras.autograd.tape import Tape
    from gpukeras.autograd.tensor import Tensor
    from tests.oracle import jax, jnp, keras

    function, point = TIES[name]
    point = np.array(point, "float32")
    expected = jax.grad(lambda x: jnp.sum(function(keras.ops, x)))(jnp.asarray(point))
    x = Tensor(point)
    with Tape() as tape:
        tape.watch(x)
        y = function(ops, x)
    (dx,) = tape.gradients([(y, np.ones(y.shape, "float32"))], [x])
    np.testing.assert_allclose(np.zeros_like(point) if dx is None else dx, expected, rtol=1e-6)
