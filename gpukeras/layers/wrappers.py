"""Layers around another layer: `TimeDistributed` for every step of a sequence, `Bidirectional` for both directions."""

from typing import Any

from gpukeras import ops
from gpukeras.configurable import serialize
from gpukeras.layers.layer import Layer
from gpukeras.registry import kind_of, register, resolve

__all__ = ["Bidirectional", "TimeDistributed", "Wrapper"]


@register("layer")
class Wrapper(Layer):
    """Base of layers that wrap another one, which becomes their attribute `layer`.

    Args:
        layer: The layer to be wrapped.

    Example:
        >>> class Twice(Wrapper):
        ...     def call(self, inputs):
        ...         return self.layer(self.layer(inputs))
        >>> Twice(keras.layers.SimpleRNN(3, return_sequences=True))(np.ones((2, 5, 3), "float32")).shape
        (2, 5, 3)
    """

    def __init__(self, layer, **kwargs):
        _check_layer(layer, type(self).__name__, "layer")
        super().__init__(**kwargs)
        self.layer = layer

    def build(self, input_shape=None):
        """Build the wrapped layer."""
        if not self.layer.built:
            self.layer.build(input_shape)
            self.layer.built = True

    @classmethod
    def from_config(cls, config):
        """A new wrapper from what `get_config` returned."""
        return super().from_config({**config, "layer": resolve("layer", config["layer"])})


@register("layer")
class TimeDistributed(Wrapper):
    """Applies one layer to every time step, with the same weights.

    Steps are computed one after the other as in Keras, so that a layer with statistics of its batch sees one
    step at a time; a layer of this library without state of its own sees all steps at once, which is faster
    and gives the same result.

    Args:
        layer: The layer to be applied.

    Shapes:
        inputs (batch, time, ...)  ->  (batch, time, ...) of the layer's outputs

    Example:
        >>> TimeDistributed(keras.layers.SimpleRNN(4))(np.ones((2, 5, 3, 6), "float32")).shape
        (2, 5, 4)
    """

    def __init__(self, layer, **kwargs):
        super().__init__(layer, **kwargs)
        self.supports_masking = True

    def _step_shape(self, input_shape):
        if not isinstance(input_shape, (tuple, list)) or len(input_shape) < 3:
            raise ValueError(
                f"TimeDistributed {self.name!r} expects inputs of shape (batch, time, ...) with at least 3 axes, but "
                f"got shape {input_shape}. Add the missing axes, for instance with ops.expand_dims."
            )
        return (input_shape[0], *input_shape[2:])

    def compute_output_shape(self, input_shape):
        """The shape of the layer's output for one step, with the time axis put in."""
        batch, *rest = self.layer.compute_output_shape(self._step_shape(input_shape))
        return (batch, input_shape[1], *rest)

    def build(self, input_shape):
        """Build the wrapped layer for one step."""
        super().build(self._step_shape(input_shape))

    def call(self, inputs, training=None, mask: Any = None):
        """Apply the layer to every step."""
        batch, time = inputs.shape[:2]
        if mask is not None and tuple(mask.shape[:2]) != (batch, time):
            raise ValueError(
                f"TimeDistributed {self.name!r} expects a mask of shape (batch, time, ...) = {(batch, time)}, but got "
                f"shape {tuple(mask.shape)}."
            )
        signature = self.layer._signature
        settings = {"training": training} if signature.has_training else {}
        if not signature.has_mask:
            mask = None
        if _ignores_its_batch(self.layer, training):
            if mask is not None:
                settings["mask"] = ops.reshape(mask, (batch * time, *mask.shape[2:]))
            y = self.layer.call(ops.reshape(inputs, (batch * time, *inputs.shape[2:])), **settings)
            return ops.reshape(y, (batch, time, *y.shape[1:]))
        outputs = []
        for t in range(time):
            if mask is not None:
                settings["mask"] = mask[:, t]
            outputs.append(self.layer.call(inputs[:, t], **settings))
        return ops.stack(outputs, axis=1)


def _ignores_its_batch(layer, training):
    """Whether a layer treats every row by itself and changes no state, so that steps may share one call."""
    if kind_of(type(layer)) != "layer" or getattr(layer, "stateful", False) or type(layer).__name__ == "Lambda":
        return False
    inner = layer._flatten_layers(include_self=False)
    if any(kind_of(type(one)) != "layer" for one in inner):
        return False
    return not (training and layer.trainable and layer.non_trainable_variables)


