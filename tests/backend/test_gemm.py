"""Products of device arrays: every layout decision is executed by a cuBLASLt in Python, on NumPy memory."""

import importlib.machinery
import itertools
import sys
import threading
import time
import types

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpukeras as keras
from gpukeras.backend import blas, cublaslt, cuda, devices, gemm, graphs
from tests import fake_cublaslt, fake_cuda, strict_device
from tests.helpers import assert_close
from tests.strict_device import StrictArray

DTYPES = [np.dtype("float16"), np.dtype(ml_dtypes.bfloat16), np.dtype("float32"), np.dtype("float64")]


def clear():
    for cached in (gemm._planned, cublaslt.handle, cublaslt.workspace):
        cached.cache_clear()


@pytest.fixture
def library(monkeypatch):
    """A cuBLASLt in Python, and a CuPy on NumPy memory that it works for."""
    made = fake_cublaslt.Library()
    made.cupy = fake_cuda.install(monkeypatch)
    monkeypatch.setattr(cublaslt, "_library", lambda: made)
    clear()
    yield made
    clear()


def on_device(array):
    """A device array over the same memory."""
    return StrictArray(array)


def whole_numbers(rng, shape, dtype):
    """Values whose products and sums are exact in every type."""
    return rng.integers(-2, 3, shape).astype(dtype)


def product(a, b):
    return np.matmul(a.astype("float64"), b.astype("float64"))


# --- How an array lies ---------------------------------------------------------------------------------------


def zeros(*shape):
    return np.zeros(shape, "float32")


@pytest.mark.parametrize(
    ("array", "is_transposed", "leading", "batch"),
    [
        (zeros(3, 4), False, 4, ()),
        (zeros(4, 3).T, True, 3, ()),
        (zeros(3, 8)[:, 2:6], False, 8, ()),  # some columns
        (zeros(9, 4)[::3], False, 12, ()),  # every third row
        (zeros(3, 8)[:, ::2].T[:1], True, 8, ()),  # one column of some matrix, seen as a row
        (zeros(2, 3, 4), False, 4, (12,)),
        (zeros(2, 3, 4).swapaxes(1, 2), True, 4, (12,)),
        (zeros(2, 5, 3, 4).transpose(0, 2, 1, 3), False, 12, (60, 4)),  # (b, t, h, d) seen as (b, h, t, d)
        (zeros(2, 5, 3, 4).transpose(0, 2, 3, 1), True, 12, (60, 4)),  # and its transpose
        (np.broadcast_to(zeros(3, 4), (7, 3, 4)), False, 4, (0,)),
        (zeros(1, 4), False, 4, ()),
        (zeros(4, 1), True, 4, ()),  # a column is taken as a row
        (zeros(4, 6)[:, :1], False, 6, ()),
        (zeros(6, 4)[::-6], False, 4, ()),  # one row has no step
        (zeros(1, 1), True, 1, ()),
    ],
)
def test_what_is_taken_as_it_is(array, is_transposed, leading, batch):
    assert gemm.operand(array) == (is_transposed, leading, batch)


@pytest.mark.parametrize(
    "array",
    [
        zeros(3, 8)[:, ::2],
        zeros(3, 4)[::-1],
        zeros(3, 4)[:, ::-1],
        zeros(2, 3, 4)[::-1],
        np.broadcast_to(zeros(4), (3, 4)),  # BLAS has no leading dimension 0
        np.broadcast_to(zeros(3, 1), (3, 4)),
        zeros(2, 3, 4).transpose(2, 1, 0),
        np.zeros((3, 4), [("x", "f4"), ("y", "f2")])["x"],  # steps that are no whole number of elements
    ],
)
def test_what_must_be_copied(array):
    assert gemm.operand(array) is None


def test_a_result_is_never_transposed():
    assert gemm.operand(zeros(4, 3).T, may_be_transposed=False) is None
    assert gemm.operand(zeros(4, 1), may_be_transposed=False) == (False, 1, ())


# --- How products are arranged -------------------------------------------------------------------------------


def arranged(a, b, out=None, **settings):
    out = np.empty((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), a.dtype)
    return gemm.arrange(a, b, out, **settings)


