"""Random numbers, as `keras.random`: functions without state, and `SeedGenerator`."""

import functools
import math

import numpy as np

from gpukeras.autograd import symbolic
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tensor import Tensor, Variable, convert_to_array
from gpukeras.backend import devices, dtypes
from gpukeras.backend import random as generator
from gpukeras.configurable import Configurable
from gpukeras.ops import elementwise
from gpukeras.ops import random as random_ops
from gpukeras.registry import register

__all__ = [
    "SeedGenerator",
    "beta",
    "binomial",
    "categorical",
    "dropout",
    "gamma",
    "normal",
    "randint",
    "shuffle",
    "truncated_normal",
    "uniform",
]


@register("random")
class SeedGenerator(Configurable):
    """A seed that gives other numbers at each use; layers hold it, functions take it as `seed`.

    `state` is a Variable of two words, the seed and a counter, which is advanced in place on the
    device.

    Args:
        seed: Integer from 0 to 2^32 - 1; None for one derived from `keras.utils.set_random_seed`.
        name: Name of the generator; None for a new one.

    Example:
        >>> generator = SeedGenerator(7)
        >>> first, second = uniform((2,), seed=generator), uniform((2,), seed=generator)
        >>> bool((first.numpy() == second.numpy()).any())
        False
    """

    _tracking_category = "seed_generator"

    def __init__(self, seed=None, name=None, **kwargs):
        if kwargs:
            raise ValueError(f"SeedGenerator got unknown arguments {sorted(kwargs)}; it takes seed and name.")
        self.name = symbolic.auto_name("seed_generator") if name is None else name
        self._initial_seed = seed
        if seed is None:
            seed = generator.next_seed()
        elif not isinstance(seed, int):
            raise ValueError(
                f"SeedGenerator {self.name!r} expected an integer seed, but got {seed!r} ({type(seed).__name__})."
            )
        self.state = Variable(_words(seed), trainable=False, autocast=False, name="seed_generator_state")
        self.state.path = f"{self.name}/seed_generator_state"

    def next(self, ordered=True):
        """The state as it is, a Tensor (2,); the generator goes on to its next one.

        Args:
            ordered: Whether the counter goes up by one; else both words are scrambled.
        """
        array = self.state.array.copy()
        if ordered:
            following = array.copy()
            following[1:] += 1
        else:
            following = (array + 1) * 5387 % 933199
        self.state.assign(Tensor(following))
        return Tensor(array)

    def get_config(self):
        """The seed it was given and its name."""
        return {"seed": self._initial_seed, "name": self.name}


_global = (
    None,
    None,
)  # the generator of calls without a seed, and the token of the seed it was made under


def global_seed_generator():
    """The generator behind ``seed=None``; a new one after every `set_random_seed`."""
    global _global
    made, token = _global
    seed, current_token = generator.process_seed()
    if made is None or token is not current_token:
        made = SeedGenerator(seed, name="global_seed_generator")
        _global = made, current_token
    return made


def draw_seed(seed):
    """The state, a Tensor of two words, that a `seed` argument stands for.

    Raises:
        ValueError: where it is no integer, SeedGenerator or None.
    """
    if isinstance(seed, SeedGenerator):
        return seed.next()
    if isinstance(seed, int):
        return _constant_state(seed, devices.default_device())
    if seed is None:
        return global_seed_generator().next()
    if isinstance(seed, Tensor) and seed.shape == (2,):
        return seed
    raise ValueError(
        f"`seed` must be an integer, a keras.random.SeedGenerator or None, but got {seed!r} ({type(seed).__name__})."
    )


@functools.lru_cache(maxsize=256)
def _constant_state(seed, device):
    return Tensor(devices.to_device(_words(seed)))


def _words(seed):
    if not 0 <= seed < 2**32:
        raise ValueError(f"A seed must lie between 0 and 2^32 - 1, but got {seed}.")
    return np.array([seed, 0], np.uint32)


def normal(shape, mean=0.0, stddev=1.0, dtype=None, seed=None):
    """Normally distributed numbers.

    Args:
        shape: Shape of the result.
        mean, stddev: Numbers, or arrays that broadcast to `shape`.
        dtype: A float dtype; None for floatx.
        seed: Integer (the same numbers at each call), `SeedGenerator`, or None (the global one).

    Example:
        >>> normal((2, 3), seed=1).shape
        (2, 3)
    """
    return _scaled(generator.normal, "normal", shape, stddev, mean, dtype, seed)


