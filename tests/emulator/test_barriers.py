"""Every barrier in the kernels is needed, and the emulator misses each one that is not there."""

import re
from pathlib import Path

import numpy as np
import pytest

from gpukeras.backend import cuda, devices
from gpukeras.kernels import batches, depthwise, linear, loss, normalization, optimizer, softmax, sums
from gpukeras.kernels.windows import windows_of
from tests.emulator.compile import reason_to_skip, schedule

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))

BARRIER = re.compile(r"__sync\w+\(\);")
OF_COMMON = 6  # barriers in common.cuh, which stands first in every text


def scalar(value, dtype="float32"):
    return np.array(value, dtype)


def lamb(random):
    settings = scalar(3, "int32"), scalar(0.1), 0.9, 0.999, 1e-7
    return optimizer.lamb, [random(3000), random(3000), random(3000), random(3000) ** 2, *settings]


def nadam(random):
    settings = scalar(0.2), scalar(2, "int32"), scalar(0.1), 0.9, 0.999, 1e-7
    return optimizer.nadam, [random(3000), random(3000), random(3000), random(3000) ** 2, *settings]


def long_rows(random):
    x = random(2, 1500)
    return softmax.softmax, [x, x.copy()]


def crossentropy_gradient(classes):
    def case(random):
        x, label = random(9, classes), np.arange(9, dtype=np.int32) * (classes // 9)
        kept = x, x.max(axis=1), np.exp(x).sum(axis=1)
        return loss.sparse_crossentropy_of_logits_backward, [*kept, (label, None, None), random(9)]

    return case


def moments(random):
    return normalization.batch_moments, [random(40, 9, 1)]


def two_sums(random):
    return normalization.batch_sums, [random(40, 9, 1), random(9), random(40, 9, 1)]


def sums_in_chunks(random):
    return linear.sum_of_rows, [random(600, 9)]


def moments_in_chunks(random):
    return normalization.batch_moments, [random(600, 9, 1)]


def layer_gradients(random):
    z, dy = random(40, 20), random(40, 20) + 1
    return normalization.layer_norm_backward, [z, random(40, 1), random(20), dy, z.copy(), True, True]


def depthwise_gradient(random):
    windows = windows_of((6, 5), (3, 3), (1, 1), "same", (1, 1))
    return depthwise.depthwise_kernel_gradient, [random(2, 6, 5, 3), random(2, 6, 5, 3) + 1, windows]


def matches(random):
    x = random(300, 5)
    return sums.count_matches, [x, x.argmax(axis=1)]


def gathered_rows(random):
    sources, outs = (random(300, 9), random(300, 400)), (random(50, 9), random(50, 400))
    return batches.gather_rows, [random(1), np.array([20]), random(300).argsort(), sources, outs]


def few_outputs(random):
    return linear.linear, [random(5, 300), random(300, 10)]


def input_gradient_of_few_outputs(random):
    return linear.linear_input_gradient, [random(40, 10), random(300, 10)]


def gradients_of_few_outputs(random):
    return linear.linear_gradients, [random(40, 30), random(40, 10)]


# Number of the barrier in the text, and a kernel that needs it.
CASES = [
    (0, lamb),
    (1, long_rows),
    (2, crossentropy_gradient(99)),
    (3, crossentropy_gradient(1800)),
    (4, two_sums),
    (5, sums_in_chunks),
    (OF_COMMON, moments),
    (OF_COMMON + 1, moments_in_chunks),
    (OF_COMMON + 2, layer_gradients),
    (OF_COMMON + 3, layer_gradients),
    (OF_COMMON, few_outputs),
    (OF_COMMON + 1, few_outputs),
    (OF_COMMON + 2, few_outputs),
    (OF_COMMON + 3, input_gradient_of_few_outputs),
    (OF_COMMON + 4, gradients_of_few_outputs),
    (OF_COMMON, depthwise_gradient),
    (OF_COMMON, nadam),
    (OF_COMMON, matches),
    (OF_COMMON, gathered_rows),
]


def module_of(kernel):
    modules = batches, depthwise, linear, loss, normalization, optimizer, softmax, sums
    return next(module for module in modules if module.__name__ == kernel.reference.__module__)


def results(case, seed):
    """All that a kernel returns or writes, as bytes."""
    from tests.emulator import device

    device.install()
    kernel, args = case(lambda *shape: np.random.default_rng(shape[0]).standard_normal(shape).astype(np.float32))

    def moved(value):
        if isinstance(value, tuple):
            return tuple(map(moved, value))
        return device.EmulatorArray(value) if isinstance(value, np.ndarray) else value

    args = [moved(a) for a in args]
    with devices.use_device("emulator"), schedule(seed), np.errstate(all="ignore"):
        made = kernel(*args)
    made = made if isinstance(made, tuple) else (made,)
    found = [a for value in (*args, *made) for a in (value if isinstance(value, tuple) else (value,))]
    return [devices.to_numpy(a).tobytes() for a in found if devices.is_array(a)]


@pytest.mark.parametrize(("number", "case"), CASES)
def test_a_kernel_without_a_barrier_gives_other_results(number, case, monkeypatch):
    module = module_of(case(lambda *shape: np.ones(shape, np.float32))[0])
    expected = results(case, 0)
    assert all(results(case, seed) == expected for seed in range(1, 4))
    source = cuda.Source(module._CUDA.name)
    barriers = list(BARRIER.finditer(source.text))
    barrier = barriers[number]
    source.__dict__["text"] = source.text[: barrier.start()] + ";" + source.text[barrier.end() :]
    monkeypatch.setattr(module, "_CUDA", source)
    assert any(results(case, seed) != expected for seed in range(4))


def test_the_list_is_complete():
    files = [p for pattern in ("*.cu", "*.cuh") for p in Path(optimizer.__file__).parent.glob(pattern)]
    counts = {p.name: len(BARRIER.findall(p.read_text(encoding="utf-8"))) for p in files}
    assert counts["common.cuh"] == OF_COMMON and sum(counts.values()) == len(CASES)