def test_one_kernel_for_all_is_one_product_of_all_rows():
    made, offsets = arranged(zeros(5, 6, 3, 4), zeros(4, 7))
    assert (made.rows, made.count, len(offsets)) == (90, 1, 1)


def test_a_transposed_operand_stays_a_batch():
    made, offsets = arranged(zeros(5, 4, 3).swapaxes(1, 2), zeros(4, 7))
    assert (made.rows, made.count, made.strides, len(offsets)) == (3, 5, (12, 0, 21), 1)


def test_contiguous_axes_are_one_batch():
    made, offsets = arranged(zeros(5, 6, 3, 4), zeros(5, 6, 4, 7))
    assert (made.count, made.strides, len(offsets)) == (30, (12, 28, 21), 1)


def test_heads_are_taken_from_where_they_lie():
    samples, time, heads, units = 9, 5, 3, 4
    q, k = [zeros(samples, time, heads, units).transpose(0, 2, 1, 3) for _ in range(2)]
    made, offsets = arranged(q, k.swapaxes(-1, -2))
    assert made.is_transposed == (False, True) and made.leading == (12, 12, 5)
    assert (made.count, made.strides) == (samples, (60, 60, 75))  # the longer axis
    assert offsets == tuple((h * units * 4, h * units * 4, h * time * time * 4) for h in range(heads))


def test_many_launches_are_worth_a_copy():
    heads, samples = gemm._MOST_LAUNCHES + 1, gemm._MOST_LAUNCHES + 2
    q, k = [zeros(samples, 2, heads, 3).transpose(0, 2, 1, 3) for _ in range(2)]
    copies = arranged(q, k.swapaxes(-1, -2))
    assert copies == {"a": (samples, heads, 2, 3), "b": (samples, heads, 3, 2)}
    copies = arranged(np.ascontiguousarray(q), k.swapaxes(-1, -2))
    assert copies == {"b": (samples, heads, 3, 2)}


@pytest.mark.parametrize(
    ("a", "b", "out"),
    [
        ((2, 3), (4, 5), (2, 5)),
        ((2, 3), (3, 5), (5, 2)),
        ((2, 2, 3), (3, 3, 5), (2, 2, 5)),
        ((2, 2, 3), (3, 5), (2, 5)),
    ],
)
def test_shapes_that_do_not_fit(a, b, out, library):
    message = rf"got \({a[0]}, .* of float32 and .* of float32 for a result .* of float32"
    with pytest.raises(ValueError, match=message):
        gemm.matmul(*[on_device(zeros(*shape)) for shape in (a, b, out)])


@pytest.mark.parametrize(
    ("types", "ndim"), [(("float32", "float64"), 2), (("int32", "int32"), 2), (("float32", "float32"), 1)]
)
def test_types_that_are_not_multiplied(types, ndim, library):
    a, b = [on_device(np.zeros((3, 3)[:ndim], dtype)) for dtype in types]
    with pytest.raises(TypeError, match=types[0]):
        gemm.matmul(a, b)
    with pytest.raises(TypeError, match="float16"):
        gemm.matmul(on_device(zeros(2, 2)), on_device(zeros(2, 2)), on_device(np.zeros((2, 2), "float16")))


# --- What comes out ------------------------------------------------------------------------------------------


@st.composite
def views(draw, shape):
    """How to make a view of some shape: an order of the axes of its base, steps, and what is cut off."""
    axes = draw(st.permutations(range(len(shape))))
    if draw(st.booleans()):
        axes = sorted(axes)
    step = st.sampled_from([1, 1, 1, 1, 2, -1])
    steps = [draw(step) for _ in shape]
    margins = [draw(st.sampled_from([0, 0, 1])) for _ in shape]
    return tuple(axes), tuple(steps), tuple(margins)


def view_of(shape, how, dtype):
    """A base full of NaN, and a view of it with the shape; the base's axes stand in another order."""
    axes, steps, margins = how
    sizes = [n * abs(step) + 2 * margin for n, step, margin in zip(shape, steps, margins, strict=True)]
    base = np.full([sizes[axis] for axis in axes], np.nan, dtype)
    cuts = []
    for n, step, margin in zip(shape, steps, margins, strict=True):
        part = slice(margin, margin + n * abs(step), abs(step))
        cuts.append((part, slice(None, None, -1 if step < 0 else 1)))
    array = base.transpose(np.argsort(axes))[tuple(cut[0] for cut in cuts)][tuple(cut[1] for cut in cuts)]
    assert array.shape == tuple(shape)
    return base, array