def truncated_normal(shape, mean=0.0, stddev=1.0, dtype=None, seed=None):
    """Normally distributed numbers no further than two standard deviations from the mean.

    Args:
        shape: Shape of the result.
        mean, stddev: Of the distribution before truncation; its own deviation is 0.8796 stddev.
        dtype: A float dtype; None for floatx.
        seed: Integer (the same numbers at each call), `SeedGenerator`, or None (the global one).

    Example:
        >>> bool(abs(truncated_normal((100,), seed=1).numpy()).max() <= 2)
        True
    """
    return _scaled(generator.truncated_normal, "truncated_normal", shape, stddev, mean, dtype, seed)


def uniform(shape, minval=0.0, maxval=1.0, dtype=None, seed=None):
    """Uniformly distributed numbers from `minval` up to, but without, `maxval`.

    Args:
        shape: Shape of the result.
        minval, maxval: Numbers, or arrays that broadcast to `shape`.
        dtype: A float dtype; None for floatx.
        seed: Integer (the same numbers at each call), `SeedGenerator`, or None (the global one).

    Example:
        >>> float(uniform((3,), seed=1).numpy().max()) < 1
        True
    """
    if isinstance(minval, _NUMBERS) and isinstance(maxval, _NUMBERS):
        return _scaled(generator.uniform, "uniform", shape, maxval - minval, minval, dtype, seed, below=maxval)
    width = elementwise.subtract(maxval, minval)
    return _scaled(generator.uniform, "uniform", shape, width, minval, dtype, seed)


_NUMBERS = (int, float, np.generic)


def _scaled(draw, name, shape, factor, offset, dtype, seed, below=None):
    dtype = _float_dtype(dtype, name)
    shape = _shape(shape, name)
    state = draw_seed(seed).array
    xp = devices.array_module(state)
    values = draw(state[:1], state[1:2], math.prod(shape), xp, dtype.name).reshape(shape)
    if not isinstance(factor, _NUMBERS) or not isinstance(offset, _NUMBERS):
        # Arrays, perhaps of a model: their gradients go on.
        values = Tensor(values.astype(dtype, copy=False))
        return elementwise.add(elementwise.multiply(values, factor), offset)
    values *= float(factor)
    values += float(offset)
    values = values.astype(dtype, copy=False)
    if below is not None and float(factor) > 0:
        # Rounding may have led up to the bound, which is excluded.
        last = dtype.type(below)
        if float(last) >= below:
            last = np.nextafter(last, dtype.type(-np.inf))
        values = xp.minimum(values, last)
    return Tensor(values)


def randint(shape, minval, maxval, dtype="int32", seed=None):
    """Integers from `minval` up to, but without, `maxval`, each equally likely.

    Args:
        shape: Shape of the result.
        minval, maxval: Numbers, fractions cut off.
        dtype: An integer dtype.
        seed: Integer (the same numbers at each call), `SeedGenerator`, or None (the global one).

    Example:
        >>> set(randint((100,), 0, 3, seed=1).tolist())
        {0, 1, 2}
    """
    dtype = dtypes.as_dtype(dtype or "int32")
    if not dtypes.is_integer(dtype):
        raise ValueError(f"random.randint makes integers, but was asked for dtype {dtype.name}. Use random.uniform.")
    minval, maxval = _bound(minval), _bound(maxval)
    if minval >= maxval:
        raise ValueError(f"random.randint needs minval < maxval, but got minval={minval} and maxval={maxval}.")
    limits = np.iinfo(dtype.name)
    if minval < limits.min or maxval - 1 > limits.max:
        raise ValueError(f"random.randint: [{minval}, {maxval}) does not fit into {dtype.name}.")
    shape = _shape(shape, "randint")
    state = draw_seed(seed).array
    xp = devices.array_module(state)
    values = generator.randint(state[:1], state[1:2], math.prod(shape), minval, maxval, xp)
    return Tensor(values.astype(dtype).reshape(shape))


def _bound(value):
    return int(value.item()) if isinstance(value, Tensor) or devices.is_array(value) else int(value)


