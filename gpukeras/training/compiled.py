"""What `compile` was given, joined to the model's outputs: losses and metrics per output."""

from typing import Any

from gpukeras import losses, metrics, ops
from gpukeras.autograd.symbolic import flatten
from gpukeras.autograd.tensor import Tensor
from gpukeras.losses.base import LossFunctionWrapper

__all__ = ["CompiledLosses", "CompiledMetrics", "output_names_of", "split_outputs"]


def output_names_of(y_pred, model_names):
    """One name per output: dictionary keys, the model's output names, or None."""
    if isinstance(y_pred, dict):
        if model_names and set(model_names) == set(y_pred):
            return list(model_names)
        return sorted(y_pred)
    if isinstance(y_pred, (list, tuple)):
        if model_names and len(model_names) == len(y_pred):
            return list(model_names)
        return [None] * len(y_pred)
    return [model_names[0] if model_names and len(model_names) == 1 else None]


def split_outputs(values, names, what, has_loss=None):
    """`values` (one, a list or a dictionary) as a list with one entry per output.

    `has_loss` tells which outputs take part; a list may leave out the others.
    """
    if isinstance(values, dict):
        unknown = [key for key in values if key not in names]
        if unknown and len(names) > 1:
            raise ValueError(f"{what} has the keys {sorted(values)}, but the model's outputs are {names}.")
        if len(names) == 1:
            return [values[names[0]] if names[0] in values else next(iter(values.values()))]
        return [values.get(name) for name in names]
    if isinstance(values, (list, tuple)):
        if len(values) == len(names):
            return list(values)
        if has_loss is not None and len(values) == sum(has_loss):
            remaining = iter(values)
            return [next(remaining) if has else None for has in has_loss]
        raise ValueError(
            f"{what} has {len(values)} entries, but the model has {len(names)} outputs"
            f"{f' ({names})' if any(names) else ''}. Pass one entry per output, or a dictionary by name."
        )
    if len(names) != 1:
        raise ValueError(
            f"The model has {len(names)} outputs{f' ({names})' if any(names) else ''}, but {what} is one array. "
            f"Pass a list with one entry per output, or a dictionary by name."
        )
    return [values]


class _OutputLoss:
    """The loss of one output with its weight and, where there are several, a mean of its own."""

    def __init__(self, index, loss, weight, name):
        self.index = index
        self.loss = loss
        self.weight = weight
        self.name = name
        self.tracker: Any = None