@st.composite
def products(draw):
    """Shapes of a and b, with axes to broadcast, and a way to lay out each array."""
    size = st.integers(1, 4)
    batch = draw(st.lists(size, max_size=2))
    rows, inner, columns = draw(size), draw(size), draw(size)

    def part():
        own = [1 if draw(st.integers(0, 4)) == 0 else n for n in batch]
        return own[draw(st.integers(0, len(own))) :]

    a, b = [*part(), rows, inner], [*part(), inner, columns]
    out = [*np.broadcast_shapes(tuple(a[:-2]), tuple(b[:-2])), rows, columns]
    return [(shape, draw(views(shape))) for shape in (a, b, out)]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    products(),
    st.sampled_from([(d, d) for d in DTYPES] + [(d, np.dtype("float32")) for d in DTYPES[:2]]),
    st.sampled_from([(1.0, 0.0), (0.5, 0.0), (1.0, 1.0), (-2.0, 1.0), (1.0, -1.0)]),
    st.sampled_from([1, 16]),
    st.integers(0, 2**32),
)
def test_every_view_gives_the_product(library, arrays, dtypes, numbers, most, seed):
    rng = np.random.default_rng(seed)
    (_, a), (_, b), (base, out) = [
        view_of(*array, dtype) for array, dtype in zip(arrays, (dtypes[0], dtypes[0], dtypes[1]), strict=True)
    ]
    for x in (a, b, out):
        x[...] = whole_numbers(rng, x.shape, x.dtype)
    alpha, beta = numbers
    expected = (alpha * product(a, b) + beta * out.astype("float64")).astype(out.dtype)
    given_a, given_b = a.copy(), b.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gemm, "_MOST_LAUNCHES", most)
        gemm._planned.cache_clear()
        result = gemm.matmul(on_device(a), on_device(b), on_device(out), alpha=alpha, beta=beta)
        gemm._planned.cache_clear()
    assert result._array is out
    np.testing.assert_array_equal(out, expected)
    assert np.count_nonzero(~np.isnan(base)) == out.size  # nothing is written around the result
    np.testing.assert_array_equal(a, given_a)
    np.testing.assert_array_equal(b, given_b)
    fresh = gemm.matmul(on_device(a), on_device(b), alpha=alpha)
    np.testing.assert_array_equal(fresh._array, (alpha * product(a, b)).astype(a.dtype))


@pytest.mark.parametrize("shapes", [((0, 3), (3, 4)), ((2, 3), (3, 0)), ((2, 0), (0, 4)), ((0, 2, 3), (3, 4))])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_empty_products(shapes, beta, library):
    a, b = [zeros(*shape) for shape in shapes]
    out = np.full(np.matmul(a, b).shape, 3.0, "float32")
    gemm.matmul(on_device(a), on_device(b), on_device(out), beta=beta)
    np.testing.assert_array_equal(out, np.full(out.shape, 3.0 * beta))
    assert library.launches == []


def test_heads_without_copies(library, rng):
    q, k = [whole_numbers(rng, (2, 5, 3, 4), "float32").transpose(0, 2, 1, 3) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library.cupy, "ascontiguousarray", None, raising=False)  # nothing may be copied
        scores = gemm.matmul(on_device(q), on_device(k).swapaxes(-1, -2))
    np.testing.assert_array_equal(scores._array, product(q, k.swapaxes(-1, -2)))
    assert [launch["count"] for launch in library.launches] == [3, 3]


def test_gradients_are_added_where_they_belong(library, rng):
    """A bfloat16 step with two micro-batches: dkernel += xᵀ · dy, written into a part of the float32 buffer."""
    flat = np.zeros(200, "float32")
    place = flat[64:84].reshape(4, 5)
    expected = np.zeros((4, 5))
    for _ in range(2):
        x, dy = [whole_numbers(rng, (7, n), ml_dtypes.bfloat16) for n in (4, 5)]
        gemm.matmul(on_device(x).T, on_device(dy), on_device(place), beta=1.0)
        expected += product(x.T, dy)
    np.testing.assert_array_equal(place, expected)
    assert np.count_nonzero(flat[:64]) == np.count_nonzero(flat[84:]) == 0


