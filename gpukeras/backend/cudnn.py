"""cuDNN, NVIDIA's library of convolutions and fused attention, where the optional extra `cudnn` is installed.

Its frontend (nvidia-cudnn-frontend, the module `cudnn`) takes a computation as a graph of operations on tensors, looks
for an engine, and compiles a plan. Here each graph has one operation. All that cuDNN is told of it is a `Convolution`
or an `Attention`, which is the key of its plan. Where there is none, nothing is computed and None is returned: whoever
calls has kernels of its own.

Engines that add in no fixed order, or whose sums are not in float32, are left out: the same seed gives the same bits.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import threading
from typing import Any, NamedTuple

import numpy as np

from gpukeras.backend import cublaslt, devices

__all__ = [
    "Attention",
    "Convolution",
    "attention",
    "attention_gradients",
    "convolve",
    "enable_cudnn",
    "input_gradient",
    "is_cudnn_enabled",
    "kernel_gradient",
    "refusals",
    "version_or_reason",
]

_FRONTEND = (1, 22), (1, 27)  # from, and up to without: later ones bring half a gigabyte along
_OLDEST = 90500  # cuDNN 9.5
_NEW_FRONTEND, _FOR_NEW_FRONTEND = (1, 24), 92200  # what it sets for attention's gradients, cuDNN knows from 9.22 on

_TYPES = {"float16": "HALF", "bfloat16": "BFLOAT16", "float32": "FLOAT"}
_ALIGNMENT = 16  # bytes that divide every address

_is_enabled = True


def enable_cudnn(enabled=True):
    """Whether convolutions and attention on a GPU may go through cuDNN. On at start.

    Nothing changes where the extra `cudnn` is not installed, nor in a step that has been captured already.

    Args:
        enabled: False for gpukeras's own kernels throughout.
    """
    global _is_enabled
    _is_enabled = bool(enabled)


def is_cudnn_enabled():
    """Whether convolutions and attention on a GPU may go through cuDNN."""
    return _is_enabled


# --- The library ----------------------------------------------------------------------------------------------


@functools.cache
def version_or_reason():
    """cuDNN's version as a number, 91002 for 9.10.2; or in a line why it cannot be used, with the cure."""
    try:
        frontend = importlib.metadata.version("nvidia-cudnn-frontend")
    except importlib.metadata.PackageNotFoundError:
        return "cuDNN's frontend is not installed; pip install 'gpukeras[cudnn]'"
    release = tuple(int(number) for number in frontend.split(".")[:2])
    if not _FRONTEND[0] <= release < _FRONTEND[1]:
        return f"nvidia-cudnn-frontend {frontend} is not from 1.22 to 1.26; pip install 'gpukeras[cudnn]'"
    cure = "pip install nvidia-cudnn-cu12 (or nvidia-cudnn-cu13 with gpukeras[cuda13])"
    try:
        version = importlib.import_module("cudnn").backend_version()
    except Exception as error:  # whatever its loader or its extension module raises
        return f"cuDNN itself cannot be loaded ({str(error).partition(chr(10))[0]}); {cure}"
    if version < _OLDEST:
        return f"cuDNN {version} is older than 9.5; {cure}"
    if release >= _NEW_FRONTEND and version < _FOR_NEW_FRONTEND:
        return (
            f"nvidia-cudnn-frontend {frontend} is for cuDNN 9.22 and newer, but cuDNN is {version}; "
            f"pip install 'nvidia-cudnn-frontend<1.24'"
        )
    return version


@functools.cache
def _library() -> Any:
    """The frontend, None where it cannot be used."""
    return importlib.import_module("cudnn") if isinstance(version_or_reason(), int) else None


@functools.cache
def _handle(device):
    """The library's state for a device, made at its first plan there."""
    return _library().create_handle()


