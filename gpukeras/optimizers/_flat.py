"""Where an optimizer's variables lie: side by side, so that one kernel call updates many.

A variable moves into a flat buffer once, when the first optimizer is built on it, and never again:
a captured step may know its address. A second optimizer finds it there. What lies side by side
becomes a `Group`, with gradients and slots laid out alike; what one step updates of a group becomes
a `Run`.
"""

from gpukeras.autograd.scope import setting
from gpukeras.autograd.tensor import convert_to_array
from gpukeras.backend import devices
from gpukeras.backend.memory import FlatBuffer
from gpukeras.kernels import updates

__all__ = ["ACCUMULATOR", "AVERAGE", "Group", "Plan", "Run", "group_variables", "runs_of"]

AVERAGE, ACCUMULATOR = "average", "gradient_accumulator"  # slots that belong to no rule


class Group:
    """Variables of one dtype that lie side by side in one buffer.

    Attributes:
        variables: In the order of memory.
        indices: The number of each among the optimizer's variables.
        param: The flat array of all of them.
        grad: A buffer of the same layout for their gradients.
        slots: Name -> buffer of the same layout.
    """

    def __init__(self, variables, indices, param):
        self.variables = variables
        self.indices = indices
        self.param = param
        self.grad = FlatBuffer([variable.shape for variable in variables], param.dtype)
        self.slots = {}

    def add_slot(self, name, value):
        """Views of a new slot's buffer, all set to `value` (gaps too, against division by zero)."""
        buffer = self.grad.like()
        if value:
            buffer.array[...] = value
        self.slots[name] = buffer
        return buffer.views


class Run:
    """A stretch of a group that one kernel call updates.

    Attributes:
        param, grad: Flat arrays, the gaps between variables included.
        slots: Name -> flat array.
        variables: Those in it.
        indices: The number of each among the optimizer's variables.
        pieces: ``(start, stop)`` of each variable.
    """

    def __init__(self, group, first, last):
        segments = group.grad.segments[first : last + 1]
        begin, end = segments[0][0], segments[-1][1]
        self.param = group.param[begin:end]
        self.grad = group.grad.array[begin:end]
        self.slots = {name: buffer.array[begin:end] for name, buffer in group.slots.items()}
        self.variables = group.variables[first : last + 1]
        self.indices = group.indices[first : last + 1]
        self.pieces = [(start - begin, stop - begin) for start, stop in segments]
        self.grad_pieces = [self.grad[start:stop] for start, stop in self.pieces]

    def stretches(self, is_wanted):
        """Flat parameters of the longest stretches whose variables are all wanted."""
        found = []
        for variable, (start, stop) in zip(self.variables, self.pieces, strict=True):
            if not is_wanted(variable):
                found.append(None)
            elif found and found[-1] is not None:
                found[-1] = (found[-1][0], stop)
            else:
                found.append((start, stop))
        return [self.param[start:stop] for start, stop in filter(None, found)]

    def clear_gaps(self):
        """Zero the gradient between the variables, where a factor of NaN would stay for ever."""
        for (_, stop), (start, _) in zip(self.pieces[:-1], self.pieces[1:], strict=True):
            if stop < start:
                self.grad[stop:start] = 0


def group_variables(variables):
    """Move variables that lie nowhere yet into flat buffers, and group all by where they lie."""
    module = devices.default_module()
    homeless = {}
    for variable in variables:
        if devices.array_module(variable.array) is not module:
            raise ValueError(
                f"Variable {variable.path!r} lies on the device {variable.device!r}, but the "
                f"default device is {devices.default_device()!r}. Build the model and its "
                "optimizer on the same device."
            )
        if not _is_placed(variable):
            homeless.setdefault(variable.dtype, []).append(variable)
    for members in homeless.values():
        _move_in(members)

    buffers = {}  # id of a buffer -> its number in order of appearance
    order = []
    for index, variable in enumerate(variables):
        buffer, position = variable._place
        order.append((buffers.setdefault(id(buffer), len(buffers)), position, index))
    order.sort()

    groups = []
    for row in _neighbours(order):
        members = [variables[index] for _, _, index in row]
        buffer = members[0]._place[0]
        begin, end = buffer.segments[row[0][1]][0], buffer.segments[row[-1][1]][1]
        groups.append(Group(members, [index for _, _, index in row], buffer.array[begin:end]))
    return groups


def runs_of(groups, indices, is_layerwise):
    """The stretches of `groups` that hold the variables numbered in `indices`."""
    wanted = set(indices)
    runs = []
    for group in groups:
        first = None
        for i, index in enumerate([*group.indices, None]):
            if index in wanted:
                first = i if first is None else first
                if not is_layerwise:
                    continue
                runs.append(Run(group, i, i))
            elif first is not None and not is_layerwise:
                runs.append(Run(group, first, i - 1))
            first = None
    return runs


