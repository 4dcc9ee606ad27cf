"""Where weights start: constants, random numbers scaled to the weight's shape, orthogonal matrices.

Values are computed on the host, so that a seed gives the same weights whatever the device.
"""

import functools
import math
from typing import Any

import numpy as np

from gpukeras import random, registry
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices, dtypes
from gpukeras.backend import random as generator
from gpukeras.configurable import Configurable, serialize
from gpukeras.registry import register

__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "IdentityInitializer",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Orthogonal",
    "OrthogonalInitializer",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "compute_fans",
    "constant",
    "deserialize",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "lecun_normal",
    "lecun_uniform",
    "ones",
    "orthogonal",
    "random_normal",
    "random_uniform",
    "serialize",
    "truncated_normal",
    "variance_scaling",
    "zeros",
]


@register("initializer")
class Initializer(Configurable):
    """Base of all initializers; a subclass defines ``__call__(shape, dtype=None)``.

    Example:
        >>> class Halves(Initializer):
        ...     def __call__(self, shape, dtype=None):
        ...         return np.full(shape, 0.5, dtype)
        >>> gpukeras.layers.Dense(1, kernel_initializer=Halves())(np.ones((1, 4), "float32")).numpy()
        array([[2.]], dtype=float32)
    """

    def __call__(self, shape, dtype=None):
        """A Tensor of the given shape; dtype None is floatx."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, shape, dtype=None).")

    def clone(self):
        """Another one with the same config."""
        return type(self).from_config(self.get_config())


@register("initializer", "zero")
class Zeros(Initializer):
    """All zeros.

    Example:
        >>> Zeros()((2,)).numpy()
        array([0., 0.], dtype=float32)
    """

    def __call__(self, shape, dtype=None):
        return _to_tensor(np.zeros(_sizes(self, shape)), dtype)


@register("initializer", "one")
class Ones(Initializer):
    """All ones.

    Example:
        >>> Ones()((2,)).numpy()
        array([1., 1.], dtype=float32)
    """

    def __call__(self, shape, dtype=None):
        return _to_tensor(np.ones(_sizes(self, shape)), dtype)


@register("initializer")
class Constant(Initializer):
    """One value everywhere.

    Args:
        value: A number, or an array that broadcasts to the shape.

    Example:
        >>> Constant(3.0)((2,)).numpy()
        array([3., 3.], dtype=float32)
    """

    def __init__(self, value=0.0):
        self.value = value

    def __call__(self, shape, dtype=None):
        return _to_tensor(np.broadcast_to(np.asarray(self.value), _sizes(self, shape)), dtype)

    @classmethod
    def from_config(cls, config):
        value = config["value"]
        if isinstance(value, dict) and value.get("class_name") == "__numpy__":
            value = np.array(value["config"]["value"], value["config"]["dtype"])
        return cls(value)


@register("initializer", "IdentityInitializer")
class Identity(Initializer):
    """The identity matrix times `gain`; for shapes of two axes.

    Args:
        gain: The value on the diagonal.

    Example:
        >>> Identity()((2, 2)).numpy()
        array([[1., 0.],
               [0., 1.]], dtype=float32)
    """

    def __init__(self, gain=1.0):
        self.gain = gain

    def __call__(self, shape, dtype=None):
        shape = _sizes(self, shape)
        if len(shape) != 2:
            raise ValueError(f"Identity makes matrices (two axes), but was asked for shape {shape}. Use Orthogonal.")
        return _to_tensor(self.gain * np.eye(*shape), dtype)

    def get_config(self):
        """The gain, unless it is 1: Keras leaves it out of files always, and loses it."""
        return {} if self.gain == 1.0 else super().get_config()


class _Random(Initializer):
    """What all random initializers share: the seed.

    An integer or None gives the same values at every call (None: a seed derived from
    `keras.utils.set_random_seed` when the initializer is made), a `SeedGenerator` new ones.
    """

    def __init__(self, seed=None):
        self._given_seed = seed
        if seed is None:
            seed = generator.next_seed()
        elif isinstance(seed, dict):
            seed = registry.resolve("random", seed)
        elif not isinstance(seed, (int, random.SeedGenerator)):
            raise ValueError(
                f"{type(self).__name__}: `seed` must be an integer, a "
                f"keras.random.SeedGenerator or None, but got {seed!r} ({type(seed).__name__})."
            )
        if isinstance(seed, int) and not 0 <= seed < 2**32:
            raise ValueError(f"{type(self).__name__}: seed must lie between 0 and 2^32 - 1, but got {seed}.")
        self.seed: Any = seed

    def get_config(self):
        """The constructor's arguments; the seed as it was given."""
        return {**super().get_config(), "seed": serialize(self._given_seed)}

    def _draw(self, distribution, shape, dtype):
        """Values (shape) of a distribution of `backend.random`, on the host."""
        if isinstance(self.seed, int):
            key, draw = self.seed, 0
        else:
            key, draw = devices.to_numpy(self.seed.next().array).tolist()
        values = distribution(key, draw, math.prod(shape), np, dtypes.name_of(dtype))
        return values.reshape(shape)