@register("layer")
class Bidirectional(Layer):
    """Runs one recurrent layer forwards and a copy of it backwards, and merges the outputs.

    Args:
        layer: A recurrent layer: one with go_backwards, return_sequences, return_state and stateful.
            It is copied, weights excluded.
        merge_mode: "concat", "sum", "mul", "ave", or None for both outputs.
        weights: Initial weights of both directions, forward ones first.
        backward_layer: The layer of the other direction; None for a copy with go_backwards the other way.

    Shapes:
        sequences (batch, time, features)  ->  (batch, 2 units), or (batch, time, 2 units) with
        return_sequences; (..., units) for the other merge modes. The states of both follow with return_state.

    Example:
        >>> Bidirectional(keras.layers.LSTM(4, return_sequences=True))(np.ones((2, 5, 3), "float32")).shape
        (2, 5, 8)
    """

    _not_in_config = ("weights",)

    def __init__(self, layer, merge_mode="concat", weights=None, backward_layer=None, **kwargs):
        _check_layer(layer, "Bidirectional", "layer")
        if backward_layer is not None:
            _check_layer(backward_layer, "Bidirectional", "backward_layer")
        if merge_mode not in _MERGES:
            raise ValueError(f"Bidirectional: merge_mode must be one of {list(_MERGES)}, but got {merge_mode!r}.")
        super().__init__(**kwargs)
        self.forward_layer = _copy(layer, name=f"forward_{layer.name.removeprefix('forward_')}")
        if backward_layer is None:
            name = f"backward_{layer.name.removeprefix('backward_')}"
            backward_layer = _copy(layer, name=name, go_backwards=True)
        self.backward_layer = backward_layer
        if hasattr(layer, "use_cudnn"):  # not in its config
            self.forward_layer.use_cudnn = self.backward_layer.use_cudnn = layer.use_cudnn
        self._check_directions()
        for one in (self.forward_layer, self.backward_layer):
            if hasattr(one, "zero_output_for_mask"):
                one.zero_output_for_mask = one.return_sequences
        self.merge_mode = merge_mode
        self._initial_weights = list(weights) if weights else None
        self.stateful = layer.stateful
        self.return_sequences = layer.return_sequences
        self.return_state = layer.return_state
        self.supports_masking = True
        self.input_spec = layer.input_spec

    def _check_directions(self):
        forward, backward = self.forward_layer, self.backward_layer
        if forward.go_backwards == backward.go_backwards:
            raise ValueError(
                f"Bidirectional needs layers of different go_backwards, but both have {forward.go_backwards}. "
                f"Pass backward_layer with go_backwards={not forward.go_backwards}."
            )
        for name in ("stateful", "return_sequences", "return_state"):
            if getattr(forward, name) != getattr(backward, name):
                raise ValueError(
                    f"Bidirectional needs layers of the same {name}, but it is {getattr(forward, name)} for layer and "
                    f"{getattr(backward, name)} for backward_layer."
                )

    def compute_output_shape(self, sequences_shape, initial_state_shape=None):
        """The shape of the merged output, followed by those of the states with return_state."""
        shape = self.forward_layer.compute_output_shape(sequences_shape)
        shape, states = (shape[0], shape[1:]) if self.return_state else (shape, ())
        if self.merge_mode == "concat":
            shape = (*shape[:-1], 2 * shape[-1])
        shapes = (shape, shape) if self.merge_mode is None else (shape,)
        found = (*shapes, *states, *states)
        return found[0] if len(found) == 1 else found

    def compute_mask(self, inputs, previous_mask):
        """The mask of the sequence for each output that is one."""
        mask = previous_mask[0] if isinstance(previous_mask, (list, tuple)) else previous_mask
        mask = mask if self.return_sequences else None
        masks = [mask] if self.merge_mode else [mask, mask]
        if self.return_state:
            masks += [None] * (2 * len(self.forward_layer.state_size))
        return masks[0] if len(masks) == 1 else tuple(masks)

    def build(self, sequences_shape, initial_state_shape=None):
        """Build both directions."""
        for layer in (self.forward_layer, self.backward_layer):
            if not layer.built:
                layer.build(sequences_shape)
        if self._initial_weights is not None:
            self.set_weights(self._initial_weights)
            self._initial_weights = None

    def call(self, sequences, initial_state=None, mask=None, training=None):
        """Run both directions over the sequences and merge."""
        settings = {}
        if self.forward_layer._signature.has_training:
            settings["training"] = training
        if self.forward_layer._signature.has_mask:
            settings["mask"] = mask
        starts = {}, {}
        if initial_state is not None:
            half = len(initial_state) // 2
            starts = (
                {"initial_state": initial_state[:half]},
                {"initial_state": initial_state[half:]},
            )
        y = self.forward_layer(sequences, **starts[0], **settings)
        y_back = self.backward_layer(sequences, **starts[1], **settings)
        states = ()
        if self.return_state:
            states = (*y[1:], *y_back[1:])
            y, y_back = y[0], y_back[0]
        y, y_back = ops.cast(y, self.compute_dtype), ops.cast(y_back, self.compute_dtype)
        if self.return_sequences:
            y_back = ops.flip(y_back, axis=1)
        merged = _MERGES[self.merge_mode](y, y_back)
        if self.return_state:
            return (*merged, *states) if self.merge_mode is None else (merged, *states)
        return merged

    @property
    def states(self):
        """The states that both directions keep between batches, None unless stateful."""
        if self.forward_layer.states and self.backward_layer.states:
            return (*self.forward_layer.states, *self.backward_layer.states)
        return None

    def reset_state(self):
        """Set the kept states of both directions to zero."""
        if not self.stateful:
            raise AttributeError(
                f"Bidirectional {self.name!r} keeps no states to be reset. Make its layer with stateful=True."
            )
        self.forward_layer.reset_state()
        self.backward_layer.reset_state()

    reset_states = reset_state

    def get_config(self):
        """The constructor's arguments, with both layers as they are now."""
        config = super().get_config()
        config["layer"] = serialize(self.forward_layer)
        config["backward_layer"] = serialize(self.backward_layer)
        return config

    @classmethod
    def from_config(cls, config):
        """A new layer from what `get_config` returned."""
        layers = {
            name: resolve("layer", config[name]) for name in ("layer", "backward_layer") if config.get(name) is not None
        }
        return super().from_config({**config, **layers})


_MERGES = {
    "concat": lambda a, b: ops.concatenate([a, b], axis=-1),
    "sum": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "ave": lambda a, b: (a + b) / 2,
    None: lambda a, b: (a, b),
}


def _check_layer(layer, who, argument):
    if not isinstance(layer, Layer):
        raise ValueError(
            f"{who} expects a layer as {argument}, but got {layer!r}. Make one first, for instance LSTM(8)."
        )


def _copy(layer, **changes):
    """A new, unbuilt layer of the same config but for `changes`."""
    return type(layer).from_config({**layer.get_config(), **changes})
