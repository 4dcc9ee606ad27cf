"""Ops of functional graphs in files: Keras writes one class per op, here an op is a function.

    Mean(axis=1)(x)   in the file        mean(x, axis=1)   here

The settings of the call (axis=1) are the class's config; its arrays (x) are the node's arguments.
"""

import inspect

from gpukeras import ops, registry
from gpukeras.autograd import symbolic
from gpukeras.autograd.scope import current
from gpukeras.autograd.symbolic import Node, Operation
from gpukeras.autograd.tensor import Variable

__all__ = ["call_arguments", "deserialize", "serialize"]

# Keras's private module of each op that crosses in both directions.
_MODULES = {
    "core": "cast saturate_cast scatter_update slice slice_update stop_gradient unstack",
    "linalg": "cholesky det inv norm solve",
    "math": "erf erfc erfinv logsumexp rsqrt segment_max segment_min segment_prod segment_sum top_k",
    "nn": (
        "average_pool celu conv conv_transpose depthwise_conv elu gelu glu "
        "hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu log_sigmoid log_softmax max_pool "
        "normalize one_hot relu relu6 selu separable_conv sigmoid silu soft_shrink softmax "
        "softplus softsign sparse_plus sparse_sigmoid sparsemax squareplus "
        "tanh_shrink threshold"
    ),
    "numpy": (
        "abs absolute add all amax amin any append arccos arccosh arcsin arcsinh arctan arctan2 "
        "arctanh argmax argmin argsort average broadcast_to ceil clip concatenate copy cos cosh "
        "cross cumprod cumsum diag diagonal diff divide divide_no_nan dot equal exp "
        "expand_dims expm1 flip floor floor_divide full_like get_item greater greater_equal hstack "
        "inner isclose isfinite isinf isnan less less_equal log log10 log1p log2 logaddexp "
        "logical_and logical_not logical_or logical_xor matmul max maximum mean median min minimum "
        "mod moveaxis multiply nan_to_num negative not_equal ones_like outer pad power prod ravel "
        "reciprocal repeat reshape roll round sign sin sinh sort split sqrt square squeeze stack "
        "std subtract sum swapaxes take take_along_axis tan tanh tensordot tile trace transpose "
        "tril triu true_divide trunc var vdot vstack where zeros_like"
    ),
}
_MODULE_OF = {name: f"keras.src.ops.{module}" for module, names in _MODULES.items() for name in names.split()}
# Where the arguments of Keras's call are not those before the slash here.
_CALL_ARGUMENTS = {"clip": ("x",), "get_item": ("x", "key"), "pad": ("x", "constant_values")}
# Ops behind a public function of another signature: the function's name, and names of their
# settings.
_PUBLIC_NAMES = {"_split_unknown": "split"}
_PUBLIC_SETTINGS = {"places": "indices_or_sections", "count": "indices_or_sections"}


class _Recalled(Operation):
    """An op of a graph from a file: the settings are part of it, the arrays come with the call."""

    def __init__(self, function, name, settings):
        super().__init__(function, name)
        self.settings = settings

    def __call__(self, *args, **kwargs):
        if current.symbolic or not symbolic.any_symbolic(args, kwargs):
            return self.function(*args, **kwargs)
        names = _CALL_ARGUMENTS.get(_name_of(self), ())
        kwargs = {**self.settings, **dict(zip(names[1:], args[1:], strict=False)), **kwargs}
        if names:
            args = args[:1]
        if isinstance(kwargs.get("key"), list):
            kwargs["key"] = tuple(kwargs["key"])  # JSON has no tuples
        outputs = symbolic.infer(self.function, args, kwargs)
        Node(self, args, kwargs, outputs)
        return outputs


def serialize(operation):
    """The config of an op of a functional graph; its settings are not serialized yet.

    Raises:
        ValueError: for an op that Keras has no class for.
    """
    name = _name_of(operation)
    if name not in _MODULE_OF:
        raise ValueError(
            f"The op {operation.name!r} ({name}) of the functional graph has no form in files. "
            f"Call it within a layer: a class whose call() uses the op, decorated with "
            f"@keras.saving.register_keras_serializable()."
        )
    settings = _parts(operation._inbound_nodes[0])[1] if operation._inbound_nodes else {}
    class_name = "".join(part.capitalize() for part in name.split("_"))
    return {
        "module": _MODULE_OF[name],
        "class_name": class_name,
        "config": {"name": operation.name, **settings},
        "registered_name": class_name,
    }


def call_arguments(node):
    """``(args, kwargs)`` that Keras calls the node's operation with: an op without its settings."""
    return _parts(node)[0] if isinstance(node.operation, Operation) else (node.args, node.kwargs)


def deserialize(class_name, config):
    """The op that Keras's `class_name` means, ready to be called on KerasTensors.

    Raises:
        TypeError: for a class that is no op here, and for settings that the op does not have.
    """
    name = registry.snake_case(class_name)
    function = _function(name) if name in _MODULE_OF else None
    if function is None:
        raise TypeError(
            f"The op {class_name!r} of the saved graph does not cross between Keras and gpukeras. "
            f"{registry.suggest(name, _MODULE_OF)} Where the model is made, call it within a layer "
            f"of your own."
        )
    settings = dict(config)
    op_name = settings.pop("name", None)
    unknown = settings.keys() - inspect.signature(function).parameters.keys()
    for setting in unknown:
        if settings.pop(setting) is not None:
            raise TypeError(f"The saved op {class_name!r} has the setting {setting!r}, which ops.{name} does not have.")
    return _Recalled(function, op_name, settings)


def _function(name):
    function = getattr(ops, name, None) or symbolic.operations.get(name) or symbolic.operations.get(f"_{name}")
    return function if callable(function) else None


def _name_of(operation) -> str:
    name: str = operation.function.__name__
    return _PUBLIC_NAMES.get(name, name.lstrip("_"))


def _parts(node):
    """``(args, kwargs)`` of the call and the settings, as Keras divides them."""
    operation = node.operation
    bound = _signature(operation.function).bind(*node.args, **node.kwargs)
    if isinstance(operation, _Recalled):
        settings = operation.settings
        names = bound.arguments.keys() - settings.keys()
    else:
        bound.apply_defaults()
        names = _CALL_ARGUMENTS.get(_name_of(operation)) or _names_of_arrays(operation.function)
        settings = {_PUBLIC_SETTINGS.get(key, key): value for key, value in bound.arguments.items() if key not in names}
    for value in symbolic.flatten(list(settings.values())):
        if isinstance(value, (symbolic.KerasTensor, Variable)):
            raise ValueError(
                f"The op {operation.name!r} ({_name_of(operation)}) of the functional graph was "
                f"given {value!r} as a setting, which has no form in files. Call it within a layer "
                f"of your own."
            )
    args, kwargs = [], {}
    for place, (key, value) in enumerate(bound.arguments.items()):
        if key in names and place == len(args):
            args.append(value)
        elif key in names:
            kwargs[key] = value
    return (tuple(args), kwargs), settings


def _signature(function):
    """How the public form of an op is called: every argument by place or by name, a list for ``*xs``."""
    signature = inspect.signature(function)
    if not hasattr(function, "function"):
        return signature
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return signature.replace(parameters=[p.replace(kind=kind) for p in signature.parameters.values()])


def _names_of_arrays(function):
    parameters = inspect.signature(function).parameters.values()
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL
    return {parameter.name for parameter in parameters if parameter.kind in kinds}
