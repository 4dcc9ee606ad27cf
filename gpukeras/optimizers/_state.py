"""What an optimizer owns: its variables, and how they are made, named, saved and set."""

import warnings
from typing import Any

import numpy as np

from gpukeras import registry
from gpukeras.autograd.tensor import Variable, convert_to_array
from gpukeras.backend import devices, dtypes
from gpukeras.configurable import Configurable
from gpukeras.optimizers._settings import Watched, count_setting

__all__ = ["State"]

_NUMBERS = {"zeros": 0.0, "ones": 1.0}  # initializers that fill a slot with one number


class State(Watched, Configurable):
    """The half of `Optimizer` that owns variables.

    A Variable, or a list of them, that is set as an attribute belongs to the optimizer.
    """

    name: str
    built = False
    _groups: list = []
    _variables: list  # all of the optimizer's own, in Keras's order

    def __setattr__(self, name, value):
        if "_variables" not in self.__dict__:
            raise RuntimeError(
                f"In optimizer '{type(self).__name__}', you forgot to call `super().__init__()` "
                "as the first statement in the `__init__()` method. Go add it!"
            )
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, Variable):
                self._track(item)
        super().__setattr__(name, value)

    def _set_private(self, **attributes):
        """Attributes that may hold model variables, which are not the optimizer's own."""
        count_setting()
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def _track(self, variable):
        if not any(variable is known for known in self._variables):
            self._variables.append(variable)

    def _make_variable(self, initializer, **settings):
        variable = Variable(initializer, trainable=False, **settings)
        variable.path = f"{self.name}/{variable.name}"
        self._track(variable)
        return variable

    @property
    def variables(self):
        """Step count, learning rate and slots, in the order in which files hold them."""
        return list(self._variables)

    def add_variable(self, shape, initializer: Any = "zeros", dtype=None, aggregation="none", layout=None, name=None):
        """A new variable of the optimizer's own, saved with it."""
        if layout is not None:
            raise NotImplementedError("add_variable: layout is not supported; there is one device. Leave it out.")
        if not callable(initializer):
            initializer = _initializer_of(initializer)
        return self._make_variable(initializer, shape=tuple(shape), dtype=dtype, aggregation=aggregation, name=name)

    def add_variable_from_reference(self, reference_variable, name=None, initializer="zeros"):
        """A new variable of the shape and dtype of a model's variable, named after it."""
        return self.add_variable(
            reference_variable.shape,
            initializer,
            reference_variable.dtype,
            name=f"{reference_variable.path.replace('/', '_')}_{name or 'var'}",
        )

    def add_optimizer_variables(self, trainable_variables, name, initializer: Any = "zeros"):
        """A slot for each of a model's variables; for a list of names a tuple of such lists.

        Args:
            trainable_variables: The model's variables; those overwritten by gradients get None.
            name: The slot's name, or a list of names.
            initializer: Name, function, number, or a list of them.
        """
        if isinstance(name, str):
            return self._add_slots(trainable_variables, [name], [initializer])[0]
        names = list(name)
        initializers = initializer if isinstance(initializer, (list, tuple)) else [initializer] * len(names)
        if len(initializers) != len(names):
            raise ValueError(
                f"The number of provided names must match the number of provided initializers. "
                f"Received name={name!r}, initializer={initializer!r}"
            )
        return tuple(self._add_slots(trainable_variables, names, initializers))

    def _add_slots(self, variables, names, initializers, keeps_overwritten=False):
        """Lists of slots; variables that lie in a group get theirs in a buffer laid out alike."""
        views = {}
        known = {id(variable) for variable in variables}
        for name, initializer in zip(names, initializers, strict=True):
            value = _NUMBERS.get(initializer, initializer) if isinstance(initializer, str) else initializer
            for group in self._groups:
                if isinstance(value, (int, float)) and known.issuperset(map(id, group.variables)):
                    added = group.add_slot(name, value)
                    views.update(((id(v), name), view) for v, view in zip(group.variables, added, strict=True))
        slots = [[] for _ in names]
        for variable in variables:
            for name, initializer, made in zip(names, initializers, slots, strict=True):
                if variable.overwrite_with_gradient and not keeps_overwritten:
                    made.append(None)
                    continue
                slot = self.add_variable_from_reference(variable, name, initializer)
                slot.array = views.get((id(variable), name), slot.array)
                made.append(slot)
        return slots

    def assign(self, variable, value):
        """Set a variable's values, for `update_step`."""
        variable.assign(value)

    def assign_add(self, variable, value):
        """Add to a variable's values, for `update_step`."""
        variable.assign_add(value)

    def assign_sub(self, variable, value):
        """Subtract from a variable's values, for `update_step`."""
        variable.assign_sub(value)

    def set_weights(self, weights):
        """Set all variables, in the order of `variables`."""
        if not self.built:
            raise ValueError(
                f"You are calling `set_weights()` on optimizer '{self.name}', which has not yet "
                "been built. Please call `optimizer.build(trainable_variables)` to create its "
                "weights first."
            )
        self._assign_all(list(weights))

    def save_own_variables(self, store):
        """Write the variables into a mapping, by number."""
        for i, variable in enumerate(self.variables):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store):
        """Read the variables from a mapping that `save_own_variables` wrote."""
        variables = self.variables
        if len(store.keys()) != len(variables):
            message = (
                f"Skipping variable loading for optimizer '{self.name}', because it has "
                f"{len(variables)} variables whereas the saved optimizer has {len(store.keys())} "
                "variables. "
            )
            warnings.warn(message, stacklevel=2)
            return
        self._assign_all([np.asarray(store[str(i)]) for i in range(len(variables))])

    def _assign_all(self, values):
        variables = self.variables
        if len(values) != len(variables):
            raise ValueError(f"Optimizer '{self.name}' has {len(variables)} variables, but got {len(values)} weights.")
        arrays = [convert_to_array(value, v.array.dtype) for value, v in zip(values, variables, strict=True)]
        for variable, array in zip(variables, arrays, strict=True):
            if array.shape != variable.shape:
                raise ValueError(
                    f"Optimizer variable {variable.path!r} has shape {variable.shape}, which is "
                    f"not compatible with the provided weight's shape {array.shape}."
                )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)


def _initializer_of(identifier):
    """A function of shape and dtype from a number or an initializer's name or config."""
    value = _NUMBERS.get(identifier, identifier) if isinstance(identifier, str) else identifier
    if isinstance(value, (int, float)):
        return lambda shape, dtype: devices.default_module().full(shape, value, dtypes.as_dtype(dtype))
    return registry.resolve("initializer", identifier)
