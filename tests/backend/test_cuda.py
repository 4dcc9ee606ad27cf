"""The way from a .cu file to a launch: what is compiled, for whom, and what arguments become."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpukeras.kernels
from gpukeras.backend import cuda, devices
from gpukeras.kernels.kernel import kernel
from tests.emulator import device as emulator
from tests.emulator.compile import reason_to_skip


@pytest.fixture
def launched():
    """The emulator's arrays, with a launcher that compiles and runs nothing: what it was asked for, in a list."""
    calls = []

    def compile_nothing(text, options, label):
        def function(name):
            return lambda grid, block, args, shared_bytes: calls.append((name, grid, block, args, shared_bytes))

        calls.append((label, options))
        return {name: function(name) for name in cuda.parameters_of(text)}

    emulator.install()
    before = dict(cuda._launchers)
    cuda.add_launcher("emulator", compile_nothing)
    yield calls
    cuda._launchers.clear()
    cuda._launchers.update(before)


def array(*shape, dtype="float32"):
    return emulator.EmulatorArray(np.zeros(shape, dtype))


def test_a_source_is_compiled_once_for_a_dtype(launched):
    source = cuda.Source("optimizer")
    for dtype in ("float32", "float16", "float32"):
        rate = array(dtype="float32")
        source.elementwise("sgd", array(5, dtype=dtype), array(5, dtype=dtype), rate, array(5, dtype=dtype))
    assert [call for call in launched if len(call) == 2] == [
        ("optimizer.cu", ("--std=c++17", "-DREAL_FLOAT32")),
        ("optimizer.cu", ("--std=c++17", "-DREAL_FLOAT16")),
    ]


def test_arguments_become_what_the_kernel_declares(launched):
    grad, velocity, param = array(1000), array(1000), array(1000)
    cuda.Source("optimizer").elementwise("sgd_momentum", param, grad, array(), 0.9, True, velocity, param)
    name, grid, block, (n, g, rate, momentum, nesterov, v, p), shared_bytes = launched[-1]
    assert (name, grid, block, shared_bytes) == ("sgd_momentum", (1,), (256,), 0)
    assert type(n) is np.int64 and n == 1000
    assert type(momentum) is np.float32 and type(nesterov) is np.bool_
    assert g is grad and v is velocity and p is param and rate.shape == ()


def test_a_missing_array_is_a_null_pointer(launched):
    arrays = [array(3) for _ in range(3)]
    cuda.Source("activation").elementwise("gelu", arrays[0], *arrays[:2], None)
    assert launched[-1][3][-1] == 0 and type(launched[-1][3][-1]) is np.uint64


def test_what_does_not_fit_the_declaration_is_an_error(launched):
    source = cuda.Source("activation")
    with pytest.raises(TypeError, match=r"activation.cu: relu expected .* float32, but got float64"):
        source.elementwise("relu", array(3), array(3, dtype="float64"), array(3))
    with pytest.raises(TypeError, match=r"relu expected a C-contiguous array"):
        source.elementwise("relu", array(3), emulator.EmulatorArray(np.zeros((3, 2), "float32").T), array(3))
    with pytest.raises(TypeError, match="relu has 3 parameters, but got 2 arguments"):
        source.elementwise("relu", array(3), array(3))
    with pytest.raises(OverflowError):
        source.launch("sum_of_parts", array(3), (1,), (256,), 2**31, array(3), array(1))


def test_grids_follow_from_shapes():
    for size, dtype, blocks in (0, "float32", 1), (1024, "float32", 1), (1025, "float32", 2), (2049, "float16", 2):
        assert cuda.grid_of(np.empty(size, dtype)) == blocks
    assert cuda.grid_of(np.empty(10**8, np.float16)) == cuda.MAX_BLOCKS


@pytest.mark.parametrize(("columns", "block", "grid"), [(1024, (32, 8), (2,)), (1025, (256, 1), (9,))])
def test_long_rows_have_a_block_each(columns, block, grid, launched):
    x = array(9, columns)
    cuda.Source("softmax").rows("softmax", x, 9, columns, x, x)
    assert launched[-1][1:3] == (grid, block)


def test_few_rows_are_summed_up_at_once_and_many_in_chunks(launched):
    source = cuda.Source("linear")
    source.columns("sum_of_rows", array(100, 40), 100, 40, 1, array(100, 40))
    name, grid, _, args, _ = launched[-1]
    assert (name, grid) == ("sum_of_rows", (2, 1)) and args[-2] == 0  # no parts
    source.columns("sum_of_rows", array(1000, 40), 1000, 40, 1, array(1000, 40))
    (first, grid, _, args, _), (second, grid_of_join, _, join_args, _) = launched[-2:]
    assert (first, grid, second, grid_of_join) == ("sum_of_rows", (2, 7), "sum_of_chunks", (5, 1))
    assert args[-1] == 0 and args[-2].shape == (1, 7, 40) and join_args[:3] == [1000, 7, 40]