class CompiledLosses:
    """The loss argument of compile(), applied to all outputs.

    Args:
        loss: Name, function, Loss, or a list or dictionary of them by output.
        loss_weights: Number, or list or dictionary of numbers.
        output_names: The model's output names, where it has any.
    """

    def __init__(self, loss, loss_weights=None, output_names=None):
        if loss_weights is not None and not isinstance(loss_weights, (list, tuple, dict, int, float)):
            raise ValueError(
                f"loss_weights must be a number, a list or a dictionary, but got {loss_weights!r} "
                f"({type(loss_weights).__name__})."
            )
        for identifier in flatten(loss):  # unknown names fail in compile(), not in the first step
            if identifier is not None and not _is_shape_dependent(identifier):
                losses.get(identifier)
        self.user_loss = loss
        self.user_weights = loss_weights
        self.output_names = output_names
        self.entries: Any = None  # a list of _OutputLoss, once the outputs are known
        self.names: Any = None

    @property
    def built(self):
        """Whether the outputs are known."""
        return self.entries is not None

    @property
    def metrics(self):
        """A mean per output's loss, where there are several."""
        return [entry.tracker for entry in self.entries or () if entry.tracker is not None]

    @property
    def has_loss(self):
        """For each output, whether it has a loss."""
        used = {entry.index for entry in self.entries}
        return [i in used for i in range(len(self.names))]

    def build(self, y_true, y_pred):
        """Find the loss of each output; shapes decide what "crossentropy" means."""
        self.names = output_names_of(y_pred, self.output_names)
        predictions = split_outputs(y_pred, self.names, "the model's output")
        per_output = self._per_output(self.user_loss, "loss")
        weights = self._weights(per_output)
        has_loss = [bool(entries) for entries in per_output]
        targets = split_outputs(y_true, self.names, "y", has_loss)
        entries = []
        for i, identifiers in enumerate(per_output):
            for identifier, weight in zip(identifiers, weights[i], strict=True):
                if targets[i] is None:
                    raise ValueError(f"The output {self.names[i] or i!r} has a loss, but y has no targets for it.")
                loss = _resolve_loss(identifier, targets[i], predictions[i])
                entries.append(_OutputLoss(i, loss, weight, self.names[i] or loss.name))
        if len(entries) > 1:
            for entry in entries:
                entry.tracker = metrics.Mean(name=f"{entry.name}_loss")
        self.entries = entries

    def _per_output(self, values, what):
        """For each output the list of its losses."""
        count = len(self.names)
        if isinstance(values, dict):
            unknown = [key for key in values if key not in self.names]
            if unknown:
                raise ValueError(
                    f"{what} has the keys {sorted(values)}, but the model's outputs are "
                    f"{[name for name in self.names if name] or count}."
                )
            values = [values.get(name) for name in self.names]
        elif isinstance(values, (list, tuple)):
            if count == 1:
                return [[value for value in flatten(values) if value is not None]]
            if len(values) != count:
                raise ValueError(f"{what} has {len(values)} entries, but the model has {count} outputs.")
        else:
            values = [values] * count
        return [[v for v in flatten(value) if v is not None] for value in values]

    def _weights(self, per_output):
        given = self.user_weights
        if given is None:
            return [[None] * len(entries) for entries in per_output]
        if isinstance(given, dict):
            unknown = [key for key in given if key not in self.names]
            if unknown:
                raise ValueError(f"loss_weights has the keys {sorted(given)}, but the outputs are {self.names}.")
            given = [given.get(name) for name in self.names]
        elif isinstance(given, (int, float)):
            given = [given] * len(per_output)
        flat = flatten(given)
        slots = [i for i, entries in enumerate(per_output) for _ in entries]
        if len(flat) == len(per_output):
            return [[flat[i]] * len(entries) for i, entries in enumerate(per_output)]
        if len(flat) == len(slots):
            weights = [[] for _ in per_output]
            for i, weight in zip(slots, flat, strict=True):
                weights[i].append(weight)
            return weights
        raise ValueError(f"loss_weights has {len(flat)} entries for {len(slots)} losses. Pass one per loss.")

    def __call__(self, y_true, y_pred, sample_weight=None):
        """The weighted sum of all losses; updates the means of the single ones."""
        if not self.built:
            self.build(y_true, y_pred)
        entries = self.entries
        if len(entries) == 1 and isinstance(y_pred, Tensor) and isinstance(y_true, Tensor):
            entry = entries[0]
            value = entry.loss(
                y_true,
                y_pred,
                sample_weight if not isinstance(sample_weight, (list, tuple, dict)) else flatten(sample_weight)[0],
            )
            return value if entry.weight is None else value * entry.weight
        predictions = split_outputs(y_pred, self.names, "the model's output")
        targets = split_outputs(y_true, self.names, "y", self.has_loss)
        weights = split_weights(sample_weight, self.names, self.has_loss)
        total = None
        for entry in entries:
            value = entry.loss(targets[entry.index], predictions[entry.index], weights[entry.index])
            if entry.tracker is not None:
                entry.tracker.add_mean(value, predictions[entry.index].shape[0])
            if entry.weight is not None:
                value = value * entry.weight
            total = value if total is None else total + value
        return total


def split_weights(sample_weight, names, has_loss=None):
    """Sample weights as a list with one entry per output; one array serves all."""
    if sample_weight is None or not isinstance(sample_weight, (list, tuple, dict)):
        return [sample_weight] * len(names)
    return split_outputs(sample_weight, names, "sample_weight", has_loss)


