"""compile, fit, evaluate and predict: the loop around the steps."""

import contextlib
import inspect
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from gpukeras import callbacks as callbacks_room
from gpukeras import losses as losses_room
from gpukeras import metrics as metrics_room
from gpukeras import optimizers as optimizers_room
from gpukeras.backend import memory
from gpukeras.configurable import serialize
from gpukeras.layers.layer import Layer
from gpukeras.training import interrupts, labels, step
from gpukeras.training.compiled import CompiledLosses, CompiledMetrics, total_of
from gpukeras.training.data import RowsBatch, is_one_batch, open_data, plain_batch, split_validation, to_batch, unpack
from gpukeras.training.kinds import kind_of
from gpukeras.training.outputs import Outputs, in_kind, own_arrays

__all__ = ["Trainer"]


_NOBODY = callbacks_room.CallbackList()  # where nobody listens

_LayerBelow: Any = Layer if TYPE_CHECKING else object  # Model joins the two


class Trainer(_LayerBelow):
    """The training half of a model.

    Subclasses of Model may override `train_step`, `test_step`, `predict_step`, `compute_loss` and
    `compute_metrics`; what they do not override runs as Keras's.
    """

    optimizer: Any = None
    loss: Any = None
    compiled = False
    stop_training = False
    history: Any = None
    run_eagerly = False
    jit_compile: Any = "auto"
    steps_per_execution = 1
    _loss_tracker: Any = None
    _compile_loss: Any = None
    _compile_metrics: Any = None
    _compile_config: Any = None
    _compiled_trainable_state: Any = None

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        run_eagerly=False,
        steps_per_execution=1,
        jit_compile="auto",
        auto_scale_loss=True,
    ):
        """Say how the model is to be trained.

        Args:
            optimizer: Name, config or Optimizer.
            loss: Name, function or Loss; a list or dictionary of them for several outputs.
            loss_weights: Numbers that weigh several losses against each other.
            metrics: List of names, functions or Metrics; a list of lists or a dictionary for several outputs.
            weighted_metrics: Metrics that take sample and class weights into account.
            run_eagerly: Whether every step runs op by op, so that it can be debugged.
            steps_per_execution: Number of steps between two calls of batch callbacks.
            jit_compile: Whether later steps may be run from what an earlier one did, without the layers' own code;
                False: never. On a GPU, the third step of a kind and shape is recorded as a CUDA graph and launched
                from then on, code of the user's included: as wherever Keras compiles, its Python runs no more until a
                setting changes. A step that reads the device cannot be recorded, and a warning says which line does;
                a `train_step` that does not end in the model's own runs as it is written, and a warning says so.
                Elsewhere it is the list of the ops that is run again: with "auto" where all code is the library's,
                with True also where it is the user's, which then must do nothing but call ops.
            auto_scale_loss: Whether a mixed_float16 model gets a loss-scaling optimizer.

        Raises:
            ValueError: for unknown names, with the closest ones.
        """
        optimizer = optimizers_room.get(optimizer)
        if optimizer is not None and not isinstance(optimizer, optimizers_room.Optimizer):
            raise TypeError(f"compile: optimizer must be a name or an Optimizer, but got {optimizer!r}.")
        if jit_compile not in ("auto", True, False):
            raise ValueError(f'compile: jit_compile must be "auto", True or False, but got {jit_compile!r}.')
        if not isinstance(steps_per_execution, int) or steps_per_execution < 1:
            raise ValueError(f"compile: steps_per_execution must be at least 1, but got {steps_per_execution!r}.")
        if jit_compile is True and run_eagerly:
            warnings.warn("run_eagerly=True rules out jit_compile=True: steps run eagerly.", stacklevel=2)
            jit_compile = False
        if auto_scale_loss and optimizer is not None and self.dtype_policy.name == "mixed_float16":
            wrapper = getattr(optimizers_room, "LossScaleOptimizer", None)
            if wrapper is not None and not isinstance(optimizer, wrapper):
                optimizer = wrapper(optimizer, name="loss_scale_optimizer")
        names = getattr(self, "output_names", None)
        compiled_loss = None if loss is None else CompiledLosses(loss, loss_weights, names)
        compiled_metrics = None
        if metrics is not None or weighted_metrics is not None:
            compiled_metrics = CompiledMetrics(metrics, weighted_metrics, names)
        # Everything was valid: now the model changes. Past __setattr__, as none of it is tracked state.
        self.__dict__.update(
            optimizer=optimizer,
            loss=loss,
            run_eagerly=run_eagerly,
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
            stop_training=False,
            compiled=True,
            _compile_loss=compiled_loss,
            _compile_metrics=compiled_metrics,
            _loss_tracker=metrics_room.Mean(name="loss"),
            _compiled_trainable_state={id(layer): layer.trainable for layer in self._flatten_layers()},
            _compile_config={
                "optimizer": optimizer,
                "loss": loss,
                "loss_weights": loss_weights,
                "metrics": metrics,
                "weighted_metrics": weighted_metrics,
                "run_eagerly": run_eagerly,
                "steps_per_execution": steps_per_execution,
                "jit_compile": jit_compile,
            },
        )

    # --- What a step computes ------------------------------------------------------------------------------

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The scalar that training makes small: the compiled losses and all of `losses`."""
        values = []
        if self._compile_loss is not None:
            loss = self._compile_loss(y, y_pred, sample_weight)
            if loss is not None:
                values.append(loss)
        values.extend(self.losses)
        if not values:
            raise ValueError(
                f"{self._who()} has no loss to compute. Pass loss=... to compile(), or use add_loss() in a layer."
            )
        return values[0] if len(values) == 1 and values[0].ndim == 0 else total_of(values)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Update the compiled metrics with a batch; returns all results by name."""
        if self._compile_metrics is not None:
            self._compile_metrics.update_state(y, y_pred, sample_weight)
        return self.get_metrics_result()

    def get_metrics_result(self):
        """Name -> value of every metric, the loss first."""
        results = {}
        for metric in self.metrics:
            result = metric.result()
            if isinstance(result, dict):
                results.update(result)
            else:
                results[metric.name] = result
        return results

    @property
    def metrics(self):
        """The loss's mean, the compiled metrics, those of single outputs' losses, and the layers'."""
        found = []
        if self.compiled:
            found.append(self._loss_tracker)
            if self._compile_metrics is not None:
                found.append(self._compile_metrics)
            if self._compile_loss is not None:
                found.extend(self._compile_loss.metrics)
        found.extend(self._metrics)
        for layer in self._flatten_layers(include_self=False):
            if not isinstance(layer, Trainer):
                found.extend(layer._metrics)
        return list({id(metric): metric for metric in found}.values())

    @property
    def _has_default_metrics(self):
        return type(self).compute_metrics is Trainer.compute_metrics

    @property
    def _loss_takes_training(self):
        if type(self).compute_loss is Trainer.compute_loss:
            return True
        return "training" in inspect.signature(self.compute_loss).parameters

    @property
    def metrics_names(self):
        """Names of `metrics`."""
        return [metric.name for metric in self.metrics]

    def reset_metrics(self):
        """Start all metrics anew."""
        for metric in self.metrics:
            metric.reset_state()

    def train_step(self, data):
        """One update from one batch ``(x, y, sample_weight)``; returns the logs by name."""
        logs = step.train(self, *unpack(data))
        return self.get_metrics_result() if logs is None else logs

    def test_step(self, data):
        """Loss and metrics of one batch; returns the logs by name."""
        logs = step.test(self, *unpack(data))
        return self.get_metrics_result() if logs is None else logs

    def predict_step(self, data):
        """The model's outputs for one batch."""
        return step.call(self, unpack(data)[0], training=False)

    def make_train_function(self, force=False):
        """Kept for programs written for Keras: steps here are not compiled ahead."""

    make_test_function = make_predict_function = make_train_function

    # --- The loops --------------------------------------------------------------------------------------

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
    ):
        """Train for a number of epochs.

        Args:
            x: Array, list or dictionary of arrays, or an iterable of ``(x, y)`` or ``(x, y, sample_weight)`` batches.
            y: Targets, where x is not an iterable.
            batch_size: Samples per step; 32 if None.
            epochs: Number of the last epoch.
            verbose: 0 silent, 1 or "auto" a progress bar, 2 a line per epoch.
            callbacks: List of Callbacks.
            validation_split: Fraction of the samples, taken from the end, to validate on.
            validation_data: ``(x, y)`` or ``(x, y, sample_weight)``, or an iterable of batches.
            shuffle: Whether each epoch sees the samples in a new order.
            class_weight: Dictionary from class to weight.
            sample_weight: One weight per sample.
            initial_epoch: Number of the first epoch, from 0.
            steps_per_epoch: Steps after which an epoch ends.
            validation_steps, validation_batch_size: The same for validation.
            validation_freq: Every how many epochs to validate, or a list of epochs counted from 1.

        Returns:
            The History callback; ``history.history`` maps each name to its values by epoch.
        """
        self._require_compiled("fit")
        self._warn_of_changed_trainable()
        _check_count("epochs", epochs)
        if not isinstance(validation_freq, (int, list, tuple)):
            raise ValueError(f"validation_freq must be a whole number or a list, but got {validation_freq!r}.")
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = split_validation(x, y, sample_weight, validation_split)
        data = open_data(
            x,
            y,
            sample_weight,
            batch_size=batch_size,
            shuffle=shuffle,
            class_weight=class_weight,
            steps=steps_per_epoch,
        )
        validation = None
        if validation_data is not None:
            validation = _open_validation(validation_data, validation_batch_size or batch_size, validation_steps)
            labels.check_data(self, validation)
        labels.check_data(self, data)
        if not isinstance(callbacks, callbacks_room.CallbackList):
            callbacks = callbacks_room.CallbackList(
                callbacks,
                add_history=True,
                add_progbar=verbose != 0,
                verbose=verbose,
                epochs=epochs,
                steps=data.steps,
                model=self,
            )
        self.stop_training = False
        logs = {}
        with interrupts.between_steps():
            try:
                callbacks.on_train_begin()
                for epoch in range(initial_epoch, epochs):
                    logs = self._train_epoch(epoch, data, validation, validation_freq, callbacks)
                    if self.stop_training:
                        break
            finally:
                if self.optimizer is not None and self.optimizer.built:
                    with step.undoable():
                        self.optimizer.finalize_variable_values(self.trainable_variables)
            callbacks.on_train_end(logs)
        memory.limit_kept()
        return self.history

    def _train_epoch(self, epoch, data, validation, validation_freq, callbacks):
        self.reset_metrics()
        callbacks.on_epoch_begin(epoch)
        # The optimizer's step count numbers the shuffling: it is saved with the model, so that training that
        # was interrupted and goes on sees the same order as training that was not.
        draw = int(self.optimizer.iterations) if self.optimizer is not None else epoch
        result = None
        has_run = False
        for number, batch in _grouped(data.epoch(draw), self.steps_per_execution):
            callbacks.on_train_batch_begin(number)
            for one in batch:
                result = self._run_step(self.train_step, Trainer.train_step, step.train, one)
                has_run = True
            callbacks.on_train_batch_end(number + len(batch) - 1, self._logs_of(result))
            if self.stop_training:
                break
        if not has_run:
            raise ValueError(
                "The data gave no batches for this epoch. A generator that is used up cannot be started again: pass "
                "steps_per_epoch, or an object whose __iter__ starts anew."
            )
        logs = self._logs_of(result)()
        if validation is not None and _is_due(epoch, validation_freq):
            results = self._evaluate(validation, callbacks)
            logs = _python_logs({**logs, **{f"val_{name}": value for name, value in results.items()}})
        callbacks.on_epoch_end(epoch, logs)
        return logs

    def _run_step(self, method, default, plain, batch):
        """One step: by the model's own method where a class overrides it, which returns the logs."""
        if method.__func__ is default:
            return step.fed(plain.__name__, self, batch) if type(batch) is RowsBatch else plain(self, *batch)
        with step.undoable():
            return step.own(self, method, batch)

    def _logs_of(self, result):
        """A function that reads the logs from the device, for those who ask."""

        def read():
            values = self.get_metrics_result() if result is None else result
            if isinstance(values, dict) and result is not None:
                known = self.get_metrics_result() if self._has_results() else {}
                values = known if set(known) == set(values) else values
            return _python_logs(values)

        return read

    def _has_results(self):
        return self._compile_metrics is None or self._compile_metrics.built

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        verbose="auto",
        sample_weight=None,
        steps=None,
        callbacks=None,
        return_dict=False,
        **kwargs,
    ):
        """Loss and metrics over a data set, in test mode.

        Args:
            x, y, sample_weight, batch_size, verbose, callbacks: As in `fit`.
            steps: Steps after which to stop.
            return_dict: Whether to return a dictionary by name instead of a list.

        Returns:
            The loss, or ``[loss, metric, ...]``, or a dictionary.
        """
        if kwargs:
            raise ValueError(f"evaluate got unknown arguments {sorted(kwargs)}.")
        self._require_compiled("evaluate")
        data = open_data(x, y, sample_weight, batch_size=batch_size, steps=steps)
        labels.check_data(self, data)
        if callbacks is None and verbose == 0:
            callbacks = _NOBODY
        if not isinstance(callbacks, callbacks_room.CallbackList):
            callbacks = callbacks_room.CallbackList(
                callbacks,
                add_progbar=verbose != 0,
                verbose=verbose,
                epochs=1,
                steps=data.steps,
                model=self,
            )
        with interrupts.between_steps():
            logs = self._evaluate(data, callbacks)
        memory.limit_kept()
        return logs if return_dict else self._in_order(logs)

    def _evaluate(self, data, callbacks):
        self.stop_evaluating = False
        callbacks.on_test_begin()
        self.reset_metrics()
        result = None
        has_run = False
        for number, batch in _grouped(data.epoch(), self.steps_per_execution):
            callbacks.on_test_batch_begin(number)
            for one in batch:
                result = self._run_step(self.test_step, Trainer.test_step, step.test, one)
                has_run = True
            callbacks.on_test_batch_end(number + len(batch) - 1, self._logs_of(result))
            if self.stop_evaluating:
                break
        if not has_run:
            raise ValueError("The data gave no batches to evaluate on.")
        logs = self._logs_of(result)()
        callbacks.on_test_end(logs)
        return logs

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """The model's outputs for a data set, computed batch by batch.

        Args:
            x, batch_size, verbose, steps, callbacks: As in `evaluate`.

        Returns:
            Arrays of the caller's kind, in the structure of the model's outputs: NumPy's; where all of x is on the GPU,
            CuPy's, or those of a library such as PyTorch that x is from and that takes DLPack.
        """
        if callbacks is None and verbose == 0:
            if steps is None and is_one_batch(x, batch_size) and type(self).predict_step is Trainer.predict_step:
                if self.built:  # an interrupt finds no weights half made
                    return own_arrays(step.call(self, plain_batch(x), training=False))
                with interrupts.between_steps():
                    return own_arrays(step.call(self, plain_batch(x), training=False))
            callbacks = _NOBODY
        data = open_data(x, batch_size=batch_size, steps=steps)
        if not isinstance(callbacks, callbacks_room.CallbackList):
            callbacks = callbacks_room.CallbackList(
                callbacks,
                add_progbar=verbose != 0,
                verbose=verbose,
                epochs=1,
                steps=data.steps,
                model=self,
            )
        results = Outputs(data)
        with interrupts.between_steps():
            callbacks.on_predict_begin()
            for number, batch in _grouped(data.epoch(), self.steps_per_execution):
                callbacks.on_predict_batch_begin(number)
                for one in batch:
                    results.add(self._predict_one(one))
                callbacks.on_predict_batch_end(number + len(batch) - 1, results.last)
                if getattr(self, "stop_predicting", False):
                    break
            callbacks.on_predict_end()
        if not results.batches:
            raise ValueError("The data gave no batches to predict on.")
        memory.limit_kept()
        return results.joined()

    def _predict_one(self, batch):
        if type(self).predict_step is Trainer.predict_step:
            if type(batch) is RowsBatch:
                return step.fed("predict", self, batch)
            return step.call(self, batch[0], training=False)
        return step.own(self, self.predict_step, batch)

    # --- Single batches -----------------------------------------------------------------------------------

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """One update from one batch; returns its loss and metrics."""
        self._require_compiled("train_on_batch")
        if class_weight is not None and sample_weight is not None:
            raise ValueError("class_weight and sample_weight cannot both be given; multiply them yourself.")
        batch = to_batch((_plain(x), _plain(y), _plain(sample_weight)), class_weight)
        labels.check(self, batch[1])
        self.reset_metrics()
        with interrupts.between_steps():
            result = self._run_step(self.train_step, Trainer.train_step, step.train, batch)
        logs = self._logs_of(result)()
        return logs if return_dict else self._in_order(logs)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """Loss and metrics of one batch."""
        self._require_compiled("test_on_batch")
        batch = to_batch((_plain(x), _plain(y), _plain(sample_weight)))
        labels.check(self, batch[1])
        self.reset_metrics()
        logs = self._logs_of(self._run_step(self.test_step, Trainer.test_step, step.test, batch))()
        return logs if return_dict else self._in_order(logs)

    def predict_on_batch(self, x):
        """The model's outputs for one batch, in arrays of the kind that `predict` returns."""
        x = _plain(x)
        return in_kind(self._predict_one(to_batch((x,))), kind_of(x))

    # --- Checks --------------------------------------------------------------------------------------------

    def _require_compiled(self, method):
        if not self.compiled:
            raise ValueError(
                f"{self._who()} must be compiled before {method}(): call model.compile(optimizer=..., loss=...)."
            )

    def _warn_of_changed_trainable(self):
        now = {id(layer): layer.trainable for layer in self._flatten_layers()}
        known = self._compiled_trainable_state
        changed = [
            layer.name for layer in self._flatten_layers() if known.get(id(layer), layer.trainable) != layer.trainable
        ]
        if changed:
            warnings.warn(
                f"`trainable` was changed after compile() in the layers {changed}. Call compile() again so that the "
                f"optimizer follows.",
                stacklevel=3,
            )
            self.__dict__["_compiled_trainable_state"] = now

    def _who(self):
        return f"{type(self).__name__} {self.name!r}"

    def _in_order(self, logs):
        """The logs as a list, in Keras's order: by the metrics' own names, then the others by name.

        Metrics of several outputs carry the output's name in the logs only, so they come by name.
        """
        names = []
        for metric in self.metrics:
            is_group = isinstance(metric, CompiledMetrics)
            names.extend([m.name for m in metric.metrics] if is_group else [metric.name])
        ordered = [logs[name] for name in names if name in logs]
        ordered += [logs[name] for name in sorted(logs) if name not in names]
        return ordered[0] if len(ordered) == 1 else ordered

    # --- Files ----------------------------------------------------------------------------------------------

    def get_compile_config(self):
        """The arguments of compile(), ready to be written as JSON; empty where it was not called."""
        return serialize(self._compile_config) if self.compiled else {}

    def compile_from_config(self, config):
        """Compile as `get_compile_config` says, and build the optimizer."""
        if type(self).compile is not Trainer.compile:
            warnings.warn(
                "compile() was not called while loading, because the model's compile() is custom. Call it yourself, or "
                "override get_compile_config() and compile_from_config().",
                stacklevel=2,
            )
            return
        config = dict(config)
        config["optimizer"] = optimizers_room.get(config.get("optimizer"))
        config["loss"] = _map_configs(losses_room.get, config.get("loss"))
        for name in ("metrics", "weighted_metrics"):
            config[name] = _map_configs(metrics_room.get, config.get(name))
        self.compile(**config)
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)