@register("initializer", "normal")
class RandomNormal(_Random):
    """Normally distributed.

    Args:
        mean, stddev: Of the distribution.
        seed: Integer or None for the same values at each call, `SeedGenerator` for new ones.

    Example:
        >>> RandomNormal(stddev=0.1, seed=1)((2, 3)).shape
        (2, 3)
    """

    def __init__(self, mean=0.0, stddev=0.05, seed=None):
        self.mean = mean
        self.stddev = stddev
        super().__init__(seed)

    def __call__(self, shape, dtype=None):
        return _to_tensor(
            self._draw(generator.normal, _sizes(self, shape), dtype) * self.stddev + self.mean,
            dtype,
        )


@register("initializer")
class TruncatedNormal(_Random):
    """Normally distributed, no further than two standard deviations from the mean.

    Args:
        mean, stddev: Of the distribution before truncation.
        seed: Integer or None for the same values at each call, `SeedGenerator` for new ones.

    Example:
        >>> bool((abs(TruncatedNormal(stddev=0.1, seed=1)((50,)).numpy()) <= 0.2).all())
        True
    """

    def __init__(self, mean=0.0, stddev=0.05, seed=None):
        self.mean = mean
        self.stddev = stddev
        super().__init__(seed)

    def __call__(self, shape, dtype=None):
        values = self._draw(generator.truncated_normal, _sizes(self, shape), dtype)
        return _to_tensor(values * self.stddev + self.mean, dtype)


@register("initializer", "uniform")
class RandomUniform(_Random):
    """Uniformly distributed from `minval` to `maxval`.

    Args:
        minval, maxval: Bounds.
        seed: Integer or None for the same values at each call, `SeedGenerator` for new ones.

    Example:
        >>> RandomUniform(seed=1)((2, 3)).shape
        (2, 3)
    """

    def __init__(self, minval=-0.05, maxval=0.05, seed=None):
        self.minval = minval
        self.maxval = maxval
        super().__init__(seed)

    def __call__(self, shape, dtype=None):
        u = self._draw(generator.uniform, _sizes(self, shape), dtype)
        return _to_tensor(u * (self.maxval - self.minval) + self.minval, dtype)


_MODES = ("fan_in", "fan_out", "fan_avg")
_DISTRIBUTIONS = ("truncated_normal", "uniform", "untruncated_normal")
_DEVIATION_OF_TRUNCATED = 0.87962566103423978  # of a standard normal within ±2


@register("initializer")
class VarianceScaling(_Random):
    """Random numbers of variance scale / n, n the fan in, fan out or their mean.

    Args:
        scale: Positive factor.
        mode: "fan_in", "fan_out" or "fan_avg".
        distribution: "truncated_normal" (also "normal"), "untruncated_normal" or "uniform".
        seed: Integer or None for the same values at each call, `SeedGenerator` for new ones.
        input_axes, output_axes: Axes whose sizes make up the fans; None for the rule of
            `compute_fans`.

    Example:
        >>> VarianceScaling(mode="fan_out", seed=1)((2, 3)).shape
        (2, 3)
    """

    def __init__(
        self,
        scale=1.0,
        mode="fan_in",
        distribution="truncated_normal",
        seed=None,
        input_axes=None,
        output_axes=None,
    ):
        who = type(self).__name__
        if scale <= 0.0:
            raise ValueError(f"{who}: scale must be positive, but got {scale}.")
        if mode not in _MODES:
            raise ValueError(f"{who}: unknown mode {mode!r}. {registry.suggest(mode, _MODES)}")
        distribution = distribution.lower()
        if distribution == "normal":
            distribution = "truncated_normal"
        if distribution not in _DISTRIBUTIONS:
            raise ValueError(
                f"{who}: unknown distribution {distribution!r}. {registry.suggest(distribution, _DISTRIBUTIONS)}"
            )
        self.scale = scale
        self.mode = mode
        self.distribution = distribution
        self.input_axes = input_axes
        self.output_axes = output_axes
        super().__init__(seed)

    def __call__(self, shape, dtype=None):
        shape = _sizes(self, shape)
        fan_in, fan_out = compute_fans(shape, self.input_axes, self.output_axes)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2.0}[self.mode]
        variance = self.scale / max(1.0, n)
        if self.distribution == "uniform":
            limit = math.sqrt(3.0 * variance)
            values = self._draw(generator.uniform, shape, dtype) * (2.0 * limit) - limit
        elif self.distribution == "truncated_normal":
            stddev = math.sqrt(variance) / _DEVIATION_OF_TRUNCATED
            values = self._draw(generator.truncated_normal, shape, dtype) * stddev
        else:
            values = self._draw(generator.normal, shape, dtype) * math.sqrt(variance)
        return _to_tensor(values, dtype)