class CompiledMetrics:
    """The metrics and weighted_metrics arguments of compile(), applied to all outputs."""

    def __init__(self, given, weighted, output_names=None):
        for what, values in (("metrics", given), ("weighted_metrics", weighted)):
            if values is not None and not isinstance(values, (list, tuple, dict)):
                raise ValueError(
                    f"{what} must be a list or a dictionary, but got {values!r} ({type(values).__name__}). "
                    f"Write {what}=[{values!r}]."
                )
            for identifier in flatten(values) if values else ():
                if identifier is not None and not _is_accuracy(identifier):
                    metrics.get(identifier)
        self.given = given
        self.weighted = weighted
        self.output_names = output_names
        self.entries: Any = None  # (output index, metric, takes weights, name in the logs)
        self.names: Any = None
        self.name = "compile_metrics"

    @property
    def built(self):
        """Whether the outputs are known."""
        return self.entries is not None

    @property
    def metrics(self):
        """All metrics, in order."""
        return [metric for _, metric, _, _ in self.entries or ()]

    @property
    def variables(self):
        """State of all metrics."""
        return [v for metric in self.metrics for v in metric.variables]

    def build(self, y_true, y_pred):
        """Make the metrics of each output; shapes decide what "accuracy" means."""
        self.names = output_names_of(y_pred, self.output_names)
        predictions = split_outputs(y_pred, self.names, "the model's output")
        targets = split_outputs(y_true, self.names, "y") if self._takes_all(y_true) else list(flatten(y_true))
        targets += [None] * (len(self.names) - len(targets))
        entries, counts = [], {}
        for values, takes_weights in ((self.given, False), (self.weighted, True)):
            for i, identifiers in enumerate(self._per_output(values)):
                for identifier in identifiers:
                    metric = _resolve_metric(identifier, targets[i], predictions[i])
                    prefix = f"{self.names[i]}_" if len(self.names) > 1 and self.names[i] else ""
                    name = f"{prefix}{metric.name}"
                    if name in counts and takes_weights:
                        name = f"{prefix}weighted_{metric.name}"
                    count = counts.get(name, 0)
                    counts[name] = count + 1
                    entries.append((i, metric, takes_weights, f"{name}_{count}" if count else name))
        self.entries = entries

    def _takes_all(self, y_true):
        return isinstance(y_true, dict) or not isinstance(y_true, (list, tuple)) or len(y_true) == len(self.names)

    def _per_output(self, values):
        count = len(self.names)
        if not values:
            return [[] for _ in range(count)]
        if count == 1:
            return [[v for v in flatten(values) if v is not None]]
        if isinstance(values, dict):
            unknown = [key for key in values if key not in self.names]
            if unknown:
                raise ValueError(f"metrics has the keys {sorted(values)}, but the model's outputs are {self.names}.")
            values = [values.get(name) for name in self.names]
        if len(values) != count:
            raise ValueError(
                f"metrics has {len(values)} entries, but the model has {count} outputs ({self.names}). Pass one list "
                f"per output, or a dictionary by output name."
            )
        return [[v for v in flatten(value) if v is not None] for value in values]

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch to every metric."""
        if not self.built:
            self.build(y_true, y_pred)
        if len(self.names) == 1 and isinstance(y_pred, Tensor) and isinstance(y_true, Tensor):
            predictions, targets = (y_pred,), (y_true,)
        else:
            predictions = split_outputs(y_pred, self.names, "the model's output")
            targets = split_outputs(y_true, self.names, "y") if self._takes_all(y_true) else list(flatten(y_true))
        weights = split_weights(sample_weight, self.names)
        for i, metric, takes_weights, _ in self.entries:
            if takes_weights:
                metric.update_state(targets[i], predictions[i], weights[i])
            else:
                metric.update_state(targets[i], predictions[i])

    def reset_state(self):
        """Start all metrics anew."""
        for metric in self.metrics:
            metric.reset_state()

    def result(self):
        """Name -> value."""
        return {name: metric.result() for _, metric, _, name in self.entries or ()}


def _is_accuracy(identifier):
    return isinstance(identifier, str) and identifier.lower() in ("accuracy", "acc")


def _is_shape_dependent(identifier):
    return isinstance(identifier, str) and identifier.lower() in ("crossentropy", "ce")


def _kind_of_labels(y_true, y_pred):
    """What the shapes say, as in Keras: binary, sparse or categorical."""
    if y_pred.shape[-1] == 1:
        return "binary"
    if len(y_true.shape) < len(y_pred.shape) or (y_true.shape[-1] == 1 and y_pred.shape[-1] > 1):
        return "sparse"
    return "categorical"


def _resolve_loss(identifier, y_true, y_pred):
    if _is_shape_dependent(identifier):
        function = {
            "binary": losses.binary_crossentropy,
            "sparse": losses.sparse_categorical_crossentropy,
            "categorical": losses.categorical_crossentropy,
        }[_kind_of_labels(y_true, y_pred)]
    else:
        function = losses.get(identifier)
    if isinstance(function, losses.Loss):
        return function
    name = identifier if isinstance(identifier, str) else getattr(function, "__name__", None)
    return LossFunctionWrapper(function, name=name)


def _resolve_metric(identifier, y_true, y_pred):
    if _is_accuracy(identifier):
        made = {
            "binary": metrics.BinaryAccuracy,
            "sparse": metrics.SparseCategoricalAccuracy,
            "categorical": metrics.CategoricalAccuracy,
        }[_kind_of_labels(y_true, y_pred)](name=identifier)
        return made
    found = metrics.get(identifier)
    if isinstance(found, metrics.Metric):
        if isinstance(identifier, str):
            found.name = identifier
        return found
    name = identifier if isinstance(identifier, str) else getattr(found, "__name__", None)
    return metrics.MeanMetricWrapper(found, name=name)


def total_of(values):
    """The sum of scalar Tensors."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return ops.sum(total) if total.ndim else total