# --- Epilogues -----------------------------------------------------------------------------------------------


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


AFTER = {"bias": lambda y: y, "relu_bias": lambda y: np.maximum(y, 0), "gelu_bias": gelu}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("epilogue", AFTER)
@pytest.mark.parametrize("has_algorithm", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4), (2, 4, 3)])
def test_epilogues(dtype, epilogue, has_algorithm, shape, library, rng):
    if not has_algorithm:
        library.refused.add(cublaslt.EPILOGUES[epilogue])
    a, b = whole_numbers(rng, shape, dtype), whole_numbers(rng, (4, 5), dtype)
    if shape[-1] != 4:
        a = a.swapaxes(-1, -2)  # a batch, where (2, 3, 4) is one product of six rows
    bias = whole_numbers(rng, (5,), dtype) / dtype.type(2)
    y = gemm.matmul(on_device(a), on_device(b), epilogue=epilogue, vector=on_device(bias))
    expected = AFTER[epilogue](product(a, b) + bias.astype("float64"))
    assert y._array.dtype == dtype
    assert_close(y._array, expected.astype(dtype), dtype.name, scale=4)  # sums of up to 16 in 16-bit types
    assert len(library.launches) == 1  # with an epilogue or without, the library multiplies once


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("has_algorithm", [True, False])
@pytest.mark.parametrize(("epilogue", "size", "axis"), [("sum_of_a", 4, 0), ("sum_of_b", 5, 0)])
def test_gradients_of_biases(dtype, has_algorithm, epilogue, size, axis, library, rng):
    if not has_algorithm:
        library.refused.add(cublaslt.EPILOGUES[epilogue])
    x, dy = whole_numbers(rng, (7, 4), dtype), whole_numbers(rng, (7, 5), dtype)
    vector = np.full(size, np.nan, dtype)
    y = gemm.matmul(on_device(x.T), on_device(dy), epilogue=epilogue, vector=on_device(vector))
    np.testing.assert_array_equal(y._array, product(x.T, dy).astype(dtype))
    np.testing.assert_array_equal(vector, {4: x, 5: dy}[size].astype("float64").sum(axis).astype(dtype))


def test_epilogue_after_accumulation(library, rng):
    a, b, out = [whole_numbers(rng, shape, "float32") for shape in ((3, 4), (4, 5), (3, 5))]
    bias = whole_numbers(rng, (5,), "float32")
    expected = np.maximum(product(a, b) + out + bias, 0)
    given = {"beta": 1.0, "epilogue": "relu_bias", "vector": on_device(bias)}
    other = out.T.copy().T  # a result that the library cannot write
    gemm.matmul(on_device(a), on_device(b), on_device(out), **given)
    gemm.matmul(on_device(a), on_device(b), on_device(other), **given)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(other, expected)


@pytest.mark.parametrize(
    ("epilogue", "vector", "message"),
    [
        ("softmax", zeros(5), "Unknown epilogue 'softmax'; there are bias, relu_bias"),
        ("bias", None, r"needs a contiguous vector \(5,\) of float32, but got None"),
        ("bias", zeros(4), r"\(4,\) of float32"),
        ("sum_of_a", zeros(5), r"vector \(3,\)"),
        ("bias", np.zeros(5), "float64"),
        ("bias", zeros(10)[::2], "contiguous"),
    ],
)
def test_epilogues_say_what_they_need(epilogue, vector, message, library):
    vector = vector if vector is None else on_device(vector)
    with pytest.raises(ValueError, match=message):
        gemm.matmul(on_device(zeros(3, 4)), on_device(zeros(4, 5)), epilogue=epilogue, vector=vector)


def test_sums_are_of_matrices(library):
    a, b, vector = on_device(zeros(2, 3, 4)), on_device(zeros(4, 5)), on_device(zeros(5))
    with pytest.raises(ValueError, match="for two matrices"):
        gemm.matmul(a, b, epilogue="sum_of_b", vector=vector)


