"""The base of all layers: state, deferred building, the call, losses, configs."""

import functools
import inspect
import threading
import warnings
from typing import Any

import numpy as np

from gpukeras import constraints, initializers, regularizers
from gpukeras.autograd import symbolic
from gpukeras.autograd.scope import current, setting
from gpukeras.autograd.symbolic import KerasTensor, Node, any_symbolic, flatten, map_structure
from gpukeras.autograd.tensor import Tensor, Variable, convert_to_array
from gpukeras.backend import devices, dtypes, process
from gpukeras.configurable import Configurable
from gpukeras.layers import _name_scope as name_scope
from gpukeras.layers import _tracking as tracking
from gpukeras.layers._call_arguments import CallArguments, shapes_for, signature_of
from gpukeras.layers.input_spec import check_inputs
from gpukeras.registry import snake_case

__all__ = ["Layer"]

_build_lock = threading.RLock()


class Layer(Configurable):
    """State and a computation: the class that every layer and model derives from.

    A subclass stores its arguments in `__init__`, makes its weights in `build(input_shape)`, which runs
    before the first call, and computes in `call`. Nothing else is needed: layers, variables and lists of them
    that are assigned to attributes are tracked, and derivatives come from the ops that `call` uses.

    Args:
        activity_regularizer: Penalty on the outputs, added to `losses`.
        trainable: Whether the optimizer updates the layer's weights.
        dtype: Name of a dtype or policy, or a `DTypePolicy`; None for the default policy.
        autocast: Whether float inputs are cast to the policy's compute dtype.
        name: Unique within a model; made from the class name if None.

    Example:
        >>> class Scale(Layer):
        ...     def build(self, input_shape):
        ...         self.factor = self.add_weight(shape=(input_shape[-1],), initializer="ones")
        ...
        ...     def call(self, inputs):
        ...         return inputs * self.factor
        >>> Scale()(np.ones((2, 3), "float32")).shape
        (2, 3)
    """

    name: str
    input_spec: Any
    dtype_policy: dtypes.DTypePolicy
    _tracker: tracking.Tracker
    _losses: list[Tensor]
    _inbound_nodes: list[Node]
    _accepted: Any = frozenset()
    _build_shapes: Any

    _tracking_category = "layer"
    _not_in_config = ("autocast", "kwargs")
    _in_config_if_set = ("activity_regularizer",)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "build" in vars(cls):
            cls.build = _building(vars(cls)["build"])

    def __new__(cls, *args, **kwargs):
        layer = super().__new__(cls, *args, **kwargs)
        vars(layer)["_tracker"] = tracking.Tracker(layer)
        return layer

    def __init__(
        self,
        *,
        activity_regularizer=None,
        trainable=True,
        dtype=None,
        autocast=True,
        name=None,
        **kwargs,
    ):
        input_shape = kwargs.pop("input_shape", None)
        if "input_dim" in kwargs:
            input_shape = (kwargs.pop("input_dim"),)
        if input_shape is not None:
            warnings.warn(
                "Do not pass `input_shape` or `input_dim` to a layer; make `Input(shape)` the first entry of the "
                "Sequential model instead.",
                stacklevel=_depth_of_subclass_init(self),
            )
            self._input_shape_arg = tuple(input_shape)
        if kwargs:
            raise ValueError(f"{type(self).__name__} got unknown arguments {sorted(kwargs)}.")
        if not isinstance(trainable, bool):
            raise ValueError(f"trainable must be True or False, but got {trainable!r}.")
        if name is not None and not isinstance(name, str):
            raise ValueError(f"name must be a string, but got {name!r}.")
        self.name = name or symbolic.auto_name(snake_case(type(self).__name__))
        self.dtype_policy = dtypes.policy_of(dtype)
        self.activity_regularizer = regularizers.get(activity_regularizer)
        self.autocast = autocast
        self.input_spec = None
        self.built = False
        self.supports_masking = type(self).compute_mask is not Layer.compute_mask
        self._trainable = trainable
        self._path = None
        self._build_shapes = None
        self._losses = []
        self._inbound_nodes = []
        self._is_building = False
        # Shapes and dtypes of single inputs that passed every check, with the settings they passed in. No state.
        vars(self)["_accepted"] = set()
        # Whether inputs become Tensors of the compute dtype before call() sees them.
        self._convert_input_args = True
        # Whether call() takes positional arguments that are not tensors.
        self._allow_non_tensor_positional_args = False

    # --- State -------------------------------------------------------------------------------------

    def __setattr__(self, name, value):
        kind = type(value)
        if kind not in _UNTRACKED and not name.startswith("_untracked") and name not in _OWN_LISTS:
            value = tracking.wrap(self._tracker, value)
        if name[0] != "_" and name not in _OF_LOOPS:
            self._tracker.count_setting(name)
            self._forget_accepted()
        super().__setattr__(name, value)

    def __delattr__(self, name):
        value = getattr(self, name, None)
        super().__delattr__(name)
        for item in flatten(value) if isinstance(value, (list, tuple, dict)) else [value]:
            self._tracker.remove(item)

    @property
    def _layers(self):
        return self._tracker.stores["layer"]

    @property
    def _metrics(self):
        return self._tracker.stores["metric"]

    @property
    def _seed_generators(self):
        return self._tracker.stores["seed_generator"]

    @property
    def _own_variables(self):
        own = self._tracker.stores["variable"]
        return [v for v in own if _starts_trainable(v)] + [v for v in own if not _starts_trainable(v)]

    @tracking.remembered
    def _all_layers(self):
        """The layer itself and all layers within it, each once."""
        found = [self]
        for layer in self._layers:
            found.extend(layer._all_layers())
        return _unique(found)

    def _flatten_layers(self, include_self=True, recursive=True):
        layers = self._all_layers() if recursive else _unique([self, *self._layers])
        return layers[0 if include_self else 1 :]

    def add_weight(
        self,
        shape=None,
        initializer=None,
        dtype=None,
        trainable=True,
        autocast=True,
        regularizer=None,
        constraint=None,
        aggregation="none",
        overwrite_with_gradient=False,
        name=None,
    ):
        """Make a variable that belongs to this layer.

        Args:
            shape: Sizes of the axes; () if None.
            initializer: Name, object or function; None for glorot_uniform (zeros for integers).
            dtype: Name of the dtype; None for the policy's variable dtype.
            trainable: Whether the optimizer updates it.
            autocast: Whether it is read in the policy's compute dtype.
            regularizer: Penalty added to the loss.
            constraint: Projection applied after each update.
            aggregation: Kept for configs; there is one copy.
            overwrite_with_gradient: Whether the optimizer replaces its values by the gradient.
            name: Last part of its path.

        Returns:
            The Variable.
        """
        if isinstance(shape, str):
            raise ValueError(f"add_weight: pass the name as a keyword: add_weight(shape=..., name={shape!r}).")
        shape = () if shape is None else (shape,) if isinstance(shape, int) else tuple(shape)
        if any(size is None for size in shape):
            raise ValueError(
                f"{type(self).__name__} {self.name!r}: a weight needs a full shape, but got {shape}. "
                f"Fix the sizes of the axes that it depends on, for instance in Input(shape)."
            )
        dtype = dtypes.name_of(dtype) if dtype is not None else self.variable_dtype
        if initializer is None:
            initializer = "glorot_uniform" if "float" in dtype else "zeros"
        with name_scope.entered(self.name, self):
            variable = Variable(
                initializers.get(initializer),
                shape=shape,
                dtype=dtype,
                trainable=trainable,
                autocast=autocast,
                aggregation=aggregation,
                name=name or symbolic.auto_name("variable"),
            )
            variable.path = name_scope.path_of(variable.name)
        variable.regularizer = regularizers.get(regularizer)
        variable.constraint = constraints.get(constraint)
        variable.overwrite_with_gradient = overwrite_with_gradient
        variable._starts_trainable = trainable
        self._tracker.add(variable)
        if not self.trainable:
            variable.trainable = False
        return variable

    add_variable = add_weight

    @property
    def trainable(self):
        """Whether the optimizer updates the layer's weights; setting it sets all sublayers'."""
        return self._trainable

    @trainable.setter
    def trainable(self, value):
        self._trainable = bool(value)
        for variable in self._tracker.stores["variable"]:
            if _starts_trainable(variable):
                variable.trainable = self._trainable
        for layer in self._layers:
            layer.trainable = value

    @tracking.remembered
    def _all_variables(self):
        found = self._own_variables + [generator.state for generator in self._seed_generators]
        for layer in self._layers:
            found.extend(layer.variables)
        return _unique(found)

    @tracking.remembered
    def _all_weights(self):
        found = self._own_variables
        for layer in self._layers:
            found.extend(layer.weights)
        return _unique(found)

    @property
    def variables(self):
        """All state of the layer and its sublayers, random states included, metrics excluded."""
        return list(self._all_variables())

    @property
    def weights(self):
        """The state that files keep: variables without random states."""
        return list(self._all_weights())

    @property
    def trainable_variables(self):
        """Variables that the optimizer updates."""
        return [v for v in self._all_variables() if v.trainable] if self.trainable else []

    @property
    def non_trainable_variables(self):
        """Variables that the optimizer leaves alone, random states included."""
        return [v for v in self._all_variables() if not v.trainable] if self.trainable else self.variables

    @property
    def trainable_weights(self):
        """Weights that the optimizer updates."""
        return [v for v in self._all_weights() if v.trainable] if self.trainable else []

    @property
    def non_trainable_weights(self):
        """Weights that the optimizer leaves alone."""
        return [v for v in self._all_weights() if not v.trainable] if self.trainable else self.weights

    @property
    def metrics(self):
        """Metrics of the layer and its sublayers."""
        found = list(self._metrics)
        for layer in self._layers:
            found.extend(layer.metrics)
        return _unique(found)

    @property
    def metrics_variables(self):
        """State of all metrics."""
        return [v for metric in self.metrics for v in metric.variables]

    def get_weights(self):
        """The weights as a list of NumPy arrays, each a copy."""
        return [v.numpy() for v in self.weights]

    def set_weights(self, weights):
        """Set all weights from a list of arrays, in the order of `weights`.

        Raises:
            ValueError: for another number or other shapes, before any weight has changed.
        """
        own = self.weights
        if len(own) != len(weights):
            raise ValueError(
                f"{type(self).__name__} {self.name!r} has {len(own)} weights, but got {len(weights)} arrays. "
                f"Expected shapes: {[v.shape for v in own]}."
            )
        arrays = [convert_to_array(w, v.array.dtype) for v, w in zip(own, weights, strict=True)]
        for variable, array in zip(own, arrays, strict=True):
            if variable.shape != array.shape:
                raise ValueError(
                    f"Weight {variable.path!r} has shape {variable.shape}, but got an array of shape {array.shape}."
                )
        for variable, array in zip(own, arrays, strict=True):
            variable.assign(array)

    def count_params(self):
        """Number of elements of all weights.

        Raises:
            ValueError: where the layer is not built yet.
        """
        if not self.built:
            raise ValueError(
                f"{type(self).__name__} {self.name!r} has no weights before it is built. "
                f"Call it on data, or layer.build(input_shape)."
            )
        return sum(v.size for v in self.weights)

    # --- Dtypes --------------------------------------------------------------------------------------

    @property
    def dtype(self):
        """Dtype of the variables."""
        return self.variable_dtype

    @property
    def compute_dtype(self):
        """Dtype of the computations."""
        return self.dtype_policy.compute_dtype

    @property
    def variable_dtype(self):
        """Dtype of the variables."""
        return self.dtype_policy.variable_dtype

    @property
    def input_dtype(self):
        """Dtype that float inputs are cast to."""
        return self.compute_dtype

    @property
    def quantization_mode(self):
        """None: layers here are not quantized."""
        return None

    @property
    def path(self):
        """Names of the enclosing layers and the layer's own, joined by slashes; None before it is built."""
        return self._path

    # --- What subclasses define -----------------------------------------------------------------------

    def build(self, input_shape):
        """Make the weights for inputs of this shape. Runs once, before the first call."""

    def call(self, *args, **kwargs):
        """The computation: Tensors in, Tensors out."""
        raise NotImplementedError(f"{type(self).__name__} defines no call(self, inputs).")

    def compute_output_shape(self, *args, **kwargs):
        """The shape of the output for inputs of this shape; found by tracing call() where not defined."""
        shapes = args[0] if args else next(iter(kwargs.values()))
        inputs = _map_shapes(lambda shape: KerasTensor(shape, self.input_dtype), shapes)
        return map_structure(lambda x: x.shape, self.compute_output_spec(inputs))

    def compute_output_spec(self, *args, **kwargs):
        """The KerasTensors that a call on KerasTensors gives, without recording it."""
        arguments = CallArguments(self, signature_of(self), args, kwargs)
        return self._output_spec(arguments, args, kwargs)

    def compute_mask(self, inputs, previous_mask):
        """The mask of the outputs."""
        return previous_mask

    def add_loss(self, loss):
        """Add scalar Tensors to the loss of this step; called from within `call`."""
        for value in flatten(loss):
            if isinstance(value, KerasTensor):
                continue
            if not isinstance(value, Tensor):
                raise ValueError(f"add_loss takes Tensors computed in call(), but got {value!r}.")
            if not current.symbolic:
                self._losses.append(value)

    @property
    def losses(self):
        """Scalars to be added to the loss: from `add_loss`, and of every regularizer."""
        found = [loss for layer in self._all_layers() for loss in layer._losses]
        if self.trainable:
            found += [v.regularizer(v) for v in self._all_weights() if v.regularizer is not None and v.trainable]
        return found

    def _clear_losses(self):
        for layer in self._all_layers():
            if layer._losses:
                layer._losses.clear()

    # --- Building ------------------------------------------------------------------------------------

    def get_build_config(self):
        """The shapes that `build` ran with, for saved files."""
        shapes = self._build_shapes
        if shapes is None:
            return None
        if len(shapes) == 1:
            return {"input_shape": next(iter(shapes.values()))}
        return {"shapes_dict": shapes}

    def build_from_config(self, config):
        """Build as `get_build_config` says."""
        if config and "input_shape" in config:
            self.build(_as_shape(config["input_shape"]))
        elif config and "shapes_dict" in config:
            self.build(**{name: _as_shape(shape) for name, shape in config["shapes_dict"].items()})

    def _build_for(self, arguments, args, kwargs):
        if type(self).build is not Layer.build:
            self.build(**shapes_for(self.build, arguments, self))
        elif any(not layer.built for layer in self._layers):
            # No build() of its own, but sublayers without weights yet: a call on placeholders builds them.
            def placeholder(x):
                return KerasTensor(x.shape, x.dtype) if isinstance(x, Tensor) else x

            with setting(symbolic=True):
                self.call(**self._call_values(arguments, map_structure(placeholder, arguments.values)))
        if not self.built:
            self._finish_building(None)

    def _finish_building(self, shapes):
        self.built = True
        self._build_shapes = shapes
        self._tracker.is_locked = True

    def _call_values(self, arguments, values):
        """The values for call(): None of those that it has no parameter for."""
        return values

    # --- The call --------------------------------------------------------------------------------------

    def __call__(self, *args, **kwargs):
        # The usual case first: one Tensor of a shape seen before, with nothing to cast, mask or check.
        if len(args) == 1 and not kwargs:
            x = args[0]
            if type(x) is np.ndarray and x.dtype == _FLOAT32 and devices.default_module() is np:
                x = Tensor(x)
                args = (x,)
            if type(x) is Tensor:
                scope = vars(current)  # one look for the thread's own fields; those that are not set are None
                training = scope.get("training")
                if (x.array.shape, x.array.dtype, training, scope.get("autocast")) in self._accepted and (
                    getattr(x, "_keras_mask", None) is None
                ):
                    settings = {} if training is None or not self._signature.has_training else {"training": training}
                    if scope.get("layer") is not None:
                        return self.call(x, **settings)
                    scope["layer"] = self
                    try:
                        return self.call(x, **settings)
                    finally:
                        scope["layer"] = None
        if "_accepted" not in vars(self):
            raise RuntimeError(
                f"{type(self).__name__}.__init__() did not call super().__init__(). Add it as its first line."
            )
        if current.layer is None:
            with setting(layer=self):
                return self._checked_call(args, kwargs)
        return self._checked_call(args, kwargs)

    @functools.cached_property
    def _signature(self):
        return signature_of(self)

    def _checked_call(self, args, kwargs):
        given = args, kwargs
        if self._convert_input_args:
            args = tuple([self._convert(x) for x in args])
            kwargs = {name: self._convert(x) for name, x in kwargs.items()}
        if not self._allow_non_tensor_positional_args:
            self._refuse_settings_by_position(args)
        signature = self._signature
        arguments = CallArguments(self, signature, args, kwargs)
        self._check_inputs(arguments.first)
        with name_scope.entered(self.name, self):
            if not self.built:
                with _build_lock:  # several threads may predict, but one of them makes the weights
                    if not self.built:
                        self._build_for(arguments, args, kwargs)
                self._check_inputs(arguments.first)

            training = kwargs.get("training")
            if training is None:
                training = arguments.values.get("training") if "training" in arguments.given else None
            if training is None:
                training = current.training
            if training is None:
                training = signature.defaults.get("training")
            if signature.has_training and training is not None:
                kwargs["training"] = arguments.values["training"] = training
                if "training" in signature.names[: len(args)]:
                    args = args[: signature.names.index("training")]
            elif not signature.has_training:
                kwargs.pop("training", None)

            previous_mask = self._fill_masks(arguments, signature, kwargs)
            is_symbolic = any_symbolic(args, kwargs)
            autocast = self._autocast_dtype()
            with setting(training=training, autocast=autocast):
                if is_symbolic:
                    with setting(symbolic=True):
                        outputs = self._output_spec(arguments, args, kwargs)
                else:
                    process.prepare()  # here too, for loops of the user's own
                    outputs = self.call(*args, **kwargs)
                if self.activity_regularizer is not None:
                    self._add_activity_losses(outputs)
        self._mask_outputs(arguments.first, outputs, previous_mask, is_symbolic)
        if is_symbolic:
            if not current.symbolic:
                outputs = _without_old_history(outputs, flatten(given))
                Node(self, *given, outputs)
        else:
            self._remember_accepted(args, kwargs, arguments, previous_mask, autocast)
        return outputs

    def _check_inputs(self, inputs):
        if self.input_spec is not None:
            check_inputs(self.input_spec, inputs, self)

    def _convert(self, structure):
        if isinstance(structure, Tensor) and not isinstance(structure, Variable):
            return self._cast(structure)
        if isinstance(structure, (list, tuple, dict)):
            return map_structure(self._convert_leaf, structure)
        return self._convert_leaf(structure)

    def _convert_leaf(self, x):
        if x is None or isinstance(x, (bool, str)):
            return x
        if isinstance(x, KerasTensor):
            return self._cast_symbolic(x)
        if isinstance(x, Tensor):
            return self._cast(x)
        if isinstance(x, (int, float)) or devices.is_array(x) or _is_foreign_array(x):
            return self._cast(Tensor(convert_to_array(x)))
        return x

    def _cast(self, x):
        dtype, wanted = x.array.dtype, dtypes.as_dtype(self.input_dtype)
        if dtype == wanted or not self.autocast or not dtypes.is_float(dtype) or not dtypes.is_float(wanted):
            return x
        cast = symbolic.operations["cast"](x, self.input_dtype)
        mask = getattr(x, "_keras_mask", None)
        if mask is not None:
            cast._keras_mask = mask
        return cast

    def _cast_symbolic(self, x):
        if self.autocast and "float" in x.dtype and x.dtype != self.input_dtype and "float" in self.input_dtype:
            cast = KerasTensor(x.shape, self.input_dtype)
            cast._keras_mask = x._keras_mask
            cast._keras_history = x._keras_history
            return cast
        return x

    def _refuse_settings_by_position(self, args):
        for value in args:
            for leaf in flatten(value):
                if leaf is not None and not isinstance(leaf, (Tensor, KerasTensor)):
                    raise ValueError(
                        f"{type(self).__name__} {self.name!r} takes only tensors as positional arguments; pass "
                        f"{leaf!r} ({type(leaf).__name__}) by keyword."
                    )

    def _fill_masks(self, arguments, signature, kwargs):
        """Hand the masks attached to the inputs to call(), where it has parameters for them."""
        if len(arguments.tensors) == 1:
            if signature.has_mask and arguments.values.get("mask") is None:
                (only,) = arguments.tensors.values()
                kwargs["mask"] = arguments.values["mask"] = map_structure(_mask_of, only)
        elif arguments.tensors:
            for name, value in list(arguments.tensors.items()):
                mask_name = f"{name}_mask"
                if mask_name in arguments.values and arguments.values[mask_name] is None:
                    kwargs[mask_name] = arguments.values[mask_name] = map_structure(_mask_of, value)
        if kwargs.get("mask") is not None:
            return kwargs["mask"]
        return map_structure(_mask_of, arguments.first)

    def _autocast_dtype(self):
        if current.autocast is None and self.compute_dtype == self.variable_dtype:
            return None
        if not self.autocast or "float" not in self.compute_dtype:
            return None
        return dtypes.as_dtype(self.compute_dtype)

    def _output_spec(self, arguments, args, kwargs):
        if type(self).compute_output_shape is Layer.compute_output_shape:
            with setting(symbolic=True):
                return self.call(*args, **kwargs)
        shapes = shapes_for(self.compute_output_shape, arguments, self)
        return _map_shapes(
            lambda shape: KerasTensor(shape, self.compute_dtype),
            self.compute_output_shape(**shapes),
        )

    def _add_activity_losses(self, outputs):
        for output in flatten(outputs):
            if isinstance(output, Tensor):
                loss = self.activity_regularizer(output)
                self.add_loss(loss / max(output.shape[0], 1) if output.ndim else loss)

    def _mask_outputs(self, inputs, outputs, previous_mask, is_symbolic):
        has_mask = any(m is not None for m in flatten(previous_mask))
        if not self.supports_masking:
            if has_mask:
                warnings.warn(
                    f"{type(self).__name__} {self.name!r} got an input with a mask, but does not support masking: "
                    f"the layers after it will not see the mask.",
                    stacklevel=3,
                )
            return
        if not has_mask and type(self).compute_mask is Layer.compute_mask:
            return
        flat = flatten(outputs)
        if all(_mask_of(x) is not None for x in flat):
            return
        with setting(symbolic=True) if is_symbolic else setting():
            masks = self.compute_mask(inputs, previous_mask)
        if masks is None:
            return
        for x, mask in zip(flat, flatten(masks), strict=False):
            if mask is not None and isinstance(x, (Tensor, KerasTensor)) and _mask_of(x) is None:
                x._keras_mask = mask

    def _remember_accepted(self, args, kwargs, arguments, previous_mask, autocast):
        """Let later calls with an input like this one take the short way."""
        is_plain = (
            len(args) == 1
            and type(args[0]) is Tensor
            and self.activity_regularizer is None
            and type(self).compute_mask is Layer.compute_mask
            and previous_mask is None
            and (autocast is None) == (current.autocast is None)
            and not kwargs.keys() - {"training", "mask"}
            and kwargs.get("training", current.training) == current.training
        )
        if not is_plain:
            return
        if len(self._accepted) >= _MOST_ACCEPTED:
            self._accepted.clear()
        x = args[0].array
        self._accepted.add((x.shape, x.dtype, current.training, current.autocast))

    def _forget_accepted(self):
        """Let the next call of any shape be checked: something that the checks look at may have changed."""
        if self._accepted:
            self._accepted.clear()

    # --- Graph ------------------------------------------------------------------------------------------

    @property
    def input(self):
        """The KerasTensor(s) the layer was called on, where it was called once in a functional model."""
        return self._only_node("input").structured_inputs

    @property
    def output(self):
        """The KerasTensor(s) that came out, where the layer was called once in a functional model."""
        return self._only_node("output").structured_outputs

    def _only_node(self, what):
        if len(self._inbound_nodes) != 1:
            raise AttributeError(
                f"{type(self).__name__} {self.name!r} has no single {what}: it was called on KerasTensors "
                f"{len(self._inbound_nodes)} times."
            )
        return self._inbound_nodes[0]

    # --- Files --------------------------------------------------------------------------------------------

    def _constructor_argument(self, name, default):
        if name == "dtype":
            return self.dtype_policy
        return super()._constructor_argument(name, default)

    def save_own_variables(self, store):
        """Put the layer's own variables (not its sublayers') into `store`, a dictionary of arrays."""
        for i, variable in enumerate(self._own_variables):
            store[str(i)] = variable

    def load_own_variables(self, store):
        """Set the layer's own variables from `store`.

        Raises:
            ValueError: where the number of variables differs, or a shape.
        """
        own = self._own_variables
        if len(store.keys()) != len(own):
            state = "It is not built yet. " if not self.built else ""
            raise ValueError(
                f"{type(self).__name__} {self.name!r} has {len(own)} variables "
                f"({', '.join(v.name for v in own) or 'none'}), but the file has {len(store.keys())} for it. {state}"
                f"Build the model as it was when it was saved."
            )
        for i, variable in enumerate(own):
            variable.assign(np.asarray(store[str(i)]))

    def __repr__(self):
        return f"<{type(self).__name__} name={self.name}, built={self.__dict__.get('built', False)}>"

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if not name.startswith(("_signature", "_remembered"))}

    def __setstate__(self, state):
        self.__dict__.update(state)


