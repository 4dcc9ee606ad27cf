"""`Model`: a layer that can be trained, saved and summarized."""

import warnings

from gpukeras import registry, saving
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.layers.layer import Layer
from gpukeras.models import summary as summary_table
from gpukeras.saving import archive
from gpukeras.training.trainer import Trainer

__all__ = ["Model"]


@registry.register("model")
class Model(Trainer, Layer):
    """Layers joined into something that can be trained, evaluated, asked and saved.

    Three ways to make one: ``Model(inputs, outputs)`` from KerasTensors (the Functional API), a subclass with
    layers made in `__init__` and used in `call`, or `Sequential`.

    Args:
        inputs, outputs: KerasTensors, or lists or dictionaries of them; for the Functional API.
        trainable: Whether the optimizer updates the weights.
        dtype: Name of a dtype or policy.
        name: Name of the model.

    Example:
        >>> class Linear(Model):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.dense = keras.layers.Dense(1)
        ...
        ...     def call(self, inputs):
        ...         return self.dense(inputs)
        >>> Linear()(np.ones((2, 3), "float32")).shape
        (2, 1)
    """

    def __new__(cls, *args, **kwargs):
        from gpukeras.models.functional import Functional

        if cls is Model and _is_functional_call(args, kwargs):
            return super().__new__(Functional, *args, **kwargs)
        return super().__new__(cls, *args, **kwargs)

    def __init__(self, *args, **kwargs):
        from gpukeras.models.functional import Functional

        if _is_functional_call(args, kwargs) and not isinstance(self, Functional):
            _inherit_functional(type(self))
            Functional.__init__(self, *args, **kwargs)
            return
        if args:
            raise TypeError(
                f"{type(self).__name__}: Model takes inputs and outputs, or keywords (name, trainable, dtype), "
                f"but got {args!r}."
            )
        Layer.__init__(self, **kwargs)

    def call(self, *args, **kwargs):
        """The computation of a subclassed model."""
        raise NotImplementedError(
            f"Model {type(self).__name__} defines no call(self, inputs). Define it, or make the model of inputs and "
            f"outputs: Model(inputs, outputs)."
        )

    @property
    def layers(self):
        """The layers of the model, not those inside of layers."""
        return list(self._flatten_layers(include_self=False, recursive=False))

    @layers.setter
    def layers(self, value):
        raise AttributeError("Model.layers lists the layers and cannot be set. Use another name for the attribute.")

    def get_layer(self, name=None, index=None):
        """The layer of a name, or at an index of `layers`.

        Raises:
            ValueError: where there is none, with the names or the number of layers.
        """
        if (name is None) == (index is None):
            raise ValueError("get_layer takes a name or an index, and one of them is needed.")
        if index is not None:
            if not -len(self.layers) <= index < len(self.layers):
                raise ValueError(f"Model {self.name!r} has {len(self.layers)} layers, but layer {index} was asked for.")
            return self.layers[index]
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise ValueError(
            f"Model {self.name!r} has no layer {name!r}. "
            f"{registry.suggest(name, [layer.name for layer in self.layers])}"
        )

    def summary(
        self,
        line_length=None,
        positions=None,
        print_fn=None,
        expand_nested=False,
        show_trainable=False,
        layer_range=None,
    ):
        """Print a table of the layers with output shapes and numbers of parameters.

        Args:
            line_length: Width of the table.
            positions: Where its columns end, as fractions or characters.
            print_fn: Function that gets the text instead of the screen.
            expand_nested: Whether models used as layers are unfolded.
            show_trainable: Whether a column says which layers are trainable.
            layer_range: Pair of layer names (or patterns): the first and last to show.
        """
        summary_table.print_summary(
            self,
            line_length=line_length,
            positions=positions,
            print_fn=print_fn,
            expand_nested=expand_nested,
            show_trainable=show_trainable,
            layer_range=layer_range,
        )

    def build(self, input_shape):
        """Make all weights for inputs of this shape, by a call on placeholders."""
        if self.built:
            return
        try:
            self(_placeholders(input_shape, self.input_dtype))
        except NotImplementedError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"Model {self.name!r} could not be built for input shape {input_shape}: {error}. Call it on a batch of "
                f"data instead."
            ) from error

    def _build_for(self, arguments, args, kwargs):
        if type(self).build in (Model.build, Layer.build):
            # The weights of a subclassed model are made by its layers in the call that follows.
            self._path = self.name
            self._finish_building({"input_shape": _shapes_of(arguments.first)})
            return
        super()._build_for(arguments, args, kwargs)

    # --- Files ----------------------------------------------------------------------------------------------

    def save(self, filepath, overwrite=True, zipped=None, **kwargs):
        """Write architecture, weights, optimizer and compile arguments into one ``.keras`` file.

        The file is written beside its place and then moved there: a reader finds the old one or the new one.
        """
        saving.save_model(self, filepath, overwrite=overwrite, zipped=zipped, **kwargs)

    def save_weights(self, filepath, overwrite=True, **kwargs):
        """Write the weights into a ``.weights.h5`` file."""
        saving.save_weights(self, filepath, overwrite=overwrite, **kwargs)

    def load_weights(self, filepath, skip_mismatch=False, **kwargs):
        """Read the weights from a ``.weights.h5`` or ``.keras`` file."""
        saving.load_weights(self, filepath, skip_mismatch=skip_mismatch, **kwargs)

    def to_json(self, **kwargs):
        """The architecture as JSON text, without weights."""
        return saving.model_to_json(self, **kwargs)

    def __reduce__(self):
        """Copies and pickles are made as files are: of the config, the weights, and what compile() was given."""
        owned = [*self._flatten_layers(), self.optimizer, *self.metrics]
        own_classes = {type(item) for item in owned if not type(item).__module__.startswith("gpukeras.")}
        return archive.unpack, (*archive.pack(self), {cls.__name__: cls for cls in own_classes - {type(None)}})

    def export(self, *args, **kwargs):
        """Not supported."""
        raise NotImplementedError("Model.export is not supported; use model.save('model.keras').")

    def quantize(self, *args, **kwargs):
        """Not supported."""
        raise NotImplementedError("Model.quantize is not supported; a policy such as 'mixed_float16' is the nearest.")

    def get_config(self):
        """The constructor's arguments of a subclass."""
        config = super().get_config()
        for name in ("inputs", "outputs", "args"):
            config.pop(name, None)
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """A new model from what `get_config` returned."""
        from gpukeras.models.functional import Functional

        keys = {"name", "layers", "input_layers", "output_layers"}
        if keys <= set(config) and cls is Model:
            return Functional.from_config(config, custom_objects=custom_objects)
        if keys <= set(config) and not issubclass(cls, Functional):
            _inherit_functional(cls)
            return cls.from_config(config, custom_objects=custom_objects)
        with registry.custom_object_scope(custom_objects):
            return super().from_config(dict(config))

    def build_from_config(self, config):
        """Make the weights for the shapes in `config`."""
        if not config or "input_shape" not in config and "shapes_dict" not in config:
            return
        if type(self).build is not Model.build:
            super().build_from_config(config)
            return
        try:
            self(_placeholders(config.get("input_shape", config.get("shapes_dict")), self.input_dtype))
        except Exception as error:
            warnings.warn(
                f"Model {self.name!r} could not be built for {config} while loading: {error}. "
                f"Build it by calling it on data, then load its weights.",
                stacklevel=2,
            )