@pytest.mark.parametrize("place", ["python", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_layouts_and_epilogues(place, dtype, request, rng):
    """The same checks on a GPU, where there is one. Whole numbers are exact there too, in TF32 as well."""
    xp = request.getfixturevalue("library").cupy if place == "python" else pytest.importorskip("cupy")
    rows, inner, columns = 64, 48, 80

    def made(*shape):
        host = whole_numbers(rng, shape, dtype)
        return host, xp.asarray(host)

    def compare(actual, expected):
        np.testing.assert_array_equal(devices.to_numpy(actual), expected.astype(actual.dtype))

    lefts = [made(rows, inner), [x.T for x in made(inner, rows)], [x[:, :inner] for x in made(rows, inner + 8)]]
    rights = [made(inner, columns), [x.T for x in made(columns, inner)], made(inner, 1)]
    lefts += [made(3, rows, inner), [x.transpose(0, 2, 1, 3) for x in made(2, rows, 3, inner)]]
    for (a, device_a), (b, device_b) in itertools.product(lefts, rights):
        compare(gemm.matmul(device_a, device_b), product(a, b))
    (q, device_q), (k, device_k) = [[x.transpose(0, 2, 1, 3) for x in made(2, rows, 3, inner)] for _ in range(2)]
    compare(gemm.matmul(device_q, device_k.swapaxes(-1, -2)), product(q, k.swapaxes(-1, -2)))
    (x, device_x), (dy, device_dy), (bias, device_bias) = made(inner, rows), made(inner, columns), made(columns)
    y = product(x.T, dy) + bias.astype("float64")
    compare(gemm.matmul(device_x.T, device_dy, epilogue="bias", vector=device_bias), y)
    compare(gemm.matmul(device_x.T, device_dy, epilogue="relu_bias", vector=device_bias), np.maximum(y, 0))
    smooth = gemm.matmul(device_x.T, device_dy, epilogue="gelu_bias", vector=device_bias)
    assert_close(smooth, gelu(y).astype(dtype), dtype.name, scale=8)
    for epilogue, summed in (("sum_of_a", x), ("sum_of_b", dy)):
        vector = xp.empty(summed.shape[1], dtype)
        compare(gemm.matmul(device_x.T, device_dy, epilogue=epilogue, vector=vector), product(x.T, dy))
        compare(vector, summed.astype("float64").sum(0))
    out = xp.zeros((rows, columns), "float64" if dtype == "float64" else "float32")
    for _ in range(2):
        gemm.matmul(device_x.T, device_dy, out, beta=1.0)
    compare(out, 2 * product(x.T, dy))


# --- Plans ---------------------------------------------------------------------------------------------------


def test_a_plan_is_made_once_per_shape_and_alignment(library):
    buffer = np.zeros(64 * 4 + 516, np.uint8)
    start = -buffer.ctypes.data % 256
    places = [buffer[start + shift : start + shift + 256].view("float32").reshape(8, 8) for shift in (0, 4)]
    a, b = on_device(places[0]), on_device(places[0])
    gemm.matmul(a, b, on_device(places[0]))
    made = len(library.objects)
    gemm.matmul(a, b, on_device(places[0]))
    assert len(library.objects) == made and library.alignments == [{256}]
    gemm.matmul(a, b, on_device(places[1]))
    assert len(library.objects) > made and library.alignments == [{256}, {4}]


def test_steps_of_a_batch_count_for_the_alignment(library):
    gemm.matmul(on_device(zeros(2, 3, 3)), on_device(zeros(2, 3, 3)))
    assert library.alignments == [{4}]


def test_offsets_count_for_the_alignment(library):
    q, k = [on_device(zeros(5, 4, 4, 1).transpose(0, 2, 1, 3)) for _ in range(2)]  # heads lie 4 bytes apart, samples 64
    gemm.matmul(q, k.swapaxes(-1, -2))
    assert library.alignments == [{4}] and len(library.launches) == 4


def test_descriptors_are_destroyed_with_their_plan(library):
    gemm.matmul(on_device(zeros(3, 4)), on_device(zeros(4, 5)))
    gemm._planned.cache_clear()
    assert {found["kind"] for found in library.objects.values()} == {""}  # the handle stays


def test_one_workspace_per_stream_out_of_the_common_pool(library, monkeypatch):
    cuda = library.cupy.cuda
    a = on_device(zeros(3, 3))
    gemm.matmul(a, a)
    gemm.matmul(a, a)
    monkeypatch.setattr(graphs, "_cupy", lambda: library.cupy)
    graph = graphs.Graph(lambda: gemm.matmul(a, a), warmup=1)
    graph.stream = cuda.Stream(non_blocking=True)
    graph()
    assert graph.pool is not None  # in which it ran
    assert [name for name in cuda.names() if "malloc" in name] == ["common.malloc"] * 2
    assert [launch["stream"] for launch in library.launches] == [0, 0, 1001]
    first, again, other = [launch["workspace"] for launch in library.launches]
    assert first == again != other


def test_the_workspace_comes_from_the_allocator_that_the_program_has_set(library):
    """RMM's, for instance."""
    asked = []

    def counting(size):
        asked.append(size)
        return library.cupy.get_default_memory_pool().malloc(size)

    library.cupy.cuda.set_allocator(counting)
    a = on_device(zeros(3, 3))
    gemm.matmul(a, a)
    gemm.matmul(a, a)
    assert asked == [cublaslt._WORKSPACE]


def test_threads_with_default_streams_of_their_own_share_no_workspace(library):
    a, stream = on_device(zeros(3, 3)), fake_cuda.Stream(library.cupy.cuda, 2, True)
    stream.use()
    gemm.matmul(a, a)
    thread = threading.Thread(target=gemm.matmul, args=(a, a))
    thread.start()
    thread.join()
    assert len({launch["workspace"] for launch in library.launches}) == 2


def test_threads_share_a_plan_but_not_its_vector(library, rng):
    """The library is told a vector's address before each product; another thread must not come in between."""
    a, b = whole_numbers(rng, (3, 4), "float32"), whole_numbers(rng, (4, 5), "float32")
    set_attribute = library._set

    def set_slowly(kind, described, attribute, value, size):
        status = set_attribute(kind, described, attribute, value, size)
        time.sleep(0.001)  # others run
        return status

    library._set = set_slowly
    faults = []

    def work(number):
        bias = np.full(5, number, "float32")
        for _ in range(10):
            y = gemm.matmul(on_device(a), on_device(b), epilogue="bias", vector=on_device(bias))
            faults.extend([number] * (not np.array_equal(y._array, product(a, b) + number)))

    work(0)
    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tf32_is_for_float32_and_can_be_switched_off(dtype, library):
    a = on_device(np.ones((3, 3), dtype))

    def compute():
        gemm.matmul(a, a)
        return [found["compute"] for found in library.objects.values() if found["kind"] == "MatmulDesc"][-1]

    assert keras.config.is_tf32_enabled()
    usual = {"float32": 77, "float64": 70}.get(dtype.name, 68)
    assert compute() == usual
    keras.config.enable_tf32(False)
    try:
        assert not keras.config.is_tf32_enabled()
        assert compute() == (68 if usual == 77 else usual)
    finally:
        keras.config.enable_tf32()


def test_a_gpu_without_tf32(library, rng):
    library.refused.add(77)
    a = whole_numbers(rng, (3, 3), "float32")
    np.testing.assert_array_equal(gemm.matmul(on_device(a), on_device(a))._array, product(a, a))


def test_no_algorithm_at_all(library):
    library.refused |= {77, 68}
    with pytest.raises(RuntimeError, match=r"no algorithm on this GPU for \(3, 4\) · \(4, 5\) of float32 to float32"):
        gemm.matmul(on_device(zeros(3, 4)), on_device(zeros(4, 5)))


# --- The way there -------------------------------------------------------------------------------------------


def test_blas_sends_device_arrays_here(library, rng):
    a, b = whole_numbers(rng, (3, 4), "float32"), whole_numbers(rng, (4, 5), "float32")
    out = on_device(zeros(3, 5))
    assert blas.matmul(on_device(a), on_device(b), out=out) is out
    np.testing.assert_array_equal(out._array, product(a, b))
    assert len(library.launches) == 1
    whole = blas.matmul(on_device(a.astype("int32")), on_device(b.astype("int32")))  # CuPy's own
    np.testing.assert_array_equal(whole._array, product(a, b))
    assert len(library.launches) == 1


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (None, "Fake GPU"),
        ({"cublasLtMatmul": 13}, "CUBLAS_STATUS_EXECUTION_FAILED"),
        ({"cublasLtCreate": 1}, "CUBLAS_STATUS_NOT_INITIALIZED"),
    ],
)
def test_a_probe_multiplies(failure, reason, library, monkeypatch):
    cupy = library.cupy
    cupy.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    vars(cupy).update(ndarray=StrictArray, asnumpy=strict_device.to_numpy)
    cupy.cuda.is_available = lambda: True
    cupy.cuda.Device = lambda: types.SimpleNamespace(id=0)
    cupy.cuda.runtime = types.SimpleNamespace(getDeviceProperties=lambda device: {"name": b"Fake GPU"})
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    library.status.update(failure or {})
    for _ in range(2):  # a device that failed is not taken for one that works
        is_usable, message = devices.probe()
        assert is_usable is (failure is None) and reason in message
        assert ("cupy" in devices._modules) is is_usable