_FLOAT32 = np.dtype("float32")
_UNTRACKED = frozenset({bool, int, float, str, type(None), Tensor})
_OF_LOOPS = frozenset({"history", "stop_training", "stop_evaluating", "stop_predicting"})  # settings of no layer
_MOST_ACCEPTED = 16
_OWN_LISTS = frozenset({"_losses", "_inbound_nodes", "_build_shapes"})


def _building(build):
    """Let `build` run in the layer's name scope, mark the layer built, and keep the shapes."""

    @functools.wraps(build)
    def wrapper(self, *args, **kwargs):
        if self._is_building:  # a subclass's build() calls its base's
            return build(self, *args, **kwargs)
        shapes = dict(inspect.signature(build).bind(self, *args, **kwargs).arguments)
        shapes.pop("self", None)
        self._is_building = True
        try:
            with name_scope.entered(self.name, self):
                self._path = name_scope.path_of()
                build(self, *args, **kwargs)
        finally:
            self._is_building = False
        self._finish_building(shapes)

    return wrapper


def _depth_of_subclass_init(layer):
    return 2 + sum("__init__" in vars(cls) for cls in type(layer).__mro__ if cls not in (Layer, object))


def _starts_trainable(variable):
    return variable._starts_trainable


def _mask_of(x):
    return getattr(x, "_keras_mask", None)


