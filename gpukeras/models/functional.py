"""Models made of a graph of layer calls: `Model(inputs, outputs)`."""

import copy
import inspect
import warnings
from typing import Any

from gpukeras import registry
from gpukeras.autograd.scope import current, setting
from gpukeras.autograd.symbolic import KerasTensor, flatten, map_structure, operations
from gpukeras.autograd.tensor import Tensor, convert_to_array
from gpukeras.backend import dtypes
from gpukeras.layers.input_layer import Input, InputLayer
from gpukeras.layers.input_spec import InputSpec
from gpukeras.layers.layer import Layer
from gpukeras.models._graph import Graph, clone
from gpukeras.models.model import Model
from gpukeras.saving import serialize

__all__ = ["Functional"]


@registry.register("functional")
class Functional(Model):
    """A model that runs the graph recorded between its inputs and outputs.

    Made by ``Model(inputs, outputs)``, where both are KerasTensors, or lists or dictionaries of them.

    Example:
        >>> inputs = keras.Input(shape=(4,))
        >>> outputs = keras.layers.Dense(2)(inputs)
        >>> keras.Model(inputs, outputs).output_shape
        (None, 2)
    """

    _inputs: list[KerasTensor]
    _outputs: list[KerasTensor]
    _inputs_struct: Any
    _outputs_struct: Any
    _graph: Graph
    _plan: Any
    _fitting: Any = None

    def __init__(self, inputs, outputs, name=None, **kwargs):
        trainable = kwargs.pop("trainable", None)
        for what, structure in (("inputs", inputs), ("outputs", outputs)):
            for leaf in flatten(structure):
                if not isinstance(leaf, KerasTensor):
                    raise ValueError(
                        f"Model {what} must be KerasTensors, made by Input() and by calling layers on it, but got "
                        f"{leaf!r} ({type(leaf).__name__})."
                    )
        if isinstance(inputs, dict):
            for key, tensor in inputs.items():
                if key != tensor.name:
                    warnings.warn(
                        f"The key {key!r} of the inputs differs from the input's name {tensor.name!r}. "
                        f"Use Input(..., name={key!r}).",
                        stacklevel=3,
                    )
        Model.__init__(self, name=name, **kwargs)
        flat_inputs, flat_outputs = flatten(inputs), flatten(outputs)
        if not all(
            tensor._keras_history and isinstance(tensor._keras_history[0], InputLayer) for tensor in flat_inputs
        ):
            flat_inputs, flat_outputs = clone(
                flat_inputs,
                flat_outputs,
                lambda tensor: Input(batch_shape=tensor.shape, dtype=tensor.dtype),
            )
            inputs, outputs = _packed(inputs, flat_inputs), _packed(outputs, flat_outputs)
        state = self.__dict__  # none of what follows is tracked as state of its own
        state["_inputs_struct"] = inputs
        state["_outputs_struct"] = outputs
        state["_inputs"] = flat_inputs
        state["_outputs"] = flat_outputs
        state["_graph"] = Graph(flat_inputs, flat_outputs)
        state["_plan"] = _plan(state["_graph"])
        for layer in self.layers:
            self._tracker.add(layer)
        if trainable is not None:
            self.trainable = trainable
        self.supports_masking = True
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        self.built = True
        self._set_input_spec()

    @property
    def layers(self):
        """Layers of the graph, inputs included."""
        return [operation for operation in self._graph.operations if isinstance(operation, Layer)]

    @property
    def operations(self):
        """Layers and ops of the graph."""
        return list(self._graph.operations)

    @property
    def inputs(self):
        """The input KerasTensors, flat."""
        return list(self._inputs)

    @property
    def outputs(self):
        """The output KerasTensors, flat."""
        return list(self._outputs)

    @property
    def input(self):
        """The inputs in the structure they were given in."""
        return self._inputs_struct

    @property
    def output(self):
        """The outputs in the structure they were given in."""
        return self._outputs_struct

    @property
    def input_names(self):
        """Names of the inputs."""
        return [tensor.name for tensor in self._inputs]

    @property
    def output_names(self):
        """Names of the layers that give the outputs."""
        return [tensor._keras_history[0].name for tensor in self._outputs]

    @property
    def input_shape(self):
        """Shape of the input, or of each."""
        return _single(map_structure(lambda tensor: tensor.shape, self._inputs_struct))

    @property
    def output_shape(self):
        """Shape of the output, or of each."""
        return _single(map_structure(lambda tensor: tensor.shape, self._outputs_struct))

    def _set_input_spec(self):
        self.__dict__["input_spec"] = [
            InputSpec(
                shape=(None, *tensor.shape[1:]),
                allow_last_axis_squeeze=True,
                name=tensor._keras_history[0].name,
                optional=tensor._keras_history[0].optional,
            )
            for tensor in self._inputs
        ]

    def _check_inputs(self, inputs):
        """Left to `_standardize`, which knows the inputs by name."""

    # --- Running ------------------------------------------------------------------------------------------

    def call(self, inputs, training=None, mask: Any = None):
        """Run the graph."""
        if type(inputs) is Tensor and mask is None and (inputs.array.shape, inputs.array.dtype) == self._fitting:
            flat: list[Any] = [inputs]
        else:
            flat = self._standardize(inputs)
            if len(flat) == 1 and flat[0] is inputs and type(inputs) is Tensor:
                # Past __setattr__: the last single input that was right as it came is no state of the model.
                self.__dict__["_fitting"] = inputs.array.shape, inputs.array.dtype
        if mask is not None:
            for x, m in zip(flat, flatten(mask), strict=True):
                if m is not None:
                    x._keras_mask = m
        if training is not None and training != current.training:
            with setting(training=training):
                return self._run(flat)
        return self._run(flat)

    def _run(self, flat):
        count, steps, output_slots = self._plan
        values = [None] * count
        values[: len(flat)] = flat
        for operation, single, template, slots in steps:
            if single is not None:
                outputs = operation(values[single])
            else:
                args, kwargs = _filled(template, values)
                if "training" in kwargs and current.training is not None:
                    kwargs["training"] = current.training  # as in Keras, fit() and predict() know better
                outputs = operation(*args, **kwargs)
            if type(outputs) is Tensor or (len(slots) == 1 and not isinstance(outputs, (list, tuple, dict))):
                values[slots[0]] = outputs
            else:
                for slot, output in zip(slots, flatten(outputs), strict=True):
                    values[slot] = output
        if len(output_slots) == 1 and isinstance(self._outputs_struct, KerasTensor):
            return values[output_slots[0]]
        return _single(_packed(self._outputs_struct, [values[slot] for slot in output_slots]))

    def compute_output_shape(self, input_shape):
        """The shapes of the outputs for inputs of these shapes."""
        flat = _flat_shapes(input_shape)
        known = [KerasTensor(shape, tensor.dtype) for shape, tensor in zip(flat, self._inputs, strict=True)]
        with setting(symbolic=True):
            return map_structure(lambda tensor: tensor.shape, self._run(known))

    def _output_spec(self, arguments, args, kwargs):
        with setting(symbolic=True):
            return self.call(*args, **kwargs)

    def _standardize(self, inputs):
        """The inputs as a flat list in the model's order, of the right dtype and rank."""
        structure = self._inputs_struct
        if isinstance(inputs, dict) and not isinstance(structure, dict):
            names = [tensor.name for tensor in self._inputs]
            missing = [name for name in names if name not in inputs]
            if missing:
                raise ValueError(f"{self._who()} needs inputs named {names}, but got {sorted(inputs)}.")
            inputs = [inputs[name] for name in names]
        if isinstance(structure, dict):
            if isinstance(inputs, dict):
                missing = [key for key in structure if key not in inputs]
                if missing:
                    raise ValueError(f"{self._who()} needs inputs named {list(structure)}, but got {list(inputs)}.")
                flat = [inputs[key] for key in sorted(structure)]
            else:
                flat = flatten(inputs)
        elif isinstance(inputs, (Tensor, KerasTensor)):
            flat = [inputs]
        elif len(self._inputs) == 1 and not isinstance(inputs, (list, tuple, dict)):
            flat = [inputs]
        elif len(self._inputs) == 1 and not isinstance(structure, (list, tuple)) and _is_of_numbers(inputs):
            flat = [convert_to_array(inputs)]
        else:
            flat = flatten(inputs)
        if len(flat) != len(self._inputs):
            noun = "input" if len(self._inputs) == 1 else "inputs"
            raise ValueError(
                f"{self._who()} has {len(self._inputs)} {noun} ({', '.join(self.input_names)}), but got {len(flat)}."
            )
        return [self._fit(x, tensor) for x, tensor in zip(flat, self._inputs, strict=True)]

    def _fit(self, x, tensor):
        if x is None:
            if not tensor._keras_history[0].optional:
                raise ValueError(f"{self._who()}: the input {tensor.name!r} is not optional, but got None.")
            return None
        if not isinstance(x, KerasTensor):
            mask = getattr(x, "_keras_mask", None)
            dtype = dtypes.as_dtype(tensor.dtype)
            if not isinstance(x, Tensor) or x.array.dtype != dtype:
                x = Tensor(convert_to_array(x, dtype))
                if mask is not None:
                    x._keras_mask = mask
        rank, wanted = len(x.shape), len(tensor.shape)
        if rank == wanted + 1 and x.shape[-1] == 1:
            return operations["squeeze"](x, -1)
        if rank == wanted - 1 and tensor.shape[-1] == 1:
            return operations["expand_dims"](x, -1)
        for size, known in zip(x.shape[1:], tensor.shape[1:], strict=False):
            if rank != wanted or (known is not None and size is not None and size != known):
                raise ValueError(
                    f"{self._who()} expected shape {tensor.shape} for input {tensor.name!r}, but got {tuple(x.shape)}. "
                    f"Reshape the data, or make the Input with shape={tuple(x.shape[1:])}."
                )
        if rank != wanted:
            raise ValueError(
                f"{self._who()} expected {wanted} axes for input {tensor.name!r}, but got shape {tuple(x.shape)}."
            )
        return x

    def _who(self):
        return f"{self.__dict__.get('_known_as') or type(self).__name__} {self.name!r}"

    # --- Files ------------------------------------------------------------------------------------------

    def get_config(self):
        """Layers, how they are connected, inputs and outputs, as Keras writes them."""
        if not _has_functional_constructor(type(self)):
            return Model.get_config(self)
        graph_nodes = set(self._graph.nodes)
        kept = {}  # (operation, node index) -> index among the nodes that this model keeps
        for operation in self._graph.operations:
            indices = [node.index for node in operation._inbound_nodes if node in graph_nodes]
            kept.update(((operation, index), count) for count, index in enumerate(indices))

        def place(tensor):
            operation, index, i = tensor._keras_history
            return [operation.name, kept[operation, index], i]

        def end(tensor):
            name, index, i = place(tensor)
            return [name, index + _is_model(tensor._keras_history[0]), i]

        def written(leaf):
            if not isinstance(leaf, KerasTensor):
                return leaf
            return {
                "class_name": "__keras_tensor__",
                "config": {
                    "shape": list(leaf.shape),
                    "dtype": leaf.dtype,
                    "keras_history": place(leaf),
                },
            }

        layers = []
        for operation in self._graph.operations:
            config = serialize.serialize_keras_object(operation)
            config["name"] = operation.name
            calls = [
                serialize.call_arguments(node)
                for node in operation._inbound_nodes
                if node in graph_nodes and not node.is_input
            ]
            config["inbound_nodes"] = [
                {
                    "args": serialize.serialize_keras_object(map_structure(written, args)),
                    "kwargs": serialize.serialize_keras_object(map_structure(written, kwargs)),
                }
                for args, kwargs in calls
            ]
            layers.append(config)
        return copy.deepcopy(
            {
                "name": self.name,
                "trainable": self.trainable,
                "layers": layers,
                "input_layers": map_structure(end, self._inputs_struct),
                "output_layers": map_structure(end, self._outputs_struct),
            }
        )

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """A new model from what `get_config` returned."""
        config = dict(config)
        with registry.custom_object_scope(custom_objects):
            made = _Rebuilding(config.pop("layers"))
            inputs = made.tensors(config.pop("input_layers"))
            outputs = made.tensors(config.pop("output_layers"))
        return cls(inputs=inputs, outputs=outputs, **config)

    def get_build_config(self):
        """No shape: the graph says how to build."""
        return {"input_shape": None}