# --- Plans ----------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """A graph with an engine for it.

    Args:
        graph: The frontend's; its tensors are numbered from 1 on, in the order of the arrays that it runs on.
        handle: The library's state for the device.
        workspace: Bytes that it computes in.
    """

    graph: Any
    handle: Any
    workspace: int

    def run(self, *arrays):
        """Launch it on the current stream."""
        xp: Any = devices.array_module(arrays[0])
        scratch = xp.empty(max(self.workspace, 1), np.uint8)
        addresses = {number: array.data.ptr for number, array in enumerate(arrays, 1)}
        with _lock:  # from here to the launch the handle has this stream
            _library().set_stream(handle=self.handle, stream=xp.cuda.get_current_stream().ptr)
            self.graph.execute(addresses, scratch.data.ptr, handle=self.handle)


_lock = threading.Lock()
_refusals = {}  # what was asked for -> why there is no plan


def refusals():
    """Why cuDNN has no plan for what it was asked for: `Convolution` or `Attention` -> its words."""
    return dict(_refusals)


@functools.lru_cache(maxsize=1024)
def _planned(asked, device):
    """The plan for a computation on a device; None where there is no engine, which is remembered likewise."""
    library = _library()
    numbers = library.data_type
    graph = library.pygraph(
        handle=_handle(device),
        io_data_type=getattr(numbers, _TYPES[asked.dtype]),
        intermediate_data_type=numbers.FLOAT,
        compute_data_type=numbers.FLOAT,
    )
    asked.describe(library, graph)
    notes = library.numerical_note
    unwanted = [notes.NONDETERMINISTIC, notes.REDUCED_PRECISION_REDUCTION]
    if asked.dtype == "float32" and not asked.is_tf32:  # attention never is
        unwanted += [notes.TENSOR_CORE, notes.DOWN_CONVERT_INPUTS]
    try:
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([library.heur_mode.A, library.heur_mode.FALLBACK])
        graph.deselect_numeric_notes(unwanted)
        graph.check_support()
        graph.build_plans()
    except (library.cudnnGraphNotSupportedError, RuntimeError) as error:
        _refusals[asked] = str(error)
        return None
    return Plan(graph, _handle(device), graph.get_workspace_size())


def _plan_for(asked, *arrays):
    """The plan for what is asked, if anything; the arrays' addresses must be such that engines take them."""
    if asked is None or any(array.data.ptr % _ALIGNMENT for array in arrays):
        return None
    xp: Any = devices.array_module(arrays[0])
    return _planned(asked, xp.cuda.get_device_id())


def _takes(array):
    """Whether cuDNN is there for an array, and has engines for its type."""
    return (
        _is_enabled
        and array.size > 0
        and array.dtype.name in _TYPES
        and devices.array_module(array).__name__ == "cupy"
        and _library() is not None
    )


def _tensor(library, graph, number, dims, strides, dtype):
    """Tensor `number` of a graph, an array that the plan is run on."""
    kind = getattr(library.data_type, _TYPES[dtype])
    return graph.tensor(dim=list(dims), stride=list(strides), data_type=kind).set_uid(number)


def _as_result(library, tensor, number, dims, strides, dtype):
    """The same for what an operation gives; frontends of several versions infer several layouts."""
    kind = getattr(library.data_type, _TYPES[dtype])
    tensor.set_output(True).set_uid(number).set_dim(list(dims)).set_stride(list(strides)).set_data_type(kind)


# --- Convolution ----------------------------------------------------------------------------------------------


class Convolution(NamedTuple):
    """All that cuDNN is told of a convolution of x (batch, *space, channels) to y (batch, *grid, filters).

    Args:
        kind: "forward", "input_gradient" or "kernel_gradient".
        highs: Places of padding after the input, as `lows` before it.
    """

    kind: str
    dtype: str
    batch: int
    channels: int
    filters: int
    groups: int
    space: tuple
    grid: tuple
    size: tuple
    strides: tuple
    dilation: tuple
    lows: tuple
    highs: tuple
    is_tf32: bool

    def describe(self, library, graph):
        """Make the graph: tensors 1 and 2 are what is given, 3 is the result."""
        x = self.batch, self.channels, *self.space
        weights = self.filters, self.channels // self.groups, *self.size
        y = self.batch, self.filters, *self.grid
        place = {"pre_padding": self.lows, "post_padding": self.highs, "stride": self.strides}
        place = {name: list(value) for name, value in {**place, "dilation": self.dilation}.items()}
        operation, names, result = {
            "forward": (graph.conv_fprop, {"image": x, "weight": weights}, y),
            "input_gradient": (graph.conv_dgrad, {"loss": y, "filter": weights}, x),
            "kernel_gradient": (graph.conv_wgrad, {"image": x, "loss": y}, weights),
        }[self.kind]
        given = {
            name: _tensor(library, graph, number, dims, _channels_last(dims), self.dtype)
            for number, (name, dims) in enumerate(names.items(), 1)
        }
        made = operation(**given, **place)
        _as_result(library, made, 3, result, _channels_last(result), self.dtype)


