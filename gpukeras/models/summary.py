"""The table that `Model.summary` prints."""

import math
import re
import shutil

from gpukeras.autograd.symbolic import flatten
from gpukeras.models._table import BOLD, draw, screen_width, styled, wrap, write

__all__ = ["print_summary"]

# Keras's colours, as parameters of SGR sequences.
_NUMBER, _NONE, _SYMBOL, _YES, _NO = "38;5;34", "38;5;45", "38;5;33", "1;38;5;34", "1;91"


def print_summary(
    model,
    line_length=None,
    positions=None,
    print_fn=None,
    expand_nested=False,
    show_trainable=False,
    layer_range=None,
):
    """Print Keras's table of layers, shapes and parameters, with totals; the arguments are Model.summary's."""
    operations = _operations(model)
    is_chain = _is_chain(model)
    header = ["Layer (type)", "Output Shape", "Param #"]
    alignments = ["left", "left", "right"]
    if is_chain:
        default_length, positions = 88, list(positions or [0.45, 0.80, 1.0])
    else:
        default_length, positions = 108, list(positions or [0.3, 0.56, 0.74, 1.0])
        header.append("Connected to")
        alignments.append("left")
    if show_trainable:
        default_length += 12
        positions = [p * 0.9 for p in positions] + [1.0]
        header.append("Trainable")
        alignments.append("center")
    line_length = line_length or min(default_length, shutil.get_terminal_size().columns - 4)
    widths = _widths(positions, line_length)
    first, last = _range(operations, layer_range)

    def rows(operation, level=0):
        prefix = "   " * level + "└ " if level else ""
        name = styled(f"{prefix}{operation.name} (", (_class_name(operation), _SYMBOL), ")")
        row = [name, _output_shape(operation), _parameters(operation)]
        if not is_chain:
            row.append(_connections(operation, set(model._graph.nodes)))
        if show_trainable:
            row.append(_trainable(operation))
        yield row
        if expand_nested:
            for layer in getattr(operation, "layers", ()):
                yield from rows(layer, level + 1)

    body = [row for operation in operations[first:last] for row in rows(operation)]
    lines = wrap(styled((f'Model: "{model.name}"', BOLD)), screen_width(), folds=True)
    lines += draw(header, body, alignments, widths, line_length)
    for title, variables in _totals(model):
        count = sum(math.prod(v.shape) for v in variables)
        size = _readable(sum(math.prod(v.shape) * v.array.dtype.itemsize for v in variables))
        total = styled((f" {title}: ", BOLD), (f"{count:,}", _NUMBER), f" ({size})")
        lines += wrap(total, screen_width(), folds=True)
    write(lines, print_fn)


def _operations(model):
    return model.operations if _is_functional(model) else model.layers


def _is_functional(model):
    return hasattr(model, "_graph")


def _is_chain(model):
    """Whether every layer reads one other layer and is called once: then no column of connections is needed."""
    if not _is_functional(model):
        return True
    nodes = model._graph.nodes
    depths = [sum(id(t) in {id(i) for i in node.inputs} for n in nodes for t in n.outputs) for node in nodes]
    is_single = all(len(node.inputs) <= 1 for node in nodes) and max(depths, default=0) <= 1
    operations = [node.operation for node in nodes]
    readers = [id(tensor) for node in nodes for tensor in node.inputs]
    inputs = sum(node.is_input for node in nodes)
    return is_single and inputs == 1 and len(readers) == len(set(readers)) and len(operations) == len(set(operations))


def _widths(positions, line_length):
    widths, current = [], 0
    for position in positions:
        width = int(position * line_length) - current
        if width < 4:
            raise ValueError(
                f"A line of {line_length} characters is too short for the summary's columns. Pass line_length=88."
            )
        widths.append(width)
        current += width
    return widths


def _class_name(operation):
    function = getattr(operation, "function", None)
    if function is not None and type(operation).__name__ == "Operation":
        return "".join(part.capitalize() for part in function.__name__.split("_"))
    return type(operation).__name__


def _output_shape(operation):
    nodes = operation._inbound_nodes
    if nodes:
        shapes = [_shape_text(tensor.shape) for tensor in nodes[-1].outputs]
    elif getattr(operation, "_build_shapes", None):
        try:
            found = operation.output_shape if hasattr(operation, "output_shape") else None
            shapes = _shape_text(found or operation.compute_output_shape(**operation._build_shapes))
        except (NotImplementedError, TypeError, ValueError, AttributeError):
            return styled("?")
    else:
        return styled("?")
    leaves = flatten(shapes)
    text = leaves[0] if len(leaves) == 1 else str(shapes).replace("'", "")
    # Every second part is a size.
    parts = re.split(r"(?<=[( ])(None|\d+)(?=[,)])", text)
    return styled(*((part, (_NONE if part == "None" else _NUMBER) if i % 2 else "") for i, part in enumerate(parts)))


def _shape_text(shape):
    return f"({', '.join(map(str, shape))})"


def _parameters(operation):
    if not hasattr(operation, "built"):
        return styled(("0", _NUMBER))
    if not operation.built:
        return styled(("0", _NUMBER), " (unbuilt)")
    return styled((f"{operation.count_params():,}", _NUMBER))


def _connections(operation, nodes):
    text = []
    for tensor in (tensor for node in operation._inbound_nodes if node in nodes for tensor in node.inputs):
        source, node_index, tensor_index = tensor._keras_history
        indices = "[", (str(node_index), _NUMBER), "][", (str(tensor_index), _NUMBER), "]"
        text += styled(", " if text else "", source.name, *indices)
    return text or styled("-")


def _trainable(operation):
    if not getattr(operation, "weights", None):
        return styled(("-", BOLD))
    return styled(("Y", _YES) if operation.trainable else ("N", _NO))


def _totals(model):
    trainable, fixed = model.trainable_weights, model.non_trainable_weights
    optimizer = model.optimizer if model.compiled else None
    slots = optimizer.variables if optimizer is not None and optimizer.built else []
    yield "Total params", [*trainable, *fixed, *slots]
    yield "Trainable params", trainable
    yield "Non-trainable params", fixed
    if slots:
        yield "Optimizer params", slots


def _readable(size):
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if size < 1024:
            return f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} PB"


def _range(operations, layer_range):
    if layer_range is None:
        return 0, len(operations)
    if len(layer_range) != 2 or not all(isinstance(name, str) for name in layer_range):
        raise ValueError(f"layer_range must be two layer names, but got {layer_range!r}.")
    found = [[i for i, op in enumerate(operations) if re.match(name, op.name)] for name in layer_range]
    if not all(found):
        raise ValueError(
            f"layer_range={layer_range!r} does not fit the layers {[operation.name for operation in operations]}."
        )
    first, last = min(found[0]), max(found[1])
    return (first, last + 1) if first <= last else (min(found[1]), max(found[0]) + 1)