class _Rebuilding:
    """Layers made again from their configs, and called again in an order in which all inputs exist."""

    def __init__(self, configs):
        self.made = {}
        self.earlier_calls = {}  # of a layer that another model, read before, has called too
        waiting = []
        for config in configs:
            operation = serialize.deserialize_keras_object(config)
            self.made[config["name"]] = operation
            is_input = isinstance(operation, InputLayer)
            self.earlier_calls[config["name"]] = 0 if is_input else len(operation._inbound_nodes)
            waiting.extend((operation, node) for node in config["inbound_nodes"])
        # Calls of one layer must keep their order: its node indices are part of the config.
        while waiting:
            later, blocked = [], set()
            for operation, node in waiting:
                arguments = None if operation in blocked else self._arguments(node)
                if arguments is None:
                    blocked.add(operation)
                    later.append((operation, node))
                else:
                    operation(*arguments[0], **arguments[1])
            if len(later) == len(waiting):
                names = sorted({operation.name for operation, _ in later})
                raise ValueError(f"The model's config is not a graph that can be computed; unresolved: {names}.")
            waiting = later

    def _arguments(self, node) -> Any:
        try:
            return (
                self._read(node["args"]),
                self._read(node["kwargs"]),
            )
        except LookupError:
            return None

    def _read(self, value):
        if isinstance(value, dict):
            if value.get("class_name") == "__keras_tensor__":
                return self.tensor(*value["config"]["keras_history"])
            if value.get("class_name") == "__tuple__":
                return tuple(self._read(item) for item in value["config"]["value"])
            if "class_name" in value and "config" in value:
                return serialize.deserialize_keras_object(value)
            return {key: self._read(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._read(item) for item in value]
        return value

    def tensor(self, name, node_index, tensor_index):
        """The KerasTensor of a layer's name, call and output number."""
        if name not in self.made:
            raise ValueError(f"The model's config names the layer {name!r}, but has none of that name.")
        node = self.made[name]._inbound_nodes[self.earlier_calls[name] + node_index]
        return node.outputs[tensor_index]

    def tensors(self, structure):
        """The same for nested places ``[name, node index, tensor index]``."""
        if isinstance(structure, dict):
            return {key: self.tensors(item) for key, item in structure.items()}
        if len(structure) == 3 and isinstance(structure[0], str):
            name, node_index, tensor_index = structure
            return self.tensor(name, node_index - _is_model(self.made.get(name)), tensor_index)
        return [self.tensors(item) for item in structure]


def _is_model(operation):
    """1 for a functional model: at the ends of a graph, Keras counts its own graph as its first call."""
    return int(isinstance(operation, Functional))


def _plan(graph):
    """The graph as a list of steps over numbered slots: ``(slot count, steps, output slots)``."""
    slots = {id(tensor): i for i, tensor in enumerate(graph.inputs)}
    steps = []
    for node in graph.nodes:
        if node.is_input or all(id(tensor) in slots for tensor in node.outputs):
            continue

        def to_slot(leaf):
            return _Slot(slots[id(leaf)]) if isinstance(leaf, KerasTensor) else leaf

        single = None
        if len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], KerasTensor):
            single = slots[id(node.args[0])]
        template = map_structure(to_slot, (list(node.args), dict(node.kwargs)))
        for tensor in node.outputs:
            slots.setdefault(id(tensor), len(slots))
        steps.append((node.operation, single, template, [slots[id(tensor)] for tensor in node.outputs]))
    return len(slots), steps, [slots[id(tensor)] for tensor in graph.outputs]