def _map_configs(get, structure):
    """Config dictionaries within lists and dictionaries turned into objects; names stay names."""
    if isinstance(structure, dict) and "class_name" in structure:
        return get(structure)
    if isinstance(structure, dict):
        return {key: _map_configs(get, item) for key, item in structure.items()}
    if isinstance(structure, (list, tuple)):
        return [_map_configs(get, item) for item in structure]
    return structure


def _grouped(batches, size):
    """``(number of the first, [batch, ...])`` for every `size` batches."""
    if size == 1:
        for number, batch in enumerate(batches):
            yield number, (batch,)
        return
    group, first = [], 0
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield first, group
            first += size
            group = []
    if group:
        yield first, group


def _python_logs(logs):
    """The logs with Python numbers, by sorted name, as Keras gives them to callbacks."""
    if not isinstance(logs, dict):
        raise TypeError(f"train_step and test_step must return a dictionary of logs, but got {type(logs).__name__}.")
    result = {}
    for name, value in sorted(logs.items()):
        if isinstance(value, dict):
            result.update(_python_logs(value))
            continue
        with contextlib.suppress(TypeError, ValueError):
            value = float(value)
        result[name] = value
    return result


def _open_validation(data, batch_size, steps):
    if isinstance(data, (list, tuple)):
        return open_data(*unpack(tuple(data)), batch_size=batch_size, steps=steps)
    try:
        return open_data(data, steps=steps)
    except ValueError as error:
        raise ValueError(f"validation_data must be (x, y), (x, y, sample_weight) or an iterable: {error}") from error


def _is_due(epoch, frequency):
    return (epoch + 1) % frequency == 0 if isinstance(frequency, int) else (epoch + 1) in frequency


def _check_count(name, value):
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} must be a whole number, but got {value!r}.")


def _plain(structure):
    """Nested lists of numbers as arrays; lists of arrays stay lists."""
    if isinstance(structure, (list, tuple)) and structure:
        first = structure
        while isinstance(first, (list, tuple)) and first:
            first = first[0]
        if isinstance(first, (bool, int, float, np.generic)):
            return np.asarray(structure)
    return structure