class _Named(VarianceScaling):
    """A `VarianceScaling` whose scale, mode and distribution are fixed."""

    _settings: dict[str, Any] = {}

    def __init__(self, seed=None, input_axes=None, output_axes=None):
        super().__init__(**self._settings, seed=seed, input_axes=input_axes, output_axes=output_axes)


@register("initializer")
class GlorotUniform(_Named):
    """Uniform within ±sqrt(6 / (fan in + fan out)); also called Xavier.

    Reference: Glorot and Bengio, "Understanding the difficulty of training deep feedforward
        networks", 2010.

    Args:
        seed: Integer or None for the same values at each call, `SeedGenerator` for new ones.
        input_axes, output_axes: Axes whose sizes make up the fans; None for the rule of
            `compute_fans`.

    Example:
        >>> GlorotUniform(seed=1)((2, 3)).shape
        (2, 3)
    """

    _settings = {"scale": 1.0, "mode": "fan_avg", "distribution": "uniform"}


@register("initializer")
class GlorotNormal(_Named):
    """Truncated normal of variance 2 / (fan in + fan out); also called Xavier.

    Reference: Glorot and Bengio, "Understanding the difficulty of training deep feedforward
        networks", 2010.

    Args:
        seed: Integer or None for the same values at each call, `SeedGenerator` for new ones.
        input_axes, output_axes: Axes whose sizes make up the fans; None for the rule of
            `compute_fans`.

    Example:
        >>> GlorotNormal(seed=1)((2, 3)).shape
        (2, 3)
    """

    _settings = {"scale": 1.0, "mode": "fan_avg", "distribution": "truncated_normal"}


