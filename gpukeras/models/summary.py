"""The table that `Model.summary` prints."""

import math
import re
import shutil
from typing import Any

from gpukeras.autograd.symbolic import flatten, map_structure

__all__ = ["print_summary"]

_NUMBER, _NONE, _SYMBOL, _NO = "color(34)", "color(45)", "color(33)", "color(9)"


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
    import rich.console
    import rich.markup
    import rich.table

    operations = _operations(model)
    is_chain = _is_chain(model)
    header = ["Layer (type)", "Output Shape", "Param #"]
    alignment: list[Any] = ["left", "left", "right"]
    if is_chain:
        default_length, positions = 88, list(positions or [0.45, 0.80, 1.0])
    else:
        default_length, positions = 108, list(positions or [0.3, 0.56, 0.74, 1.0])
        header.append("Connected to")
        alignment.append("left")
    if show_trainable:
        default_length += 12
        positions = [p * 0.9 for p in positions] + [1.0]
        header.append("Trainable")
        alignment.append("center")
    line_length = line_length or min(default_length, shutil.get_terminal_size().columns - 4)
    table = rich.table.Table(
        *(
            rich.table.Column(name, justify=justify, width=width)
            for name, justify, width in zip(header, alignment, _widths(positions, line_length), strict=True)
        ),
        width=line_length,
        show_lines=True,
    )
    first, last = _range(operations, layer_range)

    def add_rows(operation, level=0):
        prefix = "   " * level + "└ " if level else ""
        row = [
            f"{rich.markup.escape(prefix + operation.name)} "
            f"([{_SYMBOL}]{rich.markup.escape(_class_name(operation))}[/])",
            _output_shape(operation),
            _parameters(operation),
        ]
        if not is_chain:
            row.append(_connections(operation, set(model._graph.nodes)))
        if show_trainable:
            row.append(_trainable(operation))
        table.add_row(*row)
        if expand_nested:
            for layer in getattr(operation, "layers", ()):
                add_rows(layer, level + 1)

    for operation in operations[first:last]:
        add_rows(operation)

    if print_fn is None:
        console = rich.console.Console(highlight=False)
    else:
        console = rich.console.Console(highlight=False, force_terminal=False, color_system=None)
        console.begin_capture()
    console.print(f'[bold]Model: "{rich.markup.escape(model.name)}"[/]')
    console.print(table)
    for title, variables in _totals(model):
        count = sum(math.prod(v.shape) for v in variables)
        size = _readable(sum(math.prod(v.shape) * v.array.dtype.itemsize for v in variables))
        console.print(f"[bold] {title}: [/][{_NUMBER}]{count:,}[/] ({size})")
    if print_fn is not None:
        print_fn(console.end_capture())


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


def _shape_text(shape):
    return f"({', '.join(f'[{_NONE if size is None else _NUMBER}]{size}[/]' for size in shape)})"


def _output_shape(operation):
    nodes = operation._inbound_nodes
    if nodes:
        shapes = map_structure(lambda tensor: _shape_text(tensor.shape), nodes[-1].structured_outputs)
    elif getattr(operation, "_build_shapes", None):
        try:
            found = operation.output_shape if hasattr(operation, "output_shape") else None
            shapes = _shape_text(found or operation.compute_output_shape(**operation._build_shapes))
        except (NotImplementedError, TypeError, ValueError, AttributeError):
            return "?"
    else:
        return "?"
    leaves = flatten(shapes)
    return leaves[0] if len(leaves) == 1 else str(shapes).replace("'", "")


def _parameters(operation):
    if not hasattr(operation, "built"):
        return f"[{_NUMBER}]0[/]"
    if not operation.built:
        return f"[{_NUMBER}]0[/] (unbuilt)"
    return f"[{_NUMBER}]{operation.count_params():,}[/]"


def _connections(operation, nodes):
    found = [
        f"{tensor._keras_history[0].name}\\[[{_NUMBER}]{tensor._keras_history[1]}[/]]"
        f"\\[[{_NUMBER}]{tensor._keras_history[2]}[/]]"
        for node in operation._inbound_nodes
        if node in nodes
        for tensor in node.inputs
    ]
    return ", ".join(found) or "-"


def _trainable(operation):
    if not getattr(operation, "weights", None):
        return "[bold]-[/]"
    return f"[bold][{_NUMBER}]Y[/][/]" if operation.trainable else f"[bold][{_NO}]N[/][/]"


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