def test_arrays_of_cupy_itself(library, monkeypatch, rng):
    """CuPy's own arrays, over host memory: where CuPy is installed, without a GPU too."""
    cupy = pytest.importorskip("cupy")
    monkeypatch.setattr(cupy.cuda, "get_device_id", lambda: 0)
    monkeypatch.setattr(cupy.cuda, "get_current_stream", library.cupy.cuda.get_current_stream)
    monkeypatch.setattr(cupy, "get_default_memory_pool", library.cupy.get_default_memory_pool)
    devices.register_device("cupy", cupy, cupy.ndarray, cupy.asnumpy)

    def over(host):
        memory = cupy.cuda.UnownedMemory(host.ctypes.data, host.nbytes, host, 0)
        return cupy.ndarray(host.shape, host.dtype, cupy.cuda.MemoryPointer(memory, 0))

    for dtype in DTYPES:
        a, b, kernel = [whole_numbers(rng, shape, dtype) for shape in ((2, 7, 3, 4), (2, 7, 3, 4), (3, 4))]
        bias = whole_numbers(rng, (3,), dtype)
        scores, out = np.zeros((2, 3, 7, 7), dtype), np.zeros((14, 3, 3), dtype)
        gemm.matmul(over(a).transpose(0, 2, 1, 3), over(b).transpose(0, 2, 3, 1), over(scores))
        np.testing.assert_array_equal(scores, product(a.transpose(0, 2, 1, 3), b.transpose(0, 2, 3, 1)).astype(dtype))
        settings = {"epilogue": "relu_bias", "vector": over(bias)}
        blas.matmul(over(a).reshape(14, 3, 4), over(kernel).T, over(out))
        np.testing.assert_array_equal(out, product(a.reshape(14, 3, 4), kernel.T).astype(dtype))
        gemm.matmul(over(a).reshape(14, 3, 4), over(kernel).T, over(out), beta=1.0, **settings)
        expected = np.maximum(2 * product(a.reshape(14, 3, 4), kernel.T) + bias.astype("float64"), 0)
        np.testing.assert_array_equal(out, expected.astype(dtype))


def test_a_model_trains_to_the_same_weights(library, monkeypatch):
    monkeypatch.setattr(cuda, "_launchers", {})  # kernels by their references
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6)).astype("float32"), rng.integers(0, 3, 32)

    def weights():
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3, activation="softmax")]
        model = keras.Sequential(layers)
        model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
        model.fit(x, y, epochs=3, batch_size=16, verbose=0)
        return model.get_weights()

    expected = weights()
    with devices.use_device("cupy"):
        actual = weights()
    assert len(library.launches) == 3 * 2 * 5  # epochs, batches, and every product of a step
    for one, other in zip(actual, expected, strict=True):
        assert_close(np.asarray(one), other)


def test_gelu_is_the_tanh_form(library):
    from gpukeras import activations

    x = np.linspace(-3, 3, 13, dtype="float64")[None]
    y = gemm.matmul(on_device(x), on_device(np.eye(13)), epilogue="gelu_bias", vector=on_device(np.zeros(13)))
    assert_close(y._array, activations.gelu(x, approximate=True))