@register("initializer")
class LecunNormal(_Named):
    """Truncated normal of variance 1 / fan in.

    Reference: Klambauer et al., "Self-Normalizing Neural Networks", 2017.

    Args:
        seed: Integer or None for the same values at each call, `SeedGenerator` for new ones.
        input_axes, output_axes: Axes whose sizes make up the fans; None for the rule of
            `compute_fans`.

    Example:
        >>> LecunNormal(seed=1)((2, 3)).shape
        (2, 3)
    """

    _settings = {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal"}


@register("initializer")
class LecunUniform(_Named):
    """Uniform within ±sqrt(3 / fan in).

    Reference: Klambauer et al., "Self-Normalizing Neural Networks", 2017.

    Args:
        seed: Integer or None for the same values at each call, `SeedGenerator` for new ones.
        input_axes, output_axes: Axes whose sizes make up the fans; None for the rule of
            `compute_fans`.

    Example:
        >>> LecunUniform(seed=1)((2, 3)).shape
        (2, 3)
    """

    _settings = {"scale": 1.0, "mode": "fan_in", "distribution": "uniform"}


@register("initializer")
class HeNormal(_Named):
    """Truncated normal of variance 2 / fan in, for ReLU.

    Reference: He et al., "Delving Deep into Rectifiers", 2015.

    Args:
        seed: Integer or None for the same values at each call, `SeedGenerator` for new ones.
        input_axes, output_axes: Axes whose sizes make up the fans; None for the rule of
            `compute_fans`.

    Example:
        >>> HeNormal(seed=1)((2, 3)).shape
        (2, 3)
    """

    _settings = {"scale": 2.0, "mode": "fan_in", "distribution": "truncated_normal"}


@register("initializer")
class HeUniform(_Named):
    """Uniform within ±sqrt(6 / fan in), for ReLU.

    Reference: He et al., "Delving Deep into Rectifiers", 2015.

    Args:
        seed: Integer or None for the same values at each call, `SeedGenerator` for new ones.
        input_axes, output_axes: Axes whose sizes make up the fans; None for the rule of
            `compute_fans`.

    Example:
        >>> HeUniform(seed=1)((2, 3)).shape
        (2, 3)
    """

    _settings = {"scale": 2.0, "mode": "fan_in", "distribution": "uniform"}


@register("initializer", "OrthogonalInitializer")
class Orthogonal(_Random):
    """A matrix with orthonormal columns (rows, where they are fewer), each equally likely.

    More than two axes: of the matrix (product of all sizes but the last, last size).

    Reference: Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear
        neural
    networks", 2014.

    Args:
        gain: Factor.
        seed: Integer or None for the same values at each call, `SeedGenerator` for new ones.

    Example:
        >>> q = Orthogonal(seed=1)((4, 2)).numpy()
        >>> np.allclose(q.T @ q, np.eye(2), atol=1e-6)
        True
    """

    def __init__(self, gain=1.0, seed=None):
        self.gain = gain
        super().__init__(seed)

    def __call__(self, shape, dtype=None):
        shape = _sizes(self, shape)
        if len(shape) < 2:
            raise ValueError(f"Orthogonal needs at least two axes, but was asked for shape {shape}.")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        a = self._draw(generator.normal, (max(rows, columns), min(rows, columns)), dtype)
        q, r = np.linalg.qr(a)
        q *= np.sign(np.diag(r))  # makes the factorization unique and the distribution uniform
        if rows < columns:
            q = q.T
        return _to_tensor(self.gain * q.reshape(shape), dtype)


def compute_fans(shape, input_axes=None, output_axes=None):
    """How many units feed one output of a weight, and how many one unit feeds: (fan in, fan out).

    The last two axes are (in, out), those before them the window of a convolution. With both
    `input_axes` and `output_axes` the fans are the products of the sizes of these.
    """
    shape = tuple(shape)
    if input_axes is not None and output_axes is not None:
        return math.prod(shape[a] for a in input_axes), math.prod(shape[a] for a in output_axes)
    if not shape:
        return 1, 1
    if len(shape) == 1:
        return shape[0], shape[0]
    window = math.prod(shape[:-2])
    return shape[-2] * window, shape[-1] * window


def _sizes(initializer, shape):
    shape = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    if not all(isinstance(size, (int, np.integer)) and size >= 0 for size in shape):
        raise ValueError(
            f"{type(initializer).__name__} needs a shape of known sizes, but got {shape}. Pass a tuple of integers."
        )
    return shape


def _to_tensor(values, dtype):
    dtype = dtypes.as_dtype(dtypes.name_of(dtype))
    return Tensor(devices.to_device(values.astype(dtype)))


def get(identifier):
    """The initializer that a name, config, class, object, function or array means."""
    if isinstance(identifier, (Tensor, np.generic)) or devices.is_array(identifier):
        return functools.partial(_given_values, identifier)
    return registry.resolve("initializer", identifier)


def _given_values(values, shape, dtype=None):
    if tuple(shape) != tuple(values.shape):
        raise ValueError(
            f"The array given as initializer has shape {tuple(values.shape)}, but the weight has {tuple(shape)}."
        )
    array = values.array if isinstance(values, Tensor) else devices.to_device(values)
    return Tensor(array.astype(dtypes.as_dtype(dtypes.name_of(dtype))))


def deserialize(config, custom_objects=None):
    """The initializer of a config dictionary that `serialize` wrote, or of a name."""
    with registry.custom_object_scope(custom_objects):
        return registry.resolve("initializer", config)


# Keras's names in snake case are the classes themselves.
IdentityInitializer = identity = Identity
OrthogonalInitializer = orthogonal = Orthogonal
constant = Constant
glorot_normal = GlorotNormal
glorot_uniform = GlorotUniform
he_normal = HeNormal
he_uniform = HeUniform
lecun_normal = LecunNormal
lecun_uniform = LecunUniform
ones = Ones
random_normal = RandomNormal
random_uniform = RandomUniform
truncated_normal = TruncatedNormal
variance_scaling = VarianceScaling
zeros = Zeros