class _Slot:
    __slots__ = ("index",)

    def __init__(self, index):
        self.index = index


def _filled(template, values):
    return map_structure(lambda leaf: values[leaf.index] if type(leaf) is _Slot else leaf, template)


def _packed(structure, leaves):
    """`leaves` in the nesting of `structure`."""
    remaining = iter(leaves)
    by_id = {}
    for leaf in flatten(structure):
        by_id.setdefault(id(leaf), []).append(next(remaining))
    return map_structure(
        lambda leaf: by_id[id(leaf)].pop(0) if len(by_id[id(leaf)]) > 1 else by_id[id(leaf)][0],
        structure,
    )


def _single(structure):
    return structure[0] if isinstance(structure, (list, tuple)) and _has_one_item(structure) else structure


def _has_one_item(structure):
    return len(structure) == 1 and not isinstance(structure[0], (int, type(None)))


def _flat_shapes(shapes):
    if isinstance(shapes, dict):
        return [shape for key in sorted(shapes) for shape in _flat_shapes(shapes[key])]
    if shapes and not isinstance(shapes[0], (int, type(None))):
        return [shape for item in shapes for shape in _flat_shapes(item)]
    return [tuple(shapes)]


def _has_functional_constructor(cls):
    """Whether `cls(inputs, outputs, name=...)` makes the model again: true unless a subclass changed it."""
    parameters = list(inspect.signature(cls.__init__).parameters)[1:]
    return parameters[:2] == ["inputs", "outputs"] or {"args", "kwargs"} <= set(parameters)


def _is_of_numbers(inputs):
    """Whether a list is an array written out, and none of arrays."""
    return len(inputs) != 1 and not any(hasattr(item, "shape") and item.shape for item in inputs)
