"""Layers that regularize: noise on activations while training, penalties on them."""

import math

from gpukeras import ops, random, regularizers
from gpukeras.backend import layout
from gpukeras.layers.input_spec import InputSpec
from gpukeras.layers.layer import Layer
from gpukeras.ops import random as random_ops
from gpukeras.registry import register

__all__ = [
    "ActivityRegularization",
    "AlphaDropout",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
]


class _Noise(Layer):
    """What all noise layers share: a strength, a seed, and inputs that inference leaves alone."""

    _not_in_config = ("strength",)
    _strength_name = "rate"

    def __init__(self, strength, seed, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= strength <= 1:
            raise ValueError(
                f"{type(self).__name__} {self.name!r}: {self._strength_name} must lie between 0 "
                f"and 1, but got {strength}."
            )
        self._strength = strength
        self.seed = seed
        if strength > 0:
            self.seed_generator = random.SeedGenerator(seed)
        self.supports_masking = True
        self.built = type(self).build is Layer.build

    def call(self, inputs, training=False):
        if training and self._strength > 0:
            return self._add_noise(inputs)
        return inputs

    def _add_noise(self, inputs):
        raise NotImplementedError

    def compute_output_shape(self, input_shape):
        return input_shape


@register("layer")
class Dropout(_Noise):
    """Sets a share of the inputs to zero while training, and scales the others up.

        y = keep · x / (1 - rate)    in training, keep = 1 with probability 1 - rate
        y = x                        in inference

    Args:
        rate: Share of the inputs that is dropped, from 0 to 1.
        noise_shape: Shape of the mask, which is broadcast to the inputs; None in it stands for the
            input's size: (None, 1, None) drops the same features at all time steps.
        seed: Integer for the same masks in every run; None for a seed derived from
            `keras.utils.set_random_seed`.

    Shapes:
        x (...)  ->  y (...)

    Reference: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting", 2014.

    Example:
        >>> layer = Dropout(0.5, seed=1)
        >>> layer(np.ones((1, 4), "float32")).numpy()
        array([[1., 1., 1., 1.]], dtype=float32)
        >>> set(layer(np.ones((1, 100), "float32"), training=True).numpy().ravel().tolist())
        {0.0, 2.0}
    """

    def __init__(self, rate, noise_shape=None, seed=None, **kwargs):
        super().__init__(rate, seed, **kwargs)
        self.rate = rate
        self.noise_shape = _checked_noise_shape(self, noise_shape)

    def _add_noise(self, inputs):
        return random.dropout(inputs, self.rate, self.noise_shape, self.seed_generator)


class _SpatialDropout(Dropout):
    """Dropout of whole channels."""

    _rank = 0

    def __init__(self, rate, seed=None, name=None, dtype=None):
        super().__init__(rate, seed=seed, name=name, dtype=dtype)
        self.input_spec = InputSpec(ndim=self._rank + 2)

    def _add_noise(self, inputs):
        ones = (1,) * self._rank
        if getattr(self, "data_format", "channels_last") == "channels_last":
            noise_shape = (inputs.shape[0], *ones, inputs.shape[-1])
        else:
            noise_shape = (*inputs.shape[:2], *ones)
        return random.dropout(inputs, self.rate, noise_shape, self.seed_generator)

    def get_config(self):
        """The constructor's arguments; the dtype is that of the variables, as Keras writes it."""
        return {**super().get_config(), "dtype": self.dtype}


@register("layer")
class SpatialDropout1D(_SpatialDropout):
    """Dropout of whole channels of sequences: all time steps of a channel are dropped together.

    Args:
        rate: Share of the channels that is dropped, from 0 to 1.
        seed: Integer for the same masks in every run; None for a seed derived from
            `keras.utils.set_random_seed`.

    Shapes:
        x (batch, steps, channels)  ->  y (batch, steps, channels)

    Reference: Tompson et al., "Efficient Object Localization Using Convolutional Networks", 2014.

    Example:
        >>> y = SpatialDropout1D(0.5, seed=1)(np.ones((1, 3, 8), "float32"), training=True).numpy()
        >>> bool((y == y[:, :1]).all())
        True
    """

    _rank = 1


@register("layer")
class SpatialDropout2D(_SpatialDropout):
    """Dropout of whole channels of images.

    Args:
        rate: Share of the channels that is dropped, from 0 to 1.
        data_format: "channels_last" or "channels_first"; None for the default.
        seed: Integer for the same masks in every run; None for a seed derived from
            `keras.utils.set_random_seed`.

    Shapes:
        x (batch, height, width, channels), or channels second  ->  as x

    Reference: Tompson et al., "Efficient Object Localization Using Convolutional Networks", 2014.

    Example:
        >>> SpatialDropout2D(0.5)(np.ones((1, 3, 3, 8), "float32"), training=True).shape
        (1, 3, 3, 8)
    """

    _rank = 2

    def __init__(self, rate, data_format=None, seed=None, name=None, dtype=None):
        super().__init__(rate, seed=seed, name=name, dtype=dtype)
        self.data_format = layout.standardize_data_format(data_format)


@register("layer")
class SpatialDropout3D(_SpatialDropout):
    """Dropout of whole channels of volumes.

    Args:
        rate: Share of the channels that is dropped, from 0 to 1.
        data_format: "channels_last" or "channels_first"; None for the default.
        seed: Integer for the same masks in every run; None for a seed derived from
            `keras.utils.set_random_seed`.

    Shapes:
        x (batch, depth, height, width, channels), or channels second  ->  as x

    Reference: Tompson et al., "Efficient Object Localization Using Convolutional Networks", 2014.

    Example:
        >>> SpatialDropout3D(0.5)(np.ones((1, 2, 3, 3, 8), "float32"), training=True).shape
        (1, 2, 3, 3, 8)
    """

    _rank = 3

    def __init__(self, rate, data_format=None, seed=None, name=None, dtype=None):
        super().__init__(rate, seed=seed, name=name, dtype=dtype)
        self.data_format = layout.standardize_data_format(data_format)


@register("layer")
class GaussianNoise(_Noise):
    """Adds normally distributed noise while training.

        y = x + noise,  noise of mean 0 and standard deviation stddev

    Args:
        stddev: Standard deviation of the noise, from 0 to 1.
        seed: Integer for the same noise in every run; None for a seed derived from
            `keras.utils.set_random_seed`.

    Shapes:
        x (...)  ->  y (...)

    Example:
        >>> GaussianNoise(0.1)(np.ones((2, 3), "float32"), training=True).shape
        (2, 3)
    """

    _strength_name = "stddev"

    def __init__(self, stddev, seed=None, **kwargs):
        super().__init__(stddev, seed, **kwargs)
        self.stddev = stddev

    def _add_noise(self, inputs):
        return ops.add(
            inputs,
            random.normal(inputs.shape, 0.0, self.stddev, self.compute_dtype, self.seed_generator),
        )


@register("layer")
class GaussianDropout(_Noise):
    """Multiplies by normally distributed noise around 1 while training.

        y = x · noise,  noise of mean 1 and standard deviation sqrt(rate / (1 - rate))

    Args:
        rate: The rate of a `Dropout` whose noise has the same variance, from 0 to below 1.
        seed: Integer for the same noise in every run; None for a seed derived from
            `keras.utils.set_random_seed`.

    Shapes:
        x (...)  ->  y (...)

    Reference: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting", 2014.

    Example:
        >>> GaussianDropout(0.1)(np.ones((2, 3), "float32"), training=True).shape
        (2, 3)
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(rate, seed, **kwargs)
        self.rate = rate

    def _add_noise(self, inputs):
        if self.rate == 1:
            raise ValueError(
                f"GaussianDropout {self.name!r} with rate=1 would multiply by noise of infinite "
                f"deviation. Choose a rate below 1."
            )
        stddev = math.sqrt(self.rate / (1.0 - self.rate))
        return ops.multiply(
            inputs,
            random.normal(inputs.shape, 1.0, stddev, self.compute_dtype, self.seed_generator),
        )


@register("layer")
class AlphaDropout(_Noise):
    """Dropout for networks of SELU units: keeps the mean and variance of the inputs while training.

        y = a · (keep ? x : m) + b,  m = -1.7581, where SELU saturates

    Args:
        rate: Share of the inputs that is dropped, from 0 to 1.
        noise_shape: Shape of the mask, which is broadcast to the inputs; None in it stands for the
            input's size.
        seed: Integer for the same masks in every run; None for a seed derived from
            `keras.utils.set_random_seed`.

    Shapes:
        x (...)  ->  y (...)

    Reference: Klambauer et al., "Self-Normalizing Neural Networks", 2017.

    Example:
        >>> AlphaDropout(0.1)(np.ones((2, 3), "float32"), training=True).shape
        (2, 3)
    """

    def __init__(self, rate, noise_shape=None, seed=None, **kwargs):
        super().__init__(rate, seed, **kwargs)
        self.rate = rate
        self.noise_shape = noise_shape

    def _add_noise(self, inputs):
        state = self.seed_generator.next()
        return random_ops.alpha_dropout(inputs, state, rate=self.rate, noise_shape=self.noise_shape)


@register("layer")
class ActivityRegularization(Layer):
    """Passes its inputs on and adds a penalty on them to the loss.

        loss += (l1 · Σ|x| + l2 · Σx²) / batch

    Args:
        l1, l2: Factors, not negative.

    Shapes:
        x (...)  ->  x (...)

    Example:
        >>> layer = ActivityRegularization(l2=0.5)
        >>> _ = layer(np.ones((1, 4), "float32"))
        >>> layer.losses[0].item()
        2.0
    """

    _not_in_config = ("activity_regularizer",)

    def __init__(self, l1=0.0, l2=0.0, **kwargs):
        super().__init__(activity_regularizer=regularizers.L1L2(l1=l1, l2=l2), **kwargs)
        self.supports_masking = True
        self.l1 = l1
        self.l2 = l2
        self.built = type(self).build is Layer.build

    def call(self, inputs):
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape


def _checked_noise_shape(layer, noise_shape):
    if noise_shape is None:
        return None
    sizes = None
    if not isinstance(noise_shape, str):
        try:
            sizes = tuple(noise_shape)
        except TypeError:
            sizes = None
    if sizes is None or not all(n is None or (isinstance(n, int) and n > 0) for n in sizes):
        raise ValueError(
            f"{type(layer).__name__} {layer.name!r}: noise_shape must be a tuple of positive "
            f"integers and None, but got {noise_shape!r}."
        )
    return sizes