def _is_functional_call(args, kwargs):
    if len(args) >= 2 or (len(args) == 1 and "outputs" in kwargs) or ("inputs" in kwargs and "outputs" in kwargs):
        given = args[0] if args else kwargs["inputs"]
        return given is not None
    return False


def _inherit_functional(cls):
    """Let a subclass of Model, whose constructor passes inputs and outputs on, be a functional model."""
    from gpukeras.models.functional import Functional

    if cls is Model or issubclass(cls, Functional) or Model not in cls.__mro__:
        return
    if Model in cls.__bases__:
        cls.__bases__ = tuple(Functional if base is Model else base for base in cls.__bases__)
        return
    for base in cls.__bases__:
        _inherit_functional(base)


def _placeholders(shapes, dtype):
    """KerasTensors of nested shapes."""
    if isinstance(shapes, dict):
        return {key: _placeholders(shape, dtype) for key, shape in shapes.items()}
    if isinstance(shapes, (list, tuple)) and shapes and isinstance(shapes[0], (list, tuple, dict)):
        return [_placeholders(shape, dtype) for shape in shapes]
    return KerasTensor(tuple(shapes), dtype)


def _shapes_of(structure):
    if isinstance(structure, dict):
        return {key: _shapes_of(value) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return [_shapes_of(value) for value in structure]
    return tuple(structure.shape) if hasattr(structure, "shape") else None