def dropout(inputs, rate, noise_shape=None, seed=None):
    """A share `rate` of the elements set to zero, the others scaled by 1 / (1 - rate).

    Args:
        inputs: Tensor of a float dtype.
        rate: Share that is dropped, from 0 to 1.
        noise_shape: Shape of the mask, which is broadcast; None in it stands for the input's size.
        seed: Integer (the same mask at each call), `SeedGenerator`, or None (the global one).

    Example:
        >>> set(dropout(np.ones(100), 0.5, seed=1).tolist())
        {0.0, 2.0}
    """
    if isinstance(inputs, KerasTensor):
        return symbolic.call_op(dropout, (inputs, rate, noise_shape, seed), {})
    if rate == 0:
        return inputs if isinstance(inputs, Tensor) else Tensor(convert_to_array(inputs))
    return random_ops.dropout(inputs, draw_seed(seed), rate=rate, noise_shape=noise_shape)


def shuffle(x, axis=0, seed=None):
    """The elements moved to random places along an axis, in every line along it to others.

    Args:
        x: Tensor.
        axis: The axis.
        seed: Integer (the same order at each call), `SeedGenerator`, or None (the global one).

    Example:
        >>> sorted(shuffle(np.arange(5), seed=1).tolist())
        [0, 1, 2, 3, 4]
    """
    if isinstance(x, KerasTensor):
        return symbolic.call_op(shuffle, (x, axis, seed), {})
    return random_ops.shuffle(x, draw_seed(seed), axis=axis)


def categorical(logits, num_samples, dtype="int32", seed=None):
    """Class numbers drawn with the probabilities softmax(logits).

    Args:
        logits: Tensor of unnormalized log-probabilities.
        num_samples: How many are drawn for each row.
        dtype: Dtype of the result.
        seed: Integer (the same numbers at each call), `SeedGenerator`, or None (the global one).

    Shapes:
        logits (batch, classes)  ->  (batch, num_samples)

    Example:
        >>> categorical(np.array([[0.0, -np.inf], [-np.inf, 0.0]]), 3, seed=1).tolist()
        [[0, 0, 0], [1, 1, 1]]
    """
    if isinstance(logits, KerasTensor):
        return symbolic.call_op(categorical, (logits, num_samples, dtype, seed), {})
    logits = convert_to_array(logits)
    if logits.ndim != 2:
        raise ValueError(f"random.categorical needs logits of shape (batch, classes), but got {logits.shape}.")
    state = draw_seed(seed).array
    xp = devices.array_module(logits)
    # float64: u · total must stay below total, or a class of probability zero could be drawn.
    logits = logits.astype(np.float64)
    sums = xp.cumsum(xp.exp(logits - logits.max(axis=1, keepdims=True)), axis=1)
    u = generator.uniform(state[:1], state[1:2], logits.shape[0] * num_samples, xp, "float64")
    u = u.reshape(-1, num_samples) * sums[:, -1:]
    # Counting sort of thresholds: the class is the number of sums that do not exceed u.
    classes = (sums[:, None, :] <= u[:, :, None]).sum(axis=2)
    return Tensor(classes.astype(dtypes.as_dtype(dtype)))


def gamma(shape, alpha, dtype=None, seed=None):
    """Numbers of the gamma distribution; not available."""
    raise _missing("gamma")


def beta(shape, alpha, beta, dtype=None, seed=None):
    """Numbers of the beta distribution; not available."""
    raise _missing("beta")


def binomial(shape, counts, probabilities, dtype=None, seed=None):
    """Numbers of the binomial distribution; not available."""
    raise _missing("binomial")


def _missing(name):
    return NotImplementedError(
        f"random.{name} is not available. Use numpy.random.default_rng(seed).{name}(...) and "
        f"pass on the array, or random.normal, uniform, truncated_normal, randint or categorical."
    )


def _float_dtype(dtype, name):
    dtype = dtypes.as_dtype(dtypes.name_of(dtype))
    if not dtypes.is_float(dtype):
        raise ValueError(f"random.{name} makes floats, but was asked for dtype {dtype.name}. Use random.randint.")
    return dtype


def _shape(shape, name):
    try:
        sizes = (shape,) if isinstance(shape, int) else tuple(int(size) for size in shape)
    except TypeError:
        sizes = None
    if sizes is None or any(size < 0 for size in sizes):
        raise ValueError(f"random.{name} needs a shape of known sizes, but got {shape!r}. Pass a tuple of integers.")
    return sizes