def _channels_last(dims):
    """The strides, in cuDNN's order (first axis, channels, *space), of an array (first axis, *space, channels)."""
    strides, step = [], dims[1]
    for size in reversed(dims[2:]):
        strides.insert(0, step)
        step *= size
    return step, 1, *strides


def _convolution(kind, like, channels, filters, groups, windows):
    """The description; None where cuDNN has no such windows."""
    lows = windows.lows
    highs = tuple(max(span - low - n, 0) for span, low, n in zip(windows.span, lows, windows.space, strict=True))
    counts = tuple(
        (n + low + high - (k - 1) * d - 1) // s + 1
        for n, low, high, k, d, s in zip(
            windows.space, lows, highs, windows.size, windows.dilation, windows.strides, strict=True
        )
    )
    if counts != windows.grid or min(lows) < 0 or len(lows) > 3 or not all(windows.grid):
        return None
    axes = windows.space, windows.grid, windows.size, windows.strides, windows.dilation
    if len(lows) == 1:  # a line is an image of height 1
        axes = tuple((1, *values) for values in axes)
        lows, highs = (0, *lows), (0, *highs)
    space, grid, size, strides, dilation = axes
    return Convolution(
        kind=kind,
        dtype=like.dtype.name,
        batch=len(like),
        channels=channels,
        filters=filters,
        groups=groups,
        space=space,
        grid=grid,
        size=size,
        strides=strides,
        dilation=dilation,
        lows=lows,
        highs=highs,
        is_tf32=like.dtype.name == "float32" and cublaslt.is_tf32_enabled(),
    )


def convolve(x, weights, windows):
    """y (batch, *grid, filters) of x (batch, *space, channels), weights (*size, channels of a group, filters); or None.

    Args:
        windows: `kernels.windows.Windows`.
    """
    if not _takes(x):
        return None
    xp: Any = devices.array_module(x)
    filters, groups = weights.shape[-1], x.shape[-1] // weights.shape[-2]
    plan = _plan_for(_convolution("forward", x, x.shape[-1], filters, groups, windows), x)
    if plan is None:
        return None
    y = xp.empty((len(x), *windows.grid, filters), x.dtype)
    plan.run(x, _filters_first(xp, weights), y)
    return y


def input_gradient(dy, weights, windows, groups):
    """dx (batch, *space, channels) of such a y, or None."""
    if not _takes(dy):
        return None
    xp: Any = devices.array_module(dy)
    dy, channels = xp.ascontiguousarray(dy), groups * weights.shape[-2]
    plan = _plan_for(_convolution("input_gradient", dy, channels, dy.shape[-1], groups, windows), dy)
    if plan is None:
        return None
    dx = xp.empty((len(dy), *windows.space, channels), dy.dtype)
    plan.run(dy, _filters_first(xp, weights), dx)
    return dx


