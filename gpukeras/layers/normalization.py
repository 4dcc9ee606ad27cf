"""Normalization layers: over the batch, over every example's features, over groups of channels."""

import warnings
from typing import Any

from gpukeras import constraints, initializers, ops, regularizers
from gpukeras.layers.input_spec import InputSpec
from gpukeras.layers.layer import Layer
from gpukeras.ops import normalization
from gpukeras.registry import register

__all__ = [
    "BatchNormalization",
    "GroupNormalization",
    "LayerNormalization",
    "RMSNormalization",
    "UnitNormalization",
]


class _Normalization(Layer):
    """What all normalizations share: gamma, beta, and outputs in the compute dtype."""

    axis: Any
    gamma = None
    beta = None

    def _store(
        self,
        center,
        scale,
        beta_initializer,
        gamma_initializer,
        beta_regularizer,
        gamma_regularizer,
        beta_constraint,
        gamma_constraint,
    ):
        self.center = center
        self.scale = scale
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)
        self.beta_constraint = constraints.get(beta_constraint)
        self.gamma_constraint = constraints.get(gamma_constraint)
        self.supports_masking = True

    def _add_gamma_and_beta(self, shape, has_gamma, has_beta):
        for name in ("gamma",) * has_gamma + ("beta",) * has_beta:
            weight = self.add_weight(
                name=name,
                shape=shape,
                initializer=getattr(self, f"{name}_initializer"),
                regularizer=getattr(self, f"{name}_regularizer"),
                constraint=getattr(self, f"{name}_constraint"),
                autocast=False,
            )
            setattr(self, name, weight)

    def _in_compute_dtype(self, y):
        return y if y.dtype == self.compute_dtype else ops.cast(y, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """The input's."""
        for axis in self.axis if isinstance(self.axis, (list, tuple)) else (self.axis,):
            if not -len(input_shape) <= axis < len(input_shape):
                raise ValueError(
                    f"{type(self).__name__} {self.name!r} normalizes along axis {axis}, but got shape "
                    f"{tuple(input_shape)}. Choose from {-len(input_shape)} to {len(input_shape) - 1}."
                )
        return input_shape


@register("layer")
class BatchNormalization(_Normalization):
    """Gives every channel mean 0 and variance 1 over the batch, then a learned mean and deviation.

        y = gamma · (x - mean) / sqrt(variance + epsilon) + beta

    In training the mean and variance are the batch's own (over all axes but `axis`, only masked-in
    elements), and the moving ones follow: moving ← momentum · moving + (1 - momentum) · batch. In
    inference, and always while `trainable` is False, they are the moving ones.

    Args:
        axis: The axis of the channels.
        momentum: Of the moving mean and variance.
        epsilon: Keeps the root away from zero.
        center: Whether beta is added.
        scale: Whether gamma is multiplied.
        beta_initializer, gamma_initializer: Where the weights start.
        moving_mean_initializer, moving_variance_initializer: Where the moving ones start.
        beta_regularizer, gamma_regularizer: Penalties added to the loss.
        beta_constraint, gamma_constraint: Projections applied after each update.
        renorm: Whether training corrects the batch's mean and deviation towards their running ones
            ("batch renormalization"), for small batches.
        renorm_clipping: Dictionary of bounds of that correction: "rmin", "rmax", "dmax".
        renorm_momentum: Of the running mean and deviation that renorm corrects towards.
        synchronized: Not supported: there is one device.

    Shapes:
        x (batch, ...)  ->  y (batch, ...)
        gamma, beta, moving_mean, moving_variance (channels,)

    Reference: Ioffe and Szegedy, "Batch Normalization" (2015); Ioffe, "Batch Renormalization" (2017).

    Source: https://keras.io/api/layers/normalization_layers/batch_normalization/

    Example:
        >>> layer = BatchNormalization(momentum=0.5, epsilon=0.0)
        >>> layer(np.float32([[1.0], [3.0]]), training=True).numpy().ravel()
        array([-1.,  1.], dtype=float32)
        >>> layer.moving_mean.numpy()
        array([1.], dtype=float32)
    """

    renorm_clipping: Any
    moving_mean: Any = None
    moving_variance: Any = None

    def __init__(
        self,
        axis=-1,
        momentum=0.99,
        epsilon=1e-3,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        moving_mean_initializer="zeros",
        moving_variance_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        renorm=False,
        renorm_clipping=None,
        renorm_momentum=0.99,
        synchronized=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if synchronized:
            raise NotImplementedError(
                f"BatchNormalization {self.name!r}: synchronized=True is not supported, since a model "
                f"trains on one device. Leave it False."
            )
        self.axis = int(axis)
        self.momentum = float(momentum)
        self.epsilon = float(epsilon)
        self._store(
            *(center, scale, beta_initializer, gamma_initializer),
            *(beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint),
        )
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)
        self.renorm = renorm
        if renorm:
            renorm_clipping = dict(renorm_clipping or {})
            self._check_clipping(**renorm_clipping)
        self.renorm_clipping = renorm_clipping
        self.renorm_momentum = renorm_momentum
        self.synchronized = False

    def _check_clipping(self, rmin=None, rmax=None, dmax=None, **unknown):
        who = f"BatchNormalization {self.name!r}"
        if unknown:
            raise ValueError(
                f"{who}: renorm_clipping has the keys 'rmin', 'rmax' and 'dmax', but got {sorted(unknown)}."
            )
        if rmin is not None and rmax is not None and rmax < rmin:
            raise ValueError(f"{who}: rmax must not be below rmin, but got {rmax} and {rmin}.")
        if dmax is not None and dmax < 0:
            raise ValueError(f"{who}: dmax must not be negative, but got {dmax}.")

    def build(self, input_shape):
        """Make gamma, beta and the moving mean and variance."""
        self.compute_output_shape(input_shape)
        channels = input_shape[self.axis]
        self._add_gamma_and_beta((channels,), self.scale, self.center)
        self.moving_mean = self._add_state("moving_mean", channels, self.moving_mean_initializer)
        start: Any = self.moving_variance_initializer
        self.moving_variance = self._add_state("moving_variance", channels, start)
        if self.renorm:

            def root_of_variance(shape, dtype=None):
                return ops.sqrt(start(shape, dtype=dtype))

            self.moving_stddev = self._add_state("moving_stddev", channels, root_of_variance)
            mean = self.moving_mean_initializer
            self.renorm_mean = self._add_state("renorm_mean", channels, mean)
            self.renorm_stddev = self._add_state("renorm_stddev", channels, root_of_variance)
        self.input_spec = InputSpec(ndim=len(input_shape), axes={self.axis: channels})

    def _add_state(self, name, channels, initializer):
        return self.add_weight(name=name, shape=(channels,), initializer=initializer, trainable=False, autocast=False)

    def call(self, inputs, training=None, mask=None):
        """The normalized inputs; in training the moving mean and variance are moved on."""
        if mask is not None and len(mask.shape) != len(inputs.shape) - 1:
            raise ValueError(
                f"BatchNormalization {self.name!r} takes a mask with one axis less than its input, but "
                f"got a mask of shape {tuple(mask.shape)} for an input of shape {tuple(inputs.shape)}."
            )
        if not (training and self.trainable):
            y = normalization.batch_normalization(
                *(inputs, self.moving_mean, self.moving_variance, self.axis),
                *(self.beta, self.gamma, self.epsilon),
            )
        elif self.renorm:
            y = self._renormalize(inputs, mask)
        else:
            y, mean, variance = normalization.batch_norm_train(
                inputs, self.gamma, self.beta, mask, axis=self.axis, epsilon=self.epsilon
            )
            self._move(self.moving_mean, mean, self.momentum)
            self._move(self.moving_variance, variance, self.momentum)
        return self._in_compute_dtype(y)

    def _move(self, moving, value, momentum):
        moving.assign(normalization.exponential_average(moving, value, momentum))

    def _renormalize(self, inputs, mask):
        settings = {"axis": self.axis, "epsilon": self.epsilon}
        _, mean, variance = normalization.batch_norm_train(ops.stop_gradient(inputs), None, None, mask, **settings)
        stddev = ops.sqrt(variance + self.epsilon)
        size = ops.maximum(self.renorm_stddev, self.epsilon**0.5)
        r, d = stddev / size, (mean - self.renorm_mean) / size
        bounds = self.renorm_clipping
        if bounds.get("rmin") is not None:
            r = ops.maximum(r, bounds["rmin"])
        if bounds.get("rmax") is not None:
            r = ops.minimum(r, bounds["rmax"])
        if bounds.get("dmax") is not None:
            d = ops.clip(d, -bounds["dmax"], bounds["dmax"])
        if self.gamma is not None:
            r, d = r * self.gamma, d * self.gamma
        if self.beta is not None:
            d = d + self.beta
        y, _, _ = normalization.batch_norm_train(inputs, r, d, mask, **settings)
        self._move(self.renorm_mean, mean, self.renorm_momentum)
        self._move(self.renorm_stddev, stddev, self.renorm_momentum)
        self._move(self.moving_mean, mean, self.momentum)
        self._move(self.moving_stddev, stddev, self.momentum)
        moved = ops.square(self.moving_stddev) - self.epsilon
        self.moving_variance.assign(ops.relu(moved))
        return y


@register("layer")
class LayerNormalization(_Normalization):
    """Gives the features of every example mean 0 and variance 1, then a learned mean and deviation.

        y = gamma · (x - mean) / sqrt(variance + epsilon) + beta      mean and variance along `axis`

    Args:
        axis: Axis or axes of the features.
        epsilon: Keeps the root away from zero.
        center: Whether beta is added.
        scale: Whether gamma is multiplied.
        beta_initializer, gamma_initializer: Where the weights start.
        beta_regularizer, gamma_regularizer: Penalties added to the loss.
        beta_constraint, gamma_constraint: Projections applied after each update.
        rms_scaling: Deprecated by Keras: y = gamma · x / sqrt(variance + epsilon). `RMSNormalization`
            is what it was meant to be.

    Shapes:
        x (batch, ...)  ->  y (batch, ...)
        gamma, beta: the sizes of `axis`

    Reference: Ba et al., "Layer Normalization" (2016).

    Source: https://keras.io/api/layers/normalization_layers/layer_normalization/

    Example:
        >>> LayerNormalization(epsilon=0.0)(np.float32([[1.0, 3.0], [5.0, 9.0]])).numpy()
        array([[-1.,  1.],
               [-1.,  1.]], dtype=float32)
    """

    def __init__(
        self,
        axis=-1,
        epsilon=1e-3,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        rms_scaling=False,
        **kwargs,
    ):
        if rms_scaling:
            warnings.warn(
                "LayerNormalization(rms_scaling=True) scales by the deviation, not by the root mean "
                "square. Use keras.layers.RMSNormalization for that.",
                stacklevel=2,
            )
        super().__init__(**kwargs)
        self.axis = _checked_axis(self, axis)
        self.epsilon = epsilon
        self._store(
            *(center, scale, beta_initializer, gamma_initializer),
            *(beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint),
        )
        self.rms_scaling = rms_scaling
        self.autocast = False

    def build(self, input_shape):
        """Make gamma and beta."""
        self.compute_output_shape(input_shape)
        self.axis = sorted(self.axis) if isinstance(self.axis, (list, tuple)) else [self.axis]
        shape = tuple(input_shape[axis] for axis in self.axis)
        has_beta = self.center and not self.rms_scaling
        self._add_gamma_and_beta(shape, bool(self.scale or self.rms_scaling), bool(has_beta))

    def call(self, inputs):
        """The normalized inputs."""
        y = normalization.layer_normalization(
            inputs, self.gamma, self.beta, self.axis, self.epsilon, rms_scaling=self.rms_scaling
        )
        return self._in_compute_dtype(y)


@register("layer")
class GroupNormalization(_Normalization):
    """Gives every group of channels of every example mean 0 and variance 1, then learned ones.

        y = gamma · (x - mean) / sqrt(variance + epsilon) + beta      mean and variance over a group

    Args:
        groups: Number of groups; -1 for one per channel ("instance normalization").
        axis: The axis of the channels.
        epsilon: Keeps the root away from zero.
        center: Whether beta is added.
        scale: Whether gamma is multiplied.
        beta_initializer, gamma_initializer: Where the weights start.
        beta_regularizer, gamma_regularizer: Penalties added to the loss.
        beta_constraint, gamma_constraint: Projections applied after each update.

    Shapes:
        x (batch, ...)  ->  y (batch, ...)
        gamma, beta (channels,)

    Reference: Wu and He, "Group Normalization" (2018).

    Source: https://keras.io/api/layers/normalization_layers/group_normalization/

    Example:
        >>> GroupNormalization(2, epsilon=0.0)(np.float32([[1.0, 3.0, 5.0, 9.0]])).numpy()
        array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    def __init__(
        self,
        groups=32,
        axis=-1,
        epsilon=1e-3,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(groups, int) or (groups <= 0 and groups != -1):
            raise ValueError(
                f"GroupNormalization {self.name!r}: groups must be a whole number above 0, or -1 for one "
                f"per channel, but got {groups!r}."
            )
        self.groups = groups
        self.axis = axis
        self.epsilon = epsilon
        self._store(
            *(center, scale, beta_initializer, gamma_initializer),
            *(beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint),
        )
        self.autocast = False

    def build(self, input_shape):
        """Make gamma and beta."""
        self.compute_output_shape(input_shape)
        channels = input_shape[self.axis]
        if channels is None:
            raise ValueError(
                f"GroupNormalization {self.name!r} needs to know the number of channels, but got shape "
                f"{tuple(input_shape)} with axis {self.axis}. Fix it in Input(shape)."
            )
        if self.groups == -1:
            self.groups = channels
        if channels % self.groups:
            raise ValueError(
                f"GroupNormalization {self.name!r} divides {channels} channels into {self.groups} equal "
                f"groups, which is not possible. Choose a divisor of {channels}."
            )
        self._add_gamma_and_beta((channels,), bool(self.scale), bool(self.center))
        self.input_spec = InputSpec(ndim=len(input_shape), axes={self.axis: channels})

    def call(self, inputs):
        """The normalized inputs."""
        y = normalization.group_normalization(
            inputs, self.gamma, self.beta, groups=self.groups, axis=self.axis, epsilon=self.epsilon
        )
        return self._in_compute_dtype(y)


@register("layer")
class RMSNormalization(_Normalization):
    """Divides the features of every example by their root mean square, then scales them.

        y = scale · x / sqrt(mean of x² + epsilon)       the mean along `axis`

    Args:
        axis: Axis or axes of the features.
        epsilon: Keeps the root away from zero.

    Shapes:
        x (batch, ...)  ->  y (batch, ...)
        scale: the sizes of `axis`

    Reference: Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).

    Source: https://keras.io/api/layers/normalization_layers/rms_normalization/

    Example:
        >>> RMSNormalization()(np.float32([[3.0, 4.0]])).numpy().round(3)
        array([[0.849, 1.131]], dtype=float32)
    """

    def __init__(self, axis=-1, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.axis = axis
        self.epsilon = epsilon

    def build(self, input_shape):
        """Make the scale."""
        self.compute_output_shape(input_shape)
        self.axis = sorted(self.axis) if isinstance(self.axis, (list, tuple)) else [self.axis]
        shape = tuple(input_shape[axis] for axis in self.axis)
        self.scale = self.add_weight(name="scale", shape=shape, initializer="ones")

    def call(self, x):
        """The scaled inputs."""
        return normalization.rms_normalization(x, self.scale, self.axis, self.epsilon)


@register("layer")
class UnitNormalization(_Normalization):
    """Gives vectors length one.

        y = x / ‖x‖       the norm along `axis`

    Args:
        axis: Axis or axes along which the vectors lie.

    Shapes:
        x (batch, ...)  ->  y (batch, ...)

    Source: https://keras.io/api/layers/normalization_layers/unit_normalization/

    Example:
        >>> UnitNormalization()(np.float32([[3.0, 4.0]])).numpy()
        array([[0.6, 0.8]], dtype=float32)
    """

    def __init__(self, axis=-1, **kwargs):
        super().__init__(**kwargs)
        self.axis = _checked_axis(self, axis)
        self.supports_masking = True

    def call(self, inputs):
        """The vectors divided by their length."""
        return ops.normalize(inputs, axis=self.axis, order=2, epsilon=1e-12)


def _checked_axis(layer, axis):
    if isinstance(axis, (list, tuple)):
        return list(axis)
    if isinstance(axis, int):
        return axis
    raise TypeError(
        f"{type(layer).__name__} {layer.name!r}: axis must be a whole number or a list of them, but got {axis!r}."
    )
