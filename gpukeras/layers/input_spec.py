"""What a layer expects of its inputs, and the check."""

from gpukeras.autograd.symbolic import flatten

__all__ = ["InputSpec", "check_inputs"]


class InputSpec:
    """Dtype, rank and sizes that an input must have; what is None is not checked.

    Args:
        dtype: Name of the dtype.
        shape: All sizes, None where any will do.
        ndim, min_ndim, max_ndim: Number of axes, exactly or at least and at most.
        axes: Dictionary from an axis to its size.
        allow_last_axis_squeeze: Whether a last axis of size 1 may be missing or extra.
        name: Key of the input in a dictionary of inputs.
        optional: Whether None is accepted.

    Example:
        >>> InputSpec(min_ndim=2, axes={-1: 784})
        InputSpec(min_ndim=2, axes={-1: 784})
    """

    def __init__(
        self,
        dtype=None,
        shape=None,
        ndim=None,
        max_ndim=None,
        min_ndim=None,
        axes=None,
        allow_last_axis_squeeze=False,
        name=None,
        optional=False,
    ):
        self.dtype = dtype
        self.shape = None if shape is None else tuple(shape)
        self.ndim = len(self.shape) if self.shape is not None else ndim
        self.max_ndim = max_ndim
        self.min_ndim = min_ndim
        self.axes = {int(axis): size for axis, size in (axes or {}).items()}
        self.allow_last_axis_squeeze = allow_last_axis_squeeze
        self.name = name
        self.optional = optional

    def __repr__(self):
        shown = {name: value for name, value in vars(self).items() if value not in (None, {}, False)}
        return f"InputSpec({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def problem_with(self, x):
        """What is wrong with `x`, as the words after 'expected', or None."""
        if x is None:
            return None if self.optional else "an array"
        shape = tuple(x.shape)
        if self.allow_last_axis_squeeze and self.ndim is not None and shape:
            if len(shape) == self.ndim + 1 and shape[-1] == 1:
                shape = shape[:-1]
            elif len(shape) == self.ndim - 1 and self.shape is not None and self.shape[-1] == 1:
                shape = (*shape, 1)
        if self.ndim is not None and len(shape) != self.ndim:
            return f"{self.ndim} axes"
        if self.min_ndim is not None and len(shape) < self.min_ndim:
            return f"at least {self.min_ndim} axes"
        if self.max_ndim is not None and len(shape) > self.max_ndim:
            return f"at most {self.max_ndim} axes"
        if self.dtype is not None and str(x.dtype) != str(self.dtype):
            return f"dtype {self.dtype}, not {x.dtype}"
        for axis, size in self.axes.items():
            if size is not None and shape[axis] not in (size, None):
                where = "the last axis" if axis == -1 else f"axis {axis}"
                return f"{size} on {where}"
        if self.shape is not None:
            for wanted, got in zip(self.shape, shape, strict=True):
                if wanted is not None and got is not None and wanted != got:
                    return f"shape {self.shape}"
        return None


def check_inputs(specs, inputs, layer):
    """Raise ValueError where `inputs` (an array, or a list or dictionary of them) do not meet `specs`."""
    if isinstance(specs, dict) and isinstance(inputs, dict):
        missing = [name for name in specs if name not in inputs]
        if missing:
            raise ValueError(f"{_who(layer)} needs inputs named {list(specs)}, but got {list(inputs)}. Add {missing}.")
        pairs = [(specs[name], inputs[name]) for name in specs]
    else:
        specs, leaves = flatten(specs), flatten(inputs)
        if len(specs) != len(leaves):
            raise ValueError(
                f"{_who(layer)} expects {len(specs)} input(s), but received {len(leaves)} "
                f"of shapes {[getattr(leaf, 'shape', None) for leaf in leaves]}."
            )
        pairs = zip(specs, leaves, strict=True)
    for spec, x in pairs:
        problem = spec.problem_with(x) if spec is not None else None
        if spec is not None and problem is not None:
            name = f" for input {spec.name!r}" if spec.name else ""
            got = "nothing" if x is None else f"shape {tuple(x.shape)}"
            raise ValueError(f"{_who(layer)} expected {problem}{name}, but got {got}. {_advice(spec, x, layer)}")


def _who(layer):
    return f"{type(layer).__name__} {layer.name!r}"


def _advice(spec, x, layer):
    rank = None if x is None else len(x.shape)
    if x is not None and layer.built and -1 in spec.axes and rank:
        return (
            f"It was built for {spec.axes[-1]} features; reshape the input (layers.Flatten(), layers.Reshape()) "
            f"or build a new layer."
        )
    wanted = spec.ndim or spec.min_ndim
    if wanted and rank is not None and rank < wanted:
        return "Add the missing axes (a batch axis comes first), for instance with np.expand_dims."
    return "Reshape the input before this layer."
