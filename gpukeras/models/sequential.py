"""A stack of layers: `Sequential`."""

import copy
import inspect
from typing import Any

from gpukeras import registry
from gpukeras.autograd.scope import current, setting
from gpukeras.autograd.symbolic import KerasTensor, auto_name
from gpukeras.layers.input_layer import InputLayer
from gpukeras.layers.layer import Layer
from gpukeras.models.functional import Functional
from gpukeras.models.model import Model
from gpukeras.saving import serialize

__all__ = ["Sequential"]


@registry.register("model")
class Sequential(Model):
    """Layers one after the other: each takes what the one before it gives.

    With an `Input` first, or once it is called on data, the weights exist; before that the layers wait.

    Args:
        layers: List of layers; more can be added with `add`.
        trainable: Whether the optimizer updates the weights.
        name: Name of the model.

    Example:
        >>> model = Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.output_shape
        (None, 2)
    """

    _stack: list[Any]  # the layers in order, the InputLayer included
    _functional: Any  # the graph of the layers, None until the input's shape is known

    def __init__(self, layers=None, trainable=True, name=None):
        super().__init__(trainable=trainable, name=name)
        self.__dict__["_stack"] = []
        self.__dict__["_functional"] = None
        for layer in layers or ():
            self.add(layer, rebuild=False)
        if layers:
            self._rebuild()

    # What is tracked is the stack, so that pop() and add() are seen at once.
    @property
    def _layers(self):
        return self._stack

    def add(self, layer, rebuild=True):
        """Put a layer on top of the stack.

        Raises:
            ValueError: for what is no layer, for a name that is taken, for a second Input.
        """
        if isinstance(layer, KerasTensor) and layer._keras_history is not None:
            origin = layer._keras_history[0]
            if isinstance(origin, InputLayer):
                layer = origin
        if not isinstance(layer, Layer):
            hint = " Call it first: Dense(...), not Dense." if inspect.isclass(layer) else ""
            raise ValueError(f"Sequential takes layers, but got {layer!r} ({type(layer).__name__}).{hint}")
        if not self._stack and getattr(layer, "_input_shape_arg", None) is not None:
            self.add(InputLayer(shape=layer._input_shape_arg), rebuild=False)
        if any(known.name == layer.name and known is not layer for known in self._stack):
            raise ValueError(
                f"Sequential {self.name!r} has a layer named {layer.name!r} already. Pass another name=... to one."
            )
        if isinstance(layer, InputLayer) and self._stack:
            if isinstance(self._stack[0], InputLayer):
                raise ValueError(
                    f"Sequential {self.name!r} has an Input of shape {self._stack[0].batch_shape} already."
                )
            raise ValueError(f"Sequential {self.name!r}: the Input must be the first entry, but has come after layers.")
        self._stack.append(layer)
        if rebuild:
            self._rebuild()
        else:
            self._forget()

    def pop(self, rebuild=True):
        """Take the last layer off the stack and return it."""
        if not self._stack:
            raise ValueError(f"Sequential {self.name!r} has no layers to pop.")
        layer = self._stack.pop()
        self._forget()
        if rebuild and self._stack:
            self._rebuild()
        return layer

    def _forget(self):
        self.built = False
        self.__dict__["_functional"] = None
        self._forget_accepted()

    def _rebuild(self):
        self._forget()
        first = self._stack[0]
        if len(self._stack) > 1:
            if isinstance(first, InputLayer):
                self.build(first.batch_shape)
            elif isinstance(first, Model) and first.built and _has_input_shape(first):
                self.build(first.input_shape)

    def build(self, input_shape=None):
        """Make all weights for inputs of this shape."""
        if not self._stack:
            raise ValueError(f"Sequential {self.name!r} has no layers yet. Add some with model.add(layer).")
        if not isinstance(input_shape, (tuple, list)) or any(isinstance(s, (list, tuple, dict)) for s in input_shape):
            return  # several inputs: the layers are built by the call itself
        input_shape = tuple(input_shape)
        first = self._stack[0]
        if isinstance(first, InputLayer):
            if first.batch_shape != input_shape and not _fits(first.batch_shape, input_shape):
                raise ValueError(
                    f"Sequential {self.name!r} takes inputs of shape {first.batch_shape}, "
                    f"but build() got {input_shape}."
                )
        else:
            self._stack.insert(0, InputLayer(batch_shape=input_shape, dtype=first.compute_dtype))
        x = self._stack[0].output
        # The graph is a part of this model, not of a model that may be calling it.
        with setting(symbolic=False, tapes=(), layer=current.layer or self):
            for layer in self._stack[1:]:
                try:
                    x = layer(x)
                except NotImplementedError:
                    return
                except TypeError as error:
                    _explain_call_signature(layer, error)
                    raise
        auto_name("functional")  # Keras counts this graph among the functional models
        functional = Functional(self._stack[0].output, x, name=self.name)
        functional.__dict__["_known_as"] = type(self).__name__  # in messages: users know the stack only
        self.__dict__["_functional"] = functional

    def _finish_building(self, shapes):
        super()._finish_building(shapes)
        self._tracker.is_locked = False  # layers can be added to a stack at any time

    def _build_for(self, arguments, args, kwargs):
        first = arguments.first
        if isinstance(first, (list, tuple, dict)):
            self.build(None)
        else:
            # The batch axis is left open: the last batch may be smaller.
            self.build((None, *first.shape[1:]))

    def call(self, inputs, training=None, mask=None):
        """Run the layers in order."""
        if self._functional is not None:
            return self._functional.call(inputs, training=training, mask=mask)
        x = inputs
        for layer in self.layers:
            settings = {}
            if mask is not None and layer._signature.has_mask:
                settings["mask"] = mask
            x = layer(x, **settings)
            mask = getattr(x, "_keras_mask", None)
        return x

    def _output_spec(self, arguments, args, kwargs):
        with setting(symbolic=True):
            return self.call(*args, **kwargs)

    def compute_output_shape(self, input_shape):
        """The shape after the last layer."""
        if self._functional is not None:
            return self._functional.compute_output_shape(input_shape)
        for layer in self.layers:
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape

    @property
    def layers(self):
        """The layers without the InputLayer."""
        return [layer for i, layer in enumerate(self._stack) if i or not isinstance(layer, InputLayer)]

    @layers.setter
    def layers(self, value):
        raise AttributeError("Sequential.layers cannot be set. Use add() and pop().")

    def _graph_part(self, name):
        if self._functional is None:
            raise AttributeError(
                f"Sequential {self.name!r} has no {name} yet: it is not built. Start it with Input(shape), or call it."
            )
        return getattr(self._functional, name)

    @property
    def inputs(self):
        """The input KerasTensors."""
        return self._graph_part("inputs")

    @property
    def outputs(self):
        """The output KerasTensors."""
        return self._graph_part("outputs")

    @property
    def input(self):
        """The input KerasTensor."""
        return self._graph_part("input")

    @property
    def output(self):
        """The output KerasTensor."""
        return self._graph_part("output")

    @property
    def input_shape(self):
        """Shape of the input."""
        return self._graph_part("input_shape")

    @property
    def output_shape(self):
        """Shape of the output."""
        return self._graph_part("output_shape")

    @property
    def input_dtype(self):
        """Dtype that inputs are converted to."""
        first = self._stack[0] if self._stack else None
        return first.dtype if isinstance(first, InputLayer) else super().input_dtype

    def get_config(self):
        """Name and layers, as Keras writes them."""
        config = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": serialize.serialize_keras_object(self.dtype_policy),
            "layers": [copy.deepcopy(serialize.serialize_keras_object(layer)) for layer in self._stack],
        }
        if self._functional is not None:
            config["build_input_shape"] = self._stack[0].batch_shape
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """A new model from what `get_config` returned."""
        if "layers" not in config:
            raise ValueError(f"A Sequential config needs the keys 'name' and 'layers', but got {sorted(config)}.")
        model = cls(name=config.get("name"))
        with registry.custom_object_scope(custom_objects):
            for layer in config["layers"]:
                model.add(serialize.deserialize_keras_object(layer), rebuild=False)
        if model._stack:
            model._rebuild()
        shape = config.get("build_input_shape")
        if model._functional is None and shape:
            model.build(tuple(shape))
        return model


def _has_input_shape(model):
    try:
        return model.input_shape is not None
    except AttributeError:
        return False


def _fits(known, shape):
    return len(known) == len(shape) and all(a is None or b is None or a == b for a, b in zip(known, shape, strict=True))


def _explain_call_signature(layer, error):
    parameters = [p for p in layer._signature.signature.parameters.values() if p.default is p.empty]
    required = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(required) > 1:
        raise ValueError(
            f"Sequential passes one input to each layer, but {type(layer).__name__} {layer.name!r} needs "
            f"{', '.join(required)}. Use the Functional API."
        ) from error