def _is_placed(variable):
    """Whether a variable's array is the view of a flat buffer that its `_place` names."""
    place = variable._place
    return place is not None and place[0].views[place[1]] is variable.array


def _move_in(variables):
    buffer = FlatBuffer([variable.shape for variable in variables], variables[0].array.dtype)
    for position, (variable, view) in enumerate(zip(variables, buffer.views, strict=True)):
        view[...] = variable.array
        variable.array = view
        variable._place = buffer, position


def _neighbours(order):
    """Rows of (buffer, position, index) cut where the next is not the neighbour of the last."""
    row = []
    for item in order:
        if row and item[:2] != (row[-1][0], row[-1][1] + 1):
            yield row
            row = []
        row.append(item)
    if row:
        yield row


class Plan:
    """How one set of variables is updated: where gradients go, which stretches kernels run over.

    Attributes:
        variables: The model's variables that get an update.
        copies: ``(number of the gradient, view of the gradient buffer)``; no copy where the gradient is the view.
        overwritten: ``(number of the gradient, variable)`` for those whose value the gradient is.
        runs: The stretches.
        is_stepwise: Whether a user's `update_step` does the update, variable by variable.
        constrained: The variables that have a constraint.
    """

    def __init__(self, optimizer, variables):
        numbers = {optimizer._positions[id(variable)]: i for i, variable in enumerate(variables)}
        self.runs = runs_of(optimizer._groups, numbers, optimizer._is_layerwise)
        self.copies = [
            (numbers[index], grad.reshape(variable.shape))
            for run in self.runs
            for index, variable, grad in zip(run.indices, run.variables, run.grad_pieces, strict=True)
        ]
        self.kind = devices.default_module().ndarray
        self.shapes = [variable.shape for variable in variables]
        self.overwritten = [(i, v) for i, v in enumerate(variables) if v.overwrite_with_gradient]
        self.variables = [v for v in variables if not v.overwrite_with_gradient]
        self.is_stepwise = optimizer._is_stepwise()
        self.constrained = [v for v in self.variables if v.constraint is not None]
        for variable in self.constrained:  # before the first update, not in its middle
            _check_constraint(optimizer, variable)
        self._decaying = None
        self._places: dict = {id(variables[number].array): view for number, view in self.copies}
        self._buffers = {id(v._place[0]): v._place[0] for run in self.runs for v in run.variables}.values()
        self._cast_count = 0

    def places(self):
        """Where the gradients may be written at once.

        Returns:
            Dictionary from the id of a variable's array to a view of the gradient buffer, and from the id of its copy
            in another dtype, which stays where it is, to the id of its array.
        """
        count = sum([len(buffer.casts) for buffer in self._buffers])
        if count != self._cast_count:
            self._cast_count = count
            for buffer in self._buffers:
                for cast in buffer.casts.values():
                    for copy, view in zip(cast.views, buffer.views, strict=True):
                        self._places[id(copy)] = id(view)
        return self._places.copy()

    def gather(self, grads):
        """Copy the gradients that do not lie in their places yet, all of a dtype together."""
        rest = {}
        for position, view in self.copies:
            grad = grads[position]
            if grad is not view:
                views, grads_of_dtype = rest.setdefault(grad.dtype, ([], []))
                views.append(view)
                grads_of_dtype.append(grad)
        for views, grads_of_dtype in rest.values():
            updates.copy_all(grads_of_dtype[0], tuple(views), tuple(grads_of_dtype))

    def takes(self, grads):
        """Whether the gradients are arrays of the variables' shapes, one for each, which need no other check."""
        return all([type(g) is self.kind and g.shape == shape for g, shape in zip(grads, self.shapes, strict=True)])

    def decaying(self, optimizer):
        """The stretches of parameters that are subject to weight decay."""
        if self._decaying is None:
            self._decaying = [s for run in self.runs for s in run.stretches(optimizer._use_weight_decay)]
        return self._decaying

    def written(self, optimizer):
        """All arrays that an update writes into, but for the step count and the averages."""
        arrays = []
        in_slots = set()
        for run in self.runs:
            arrays += [run.param, *[slot for name, slot in run.slots.items() if name != AVERAGE]]
        for group in optimizer._groups:
            in_slots.update(id(view) for buffer in group.slots.values() for view in buffer.views)
        left_out = {id(optimizer._iterations), id(optimizer._learning_rate)}
        for variable in optimizer._variables:
            if id(variable) not in left_out and id(variable.array) not in in_slots:
                arrays.append(variable.array)
        return arrays


def _check_constraint(optimizer, variable):
    with setting(tapes=(), autocast=None):
        shape = convert_to_array(variable.constraint(variable)).shape
    if shape != variable.shape:
        raise ValueError(
            f"Optimizer '{optimizer.name}': the constraint of variable {variable.path!r} of shape "
            f"{variable.shape} gave shape {shape}. A constraint must keep the shape."
        )