@pytest.mark.parametrize(
    ("columns", "held", "block", "grid"),
    [(1024, 1, (32, 8), (2,)), (1025, 1, (64, 4), (3,)), (1024, 2, (64, 4), (3,)), (9000, 1, (256, 1), (9,))],
)
def test_rows_in_registers_have_as_many_warps_as_hold_them(columns, held, block, grid, launched):
    x = array(9, columns)
    cuda.Source("softmax").rows("softmax", x, 9, columns, x, x, held=held)
    assert launched[-1][1:3] == (grid, block)


def test_strips_of_columns_are_shared_among_threads(launched):
    def strips(rows, columns):
        x = array(rows, columns)
        settings = x, array(rows), array(columns), x, True, x
        return cuda.Source("normalization").strips("layer_norm_backward_with_sums", x, rows, columns, 2, *settings)

    assert strips(100, 300).shape == (2, 300)
    name, grid, block, args, _ = launched[-1]
    assert (name, grid, block) == ("layer_norm_backward_with_sums", (1,), (64, 4)) and args[-2] == 0
    assert strips(1000, 2048).shape == (2, 2048)
    (_, grid, block, args, _), (join, grid_of_join, *_) = launched[-2:]
    assert (grid, block, join, grid_of_join) == ((62,), (256, 1), "sum_of_chunks", (256, 2)) and args[-1] == 0
    assert strips(10, 2049) is None


@given(size=st.integers(1, 2**31 - 1), near=st.integers(0, 2**31 - 1))
def test_a_divisor_divides_every_number(size, near):
    number, multiplier, shift = cuda.divisor(size)
    assert number == size and 0 < multiplier < 2**32 and shift < 32
    multiple = near // size * size
    for n in {0, 1, size - 1, size, near, max(multiple - 1, 0), multiple, 2**31 - 1}:
        high = n * multiplier >> 32
        assert high + n < 2**32 and (high + n) >> shift == n // size


def test_lines_of_errors_are_those_of_the_file():
    lines = cuda.Source("dropout").text.splitlines()
    body = (Path(gpukeras.kernels.__file__).parent / "dropout.cu").read_text(encoding="utf-8").splitlines()
    for included in "common.cuh", "philox.cuh":
        assert f'#line 1 "{included}"' in lines and f'#include "{included}"' not in lines
    mark = max(i for i, line in enumerate(lines) if line.startswith("#line"))
    number = int(lines[mark].split()[1])
    assert lines[mark].endswith('"dropout.cu"') and lines[mark + 1 :] == body[number - 1 :]


# Which form a kernel takes.


@kernel
def doubled(x, y, number=1.0):
    return "reference"


@doubled.cuda(strided=("y",))
def doubled(x, y, number=1.0):
    return NotImplemented if number == 3.0 else "cuda"


def test_a_form_is_used_for_plain_arrays_of_one_dtype(launched):
    x, y = array(3, 2), array(3, 2)
    assert doubled(x, y) == doubled(x, y=y) == doubled(x, array(dtype="float64")) == "cuda"
    assert doubled(x, emulator.EmulatorArray(np.zeros((2, 3), "float32").T)) == "cuda"
    assert doubled(x, array(3, dtype="int32")) == "cuda"


def test_the_reference_is_used_for_the_others(launched):
    x, y = array(3, 2), array(3, 2)
    transposed = emulator.EmulatorArray(np.zeros((2, 3), "float32").T)
    assert doubled(transposed, y) == doubled(x, array(3, dtype="float16")) == "reference"
    assert doubled(array(3, dtype="int32"), y) == doubled(array(3, dtype="bool"), y) == "reference"
    assert doubled(x, y, number=3.0) == "reference"  # the form declines
    assert doubled(np.zeros(3, "float32"), None) == "reference"


@pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))
def test_a_text_that_does_not_compile_says_why():
    from tests.emulator.compile import compile_for_cpu

    with pytest.raises(RuntimeError, match="nonsense"):
        compile_for_cpu("KERNEL nonsense(int n) {}", (), "nonsense.cu")
    with pytest.raises(ValueError, match="does not understand this declaration: __shared__ int x;"):
        compile_for_cpu("void f() {\n  __shared__ int x;\n}", (), "nonsense.cu")
    assert devices.default_device()
