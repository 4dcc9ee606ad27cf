"""cuDNN's frontend in Python, on NumPy memory: it computes in float64 what its graphs say.

A tensor is dims and strides at an address, so whatever our code tells the library is executed to the letter, and wrong
strides give wrong numbers. Graphs of several steps must take them in the order that the library wants.
"""

import ctypes
import enum
import functools
import itertools
import math
import sys

import ml_dtypes
import numpy as np

from gpukeras.backend import cudnn
from gpukeras.kernels import convolution


class cudnnGraphNotSupportedError(RuntimeError):  # the library's own name
    """There is no engine."""


data_type = enum.Enum("data_type", "HALF BFLOAT16 FLOAT")
heur_mode = enum.Enum("heur_mode", "A FALLBACK")
numerical_note = enum.Enum(
    "numerical_note", "TENSOR_CORE DOWN_CONVERT_INPUTS REDUCED_PRECISION_REDUCTION NONDETERMINISTIC"
)
diagonal_alignment = enum.Enum("diagonal_alignment", "TOP_LEFT BOTTOM_RIGHT")
DTYPES = {"HALF": np.dtype("float16"), "BFLOAT16": np.dtype(ml_dtypes.bfloat16), "FLOAT": np.dtype("float32")}
STEPS = (
    "validate",
    "build_operation_graph",
    "create_execution_plans",
    "deselect_numeric_notes",
    "check_support",
    "build_plans",
)

graphs = []  # all that were built
streams = []  # all that were set
refused = set()  # names of operations that no engine is found for


def launch(function):
    """Run what is launched, unless `install` was given a stream that does."""
    function()


def install(monkeypatch, launch=launch):
    """Make this module the library that `gpukeras.backend.cudnn` finds, within a test, for convolutions of any size."""
    library = sys.modules[__name__]
    monkeypatch.setattr(cudnn, "_library", lambda: library)
    for name, value in (("graphs", []), ("streams", []), ("refused", set()), ("launch", launch)):
        monkeypatch.setattr(library, name, value)
    monkeypatch.setattr(convolution, "_LEAST_FOR_CUDNN", dict.fromkeys(convolution._LEAST_FOR_CUDNN, 0))
    monkeypatch.setattr(cudnn, "_refusals", {})
    monkeypatch.setattr(cudnn, "_planned", functools.lru_cache(cudnn._planned.__wrapped__))
    monkeypatch.setattr(cudnn, "_handle", functools.cache(cudnn._handle.__wrapped__))
    return library


def create_handle():
    return 77


def set_stream(handle, stream):
    assert handle == 77
    streams.append(stream)


class Tensor:
    def __init__(self, dim=None, stride=None, data_type=None):
        self.uid = None
        self.dim, self.stride, self.data_type, self.is_output = dim, stride, data_type, False

    def set_output(self, is_output):
        self.is_output = is_output
        return self

    def set_uid(self, uid):
        self.uid = uid
        return self

    def set_dim(self, dim):
        self.dim = dim
        return self

    def set_stride(self, stride):
        self.stride = stride
        return self

    def set_data_type(self, data_type):
        self.data_type = data_type
        return self

    def at(self, address):
        """The NumPy array of this tensor there."""
        assert len(self.dim) == len(self.stride) and address % 16 == 0
        dtype = DTYPES[self.data_type.name]
        size = 1 + sum((n - 1) * step for n, step in zip(self.dim, self.stride, strict=True))
        memory = np.frombuffer((ctypes.c_char * (size * dtype.itemsize)).from_address(address), dtype)
        steps = [step * dtype.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(memory, self.dim, steps)


class pygraph:  # the library's own name
    def __init__(self, handle, io_data_type, intermediate_data_type, compute_data_type):
        assert handle == 77 and intermediate_data_type is compute_data_type is data_type.FLOAT
        self.tensors, self.steps, self.operation, self.compute = [], [], None, None
        graphs.append(self)

    def tensor(self, dim, stride, data_type):
        self.tensors.append(Tensor(dim, stride, data_type))
        return self.tensors[-1]

    def _make(self, operation, count, compute):
        assert self.operation is None, "one operation a graph"
        self.operation, self.compute = operation, compute
        made = [Tensor() for _ in range(count)]
        self.tensors += made
        return made

    def _convolution(self, operation, first, second, compute, settings):
        window = {name: list(settings.pop(name)) for name in ("pre_padding", "post_padding", "stride", "dilation")}
        assert not settings and {len(value) for value in window.values()} == {len(first.dim) - 2}
        (made,) = self._make(operation, 1, lambda array: compute(array(first), array(second), array(made), window))
        return made

    def conv_fprop(self, image, weight, **settings):
        return self._convolution("conv_fprop", image, weight, forward, settings)

    def conv_dgrad(self, loss, filter, **settings):  # noqa: A002, the library's own name
        return self._convolution("conv_dgrad", loss, filter, input_gradient, settings)

    def conv_wgrad(self, image, loss, **settings):
        return self._convolution("conv_wgrad", image, loss, kernel_gradient, settings)

    def sdpa(self, q, k, v, *, attn_scale, generate_stats, **settings):
        assert generate_stats is True
        y, log_sums = self._make(
            "sdpa", 2, lambda array: attend(*map(array, (q, k, v, y, log_sums)), attn_scale, settings)
        )
        return y, log_sums

    def sdpa_backward(self, q, k, v, o, dO, stats, *, attn_scale, use_deterministic_algorithm, **settings):  # noqa: N803
        assert use_deterministic_algorithm is True
        made = self._make(
            "sdpa_backward",
            3,
            lambda array: attend_back(*map(array, (q, k, v, o, dO, stats, *made)), attn_scale, settings),
        )
        return made

    def __getattr__(self, name):
        if name not in STEPS:
            raise AttributeError(name)

        def step(*arguments):
            assert STEPS[len(self.steps)] == name, f"{name} is not the step after {self.steps}"
            self.steps.append(name)
            if name == "deselect_numeric_notes":
                self.deselected = {note.name for note in arguments[0]}
            if name == "check_support" and self.operation in refused:
                raise cudnnGraphNotSupportedError(f"No engine for {self.operation}")

        return step

    def get_workspace_size(self):
        return 12

    def execute(self, addresses, workspace, handle):
        assert handle == 77 and tuple(self.steps) == STEPS and streams
        assert sorted(addresses) == sorted(tensor.uid for tensor in self.tensors)
        assert all(
            tensor.is_output == (i >= len(self.tensors) - self._outputs()) for i, tensor in enumerate(self.tensors)
        )
        ctypes.memset(workspace, 0xFF, self.get_workspace_size())
        launch(lambda: self.compute(lambda tensor: tensor.at(addresses[tensor.uid])))

    def _outputs(self):
        return {"sdpa": 2, "sdpa_backward": 3}.get(self.operation, 1)


# --- Convolution: x (n, c, *space), weights (k, c / groups, *size), y (n, k, *grid) ---------------------------------


def windows(x, y, weights, window):
    """A padded copy of x, and for each place of a window its index in the weights and what it sees of the copy."""
    low, high, stride, dilation = window.values()
    padded = np.pad(np.zeros(x.shape), [(0, 0), (0, 0), *zip(low, high, strict=True)])
    grid = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, d, s in zip(padded.shape[2:], weights.shape[2:], dilation, stride, strict=True)
    ]
    assert tuple(grid) == y.shape[2:] and weights.shape[0] == y.shape[1] and len(x) == len(y)
    groups = x.shape[1] // weights.shape[1]
    assert groups * weights.shape[1] == x.shape[1] and weights.shape[0] % groups == 0
    taps = []
    for tap in itertools.product(*map(range, weights.shape[2:])):
        seen = [
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, dilation, y.shape[2:], stride, strict=True)
        ]
        taps.append(((Ellipsis, *tap), (slice(None), slice(None), *seen)))
    inside = (slice(None), slice(None), *(slice(a, a + n) for a, n in zip(low, x.shape[2:], strict=True)))
    return padded, inside, taps, groups