def kernel_gradient(x, dy, windows, groups, out=None):
    """dweights (*size, channels of a group, filters) of such a y, in `out` where that is given; or None."""
    if not _takes(x):
        return None
    xp: Any = devices.array_module(x)
    dy, channels, filters = xp.ascontiguousarray(dy), x.shape[-1], dy.shape[-1]
    plan = _plan_for(_convolution("kernel_gradient", x, channels, filters, groups, windows), x, dy)
    if plan is None:
        return None
    d = xp.empty((filters, *windows.size, channels // groups), x.dtype)
    plan.run(x, dy, d)
    d = xp.moveaxis(d, 0, -1)
    if out is None:
        return xp.ascontiguousarray(d)
    out[...] = d
    return out


def _filters_first(xp, weights):
    """Weights as engines for channels-last arrays have them: a filter is an image (filters, *size, channels)."""
    return xp.ascontiguousarray(xp.moveaxis(weights, -1, 0))


# --- Attention ------------------------------------------------------------------------------------------------


class Attention(NamedTuple):
    """All that cuDNN is told of attention: q (batch, heads, queries, dim), k, v and y likewise, of 16 bits.

    Args:
        kind: "forward", or "backward" for the gradients of all three.
        size: batch, heads, queries, keys, dim of q and k, dim of v and y.
        strides: In elements, of the arrays in the order that the plan is run on.
    """

    kind: str
    dtype: str
    size: tuple
    strides: tuple
    scale: float
    is_causal: bool

    def describe(self, library, graph):
        """Make the graph.

        Forward, tensors 1 to 3 are q, k and v, 4 is y and 5 log Σ exp of each query's scores. Backward, 1 to 6 are q,
        k, v, y, dy and that sum, 7 to 9 the gradients.
        """
        batch, heads, queries, keys, dim, n = self.size
        q, k, v, y = (queries, dim), (keys, dim), (keys, n), (queries, n)
        is_forward = self.kind == "forward"
        arrays = [q, k, v] if is_forward else [q, k, v, y, y]
        given = [
            _tensor(library, graph, number, (batch, heads, *last), self.strides[number - 1], self.dtype)
            for number, last in enumerate(arrays, 1)
        ]
        settings = {"attn_scale": self.scale}
        if self.is_causal:
            settings["diagonal_alignment"] = library.diagonal_alignment.TOP_LEFT
            settings["diagonal_band_right_bound"] = 0
        sums = (batch, heads, queries, 1), (heads * queries, queries, 1, 1)
        if is_forward:
            made, log_sums = graph.sdpa(*given, generate_stats=True, **settings)
            _as_result(library, made, 4, (batch, heads, *y), self.strides[3], self.dtype)
            _as_result(library, log_sums, 5, *sums, "float32")
            return
        log_sums = _tensor(library, graph, 6, *sums, "float32")
        gradients = graph.sdpa_backward(*given, log_sums, use_deterministic_algorithm=True, **settings)
        for number, (gradient, last) in enumerate(zip(gradients, (q, k, v), strict=True), 7):
            _as_result(library, gradient, number, (batch, heads, *last), self.strides[number - 2], self.dtype)


def _attention(kind, arrays, scale, is_causal):
    """The description; None where cuDNN has no such attention."""
    q, k, v = arrays[:3]
    dim, n = q.shape[3], v.shape[3]
    strides = tuple(tuple(step // a.dtype.itemsize for step in a.strides) for a in arrays)
    is_plain = all(s[3] == 1 and not any(step % 8 for step in s[:3]) for s in strides)
    if q.dtype.itemsize != 2 or dim % 8 or n % 8 or max(dim, n) > 256 or not is_plain:
        return None
    size = *q.shape[:3], k.shape[2], dim, n
    return Attention(kind, q.dtype.name, size, strides, float(scale), bool(is_causal))


def attention(q, k, v, y, scale, is_causal):
    """y ← softmax(scale · q · kᵀ) · v for arrays (batch, heads, time, dim), with no softmax in memory.

    Returns:
        log Σ exp of the scores, (batch, heads, queries, 1) in float32; or None, and nothing was computed.
    """
    if not (_takes(q) and k.size and v.size):
        return None
    plan = _plan_for(_attention("forward", (q, k, v, y), scale, is_causal), q, k, v, y)
    if plan is None:
        return None
    log_sums = devices.array_module(q).empty((*q.shape[:3], 1), np.float32)
    plan.run(q, k, v, y, log_sums)
    return log_sums


def attention_gradients(q, k, v, y, log_sums, dy, scale, is_causal, dq, dk, dv):
    """dq, dk, dv ← the gradients, where they are not None.

    Returns:
        Whether they were computed.
    """
    if not _takes(q):
        return False
    xp: Any = devices.array_module(q)
    if dy.strides[3] != dy.dtype.itemsize:
        dy = xp.ascontiguousarray(dy)
    dq, dk, dv = [xp.empty(a.shape, a.dtype) if da is None else da for a, da in ((q, dq), (k, dk), (v, dv))]
    arrays = q, k, v, y, dy, dq, dk, dv
    plan = _plan_for(_attention("backward", arrays, scale, is_causal), *arrays)
    if plan is None:
        return False
    plan.run(q, k, v, y, dy, log_sums, dq, dk, dv)
    return True
