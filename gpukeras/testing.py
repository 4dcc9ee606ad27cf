"""Checks for derivatives, for the library's own ops and for users'."""

import itertools

import numpy as np

from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor, convert_to_array
from gpukeras.backend import devices

__all__ = ["check_gradients"]

_STEP = 6e-6  # near the cube root of float64's epsilon, where central differences are best


def check_gradients(function, *inputs, seed=0, rtol=1e-5, atol=1e-7, subsets=True, **settings):
    """Compare the derivative of a function of Tensors with central differences, in float64.

        (f(x + h·u) - f(x - h·u)) / 2h  against  <df/dx, u>  for a random direction u

    One direction needs two evaluations whatever the size of x; only a failure looks element by element.
    Float inputs are differentiated, others (indices, None) are passed on. Inputs and output gradients are
    read-only, so that an op that writes into them fails; inputs are also passed as non-contiguous views,
    and every subset of inputs is asked for its gradients.

    Args:
        function: An op, or any function of Tensors that returns a Tensor or a tuple of them.
        inputs: NumPy arrays; keep them away from kinks.
        seed: Of the directions.
        rtol, atol: Of the comparison.
        subsets: Whether every subset of inputs is tried, or only all of them together.
        settings: Passed on to `function`.

    Raises:
        AssertionError: naming the input and its worst element.

    Example:
        >>> from gpukeras import ops
        >>> check_gradients(ops.matmul, np.ones((2, 3)), np.ones((3, 2)))
    """
    random = np.random.default_rng(seed)
    inputs = [np.asarray(x, np.float64) if _is_float(x) else x for x in inputs]
    places = [i for i, x in enumerate(inputs) if _is_float(x)]
    if not places:
        raise ValueError("check_gradients needs at least one float array among the inputs.")
    outputs = _evaluate(function, inputs, settings)
    for output in outputs:
        assert output.dtype == np.float64, f"{_name(function)} gave {output.dtype} for float64 inputs"
    seeds = [random.standard_normal(output.shape) for output in outputs]

    def scalar(values):
        return sum(float((y * s).sum()) for y, s in zip(_evaluate(function, values, settings), seeds, strict=True))

    expected = {}
    for i in places:
        direction = random.standard_normal(inputs[i].shape)
        expected[i] = direction, _slope(scalar, inputs, i, direction)

    sizes = range(1, len(places) + 1) if subsets and len(places) <= 4 else [len(places)]
    for size in sizes:
        for chosen in itertools.combinations(places, size):
            for contiguous in (True, False):
                gradients = _gradients(function, inputs, settings, seeds, chosen, contiguous)
                for i in chosen:
                    direction, slope = expected[i]
                    gradient = gradients[i]
                    assert gradient is not None, f"{_name(function)}: input {i} got no gradient"
                    assert gradient.shape == inputs[i].shape, (
                        f"{_name(function)}: the gradient of input {i} has shape {gradient.shape}, "
                        f"but the input has {inputs[i].shape}"
                    )
                    assert gradient.dtype == np.float64, f"{_name(function)}: gradient {i} is {gradient.dtype}"
                    if not np.isclose((gradient * direction).sum(), slope, rtol=rtol, atol=atol):
                        _report(
                            function,
                            scalar,
                            inputs,
                            i,
                            gradient,
                            (gradient * direction).sum(),
                            slope,
                            chosen,
                        )


def _gradients(function, inputs, settings, seeds, chosen, contiguous):
    arrays = [_frozen(x, contiguous) if isinstance(x, np.ndarray) else x for x in inputs]
    before = [devices.to_numpy(a).copy() if devices.is_array(a) else None for a in arrays]
    tensors = [Tensor(a) if devices.is_array(a) else a for a in arrays]
    with Tape() as tape:
        for i in chosen:
            tape.watch(tensors[i])
        outputs = _as_tuple(function(*tensors, **settings))
    targets = [(y, _frozen(s, True)) for y, s in zip(outputs, seeds, strict=True)]
    gradients = tape.gradients(targets, [tensors[i] for i in chosen])
    for a, values in zip(arrays, before, strict=True):
        if values is not None:
            np.testing.assert_array_equal(devices.to_numpy(a), values, err_msg=f"{_name(function)} wrote into an input")
    return {i: None if g is None else devices.to_numpy(g) for i, g in zip(chosen, gradients, strict=True)}


def _frozen(x, contiguous):
    if not contiguous and x.ndim:
        wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan) if x.dtype.kind == "f" else np.repeat(x, 2, -1)
        wide = wide.astype(x.dtype)
        array = devices.to_device(wide)
        array[..., ::2] = devices.to_device(x)
        array = array[..., ::2]
    else:
        array = devices.to_device(np.array(x))
    if isinstance(array, np.ndarray):
        array.flags.writeable = False
    return array


def _evaluate(function, inputs, settings):
    tensors = [Tensor(devices.to_device(x)) if isinstance(x, np.ndarray) else x for x in inputs]
    return [devices.to_numpy(convert_to_array(y)) for y in _as_tuple(function(*tensors, **settings))]


def _slope(scalar, inputs, i, direction):
    def moved(h):
        return [np.asarray(x + h * direction) if j == i else x for j, x in enumerate(inputs)]

    return (scalar(moved(_STEP)) - scalar(moved(-_STEP))) / (2 * _STEP)


def _report(function, scalar, inputs, i, gradient, got, slope, chosen):
    worst, where, numeric = -1.0, None, None
    for index in np.ndindex(inputs[i].shape):
        unit = np.zeros(inputs[i].shape)
        unit[index] = 1.0
        value = _slope(scalar, inputs, i, unit)
        if abs(value - gradient[index]) > worst:
            worst, where, numeric = abs(value - gradient[index]), index, value
    raise AssertionError(
        f"{_name(function)}: the gradient of input {i} (asked for: {chosen}) is wrong along a random direction: "
        f"{got:.9g} against {slope:.9g}. Worst element {where}: {gradient[where]:.9g}, but central "
        f"differences give {numeric:.9g}."
    )


def _is_float(x):
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def _as_tuple(outputs):
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)


def _name(function):
    return getattr(function, "__name__", type(function).__name__)