def grouped(a, groups):
    """(n, groups, channels of a group, places)"""
    return a.reshape(len(a), groups, a.shape[1] // groups, math.prod(a.shape[2:]))


def forward(x, weights, y, window):
    padded, inside, taps, groups = windows(x, y, weights, window)
    padded[inside] = x
    total = 0.0
    for tap, seen in taps:
        w = weights[tap].astype(np.float64).reshape(groups, -1, weights.shape[1])
        total = total + np.einsum("ngcp,gkc->ngkp", grouped(padded[seen], groups), w)
    y[...] = total.reshape(y.shape).astype(y.dtype)


def input_gradient(dy, weights, dx, window):
    padded, inside, taps, groups = windows(dx, dy, weights, window)
    for tap, seen in taps:
        w = weights[tap].astype(np.float64).reshape(groups, -1, weights.shape[1])
        share = np.einsum("ngkp,gkc->ngcp", grouped(dy.astype(np.float64), groups), w)
        padded[seen] += share.reshape(padded[seen].shape)
    dx[...] = padded[inside].astype(dx.dtype)


def kernel_gradient(x, dy, d, window):
    padded, inside, taps, groups = windows(x, dy, d, window)
    padded[inside] = x
    for tap, seen in taps:
        both = grouped(padded[seen], groups), grouped(dy.astype(np.float64), groups)
        d[tap] = np.einsum("ngcp,ngkp->gkc", *both).reshape(d[tap].shape).astype(d.dtype)


# --- Attention: q (batch, heads, queries, dim), k and v (batch, heads, keys, ...) -----------------------------------


def scores(q, k, scale, settings):
    found = scale * np.einsum("bhqd,bhkd->bhqk", q.astype(np.float64), k.astype(np.float64))
    if settings:
        assert settings == {"diagonal_alignment": diagonal_alignment.TOP_LEFT, "diagonal_band_right_bound": 0}
        found[..., np.arange(k.shape[2]) > np.arange(q.shape[2])[:, None]] = -np.inf
    return found


def attend(q, k, v, y, log_sums, scale, settings):
    found = scores(q, k, scale, settings)
    log_sums[...] = np.log(np.exp(found).sum(-1, keepdims=True))
    y[...] = (np.exp(found - log_sums) @ v.astype(np.float64)).astype(y.dtype)


def attend_back(q, k, v, y, dy, log_sums, dq, dk, dv, scale, settings):
    p = np.exp(scores(q, k, scale, settings) - log_sums)
    dy = dy.astype(np.float64)
    dv[...] = (p.swapaxes(-1, -2) @ dy).astype(dv.dtype)
    ds = p * (dy @ v.astype(np.float64).swapaxes(-1, -2) - (dy * y).sum(-1, keepdims=True))
    dq[...] = (scale * ds @ k.astype(np.float64)).astype(dq.dtype)
    dk[...] = (scale * ds.swapaxes(-1, -2) @ q.astype(np.float64)).astype(dk.dtype)