def _is_foreign_array(x):
    return hasattr(x, "__array__") or hasattr(x, "__dlpack__") or hasattr(x, "__cuda_array_interface__")


def _unique(items):
    return list({id(item): item for item in items}.values())


def _as_shape(shape):
    if isinstance(shape, dict):
        return {name: _as_shape(item) for name, item in shape.items()}
    if isinstance(shape, (list, tuple)):
        if shape and isinstance(shape[0], (list, tuple, dict)):
            return [_as_shape(item) for item in shape]
        return tuple(shape)
    return shape


def _map_shapes(function, shapes):
    if isinstance(shapes, dict):
        return {name: _map_shapes(function, shape) for name, shape in shapes.items()}
    if isinstance(shapes, (list, tuple)) and shapes and not isinstance(shapes[0], (int, type(None))):
        return type(shapes)(_map_shapes(function, shape) for shape in shapes)
    return function(tuple(shapes))


def _without_old_history(outputs, inputs):
    """Outputs that are inputs handed through become KerasTensors of their own."""
    known = {id(x) for x in inputs}

    def fresh(x):
        if isinstance(x, KerasTensor) and (id(x) in known or x._keras_history is not None):
            made = KerasTensor(x.shape, x.dtype)
            made._keras_mask = x._keras_mask
            return made
        return x

    return map_structure(fresh, outputs)
