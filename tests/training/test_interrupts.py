"""Ctrl-C, and errors, in the middle of training: the model is as after a whole number of steps."""

import _thread
import contextlib
import hashlib
import pathlib
import signal
import sys
import threading
import time

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import layers
from gpukeras.autograd.scope import current, transaction

PACKAGE = str(pathlib.Path(keras.__file__).parent)
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(16, 3)).astype("float32")
Y = RANDOM.normal(size=(16, 1)).astype("float32")
EPOCHS = 2
FIT = {"epochs": EPOCHS, "batch_size": 4, "verbose": 0, "validation_data": (X[:4], Y[:4])}


class TrainStep(keras.Sequential):
    """A model with a training step of its own, which goes on after the update."""

    def train_step(self, data):
        x, y = data
        with keras.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self.compute_metrics(x, y, y_pred)


class Slow(keras.optimizers.SGD):
    """An optimizer that updates variable by variable."""

    def update_step(self, gradient, variable, learning_rate):
        variable.assign_sub(gradient * learning_rate)


def body():
    return [
        layers.Dense(4, activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(0.3),
        layers.Dense(1),
    ]


KINDS = {
    "plain": lambda: (keras.Sequential([keras.Input((3,)), *body()]), "adam"),
    "train_step": lambda: (TrainStep([keras.Input((3,)), *body()]), "adam"),
    "built in the first step": lambda: (keras.Sequential(body()), "adam"),
    "update_step": lambda: (keras.Sequential([keras.Input((3,)), *body()]), Slow(0.1)),
    "loss scaling": lambda: (
        keras.Sequential([keras.Input((3,)), *body()]),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)),
    ),
}


def make(kind):
    keras.utils.set_random_seed(7)
    model, optimizer = KINDS[kind]()
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


def state_of(model):
    """A hash of all weights, moving statistics, random states and the optimizer's state."""
    if not model.built:
        return "not built"
    arrays = [v.numpy() for v in model.weights]
    arrays += [layer.seed_generator.state.numpy() for layer in model.layers if isinstance(layer, layers.Dropout)]
    if model.optimizer.built:
        arrays += [v.numpy() for v in model.optimizer.variables]
    else:
        arrays.append(np.zeros(1))
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


def states_of_steps(kind):
    """The states before the first step, and after every step, of a run without interrupts."""
    model = make(kind)
    states = {state_of(model)}
    if not model.built:  # the first step builds the model, and may be undone afterwards
        twin = make(kind)
        twin.build((None, 3))
        states.add(state_of(twin))
        twin.optimizer.build(twin.trainable_variables)
        states.add(state_of(twin))
    elif not model.optimizer.built:
        twin = make(kind)
        twin.optimizer.build(twin.trainable_variables)
        states.add(state_of(twin))

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            states.add(state_of(model))

    before = len(states)
    model.fit(X, Y, callbacks=[Record()], **FIT)
    assert len(states) == before + EPOCHS * len(X) // FIT["batch_size"]
    return states


def assert_sound(model, states):
    """The model is as after a whole number of steps, nothing is left over, and work goes on."""
    assert state_of(model) in states
    assert_clean()
    model.fit(X, Y, **FIT)
    assert np.isfinite(model.predict(X, verbose=0)).all()
    assert len(model.optimizer.variables) == len({id(v) for v in model.optimizer.variables})
    assert len(model.weights) == 8


def assert_clean():
    defaults = vars(type(current))
    left = {name: value for name, value in vars(current).items() if value != defaults[name]}
    assert not left
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@contextlib.contextmanager
def interrupt_at(event_number, also=None):
    """Press Ctrl-C at a given event in the library; count the events.

    Python looks for signals where a function starts and where a call of C has returned: those are the events.
    """
    seen = [0]
    presses = {event_number, also}

    def profile(frame, event, arg):
        name = frame.f_code.co_filename
        if event in ("call", "c_return") and (name.startswith(PACKAGE) or name.endswith("contextlib.py")):
            seen[0] += 1
            if seen[0] in presses:
                signal.raise_signal(signal.SIGINT)

    sys.setprofile(profile)
    try:
        yield seen
    finally:
        sys.setprofile(None)


@pytest.fixture(autouse=True)
def main_thread():
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")
    # A shell starts background jobs with Ctrl-C ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# Python itself drops an exception that is raised while it frees a generator: then nothing was interrupted.
freed_generators = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@freed_generators
@pytest.mark.parametrize("kind", KINDS)
def test_at_any_event(kind, rng):
    states = states_of_steps(kind)
    model = make(kind)
    with interrupt_at(None) as seen:
        model.fit(X, Y, **FIT)
    raised = 0
    for number in rng.integers(1, seen[0], 12):
        model = make(kind)
        try:
            with interrupt_at(number):
                model.fit(X, Y, **FIT)
        except KeyboardInterrupt:
            raised += 1
        assert_sound(model, states)
    assert raised >= 11


@freed_generators
def test_twice(rng):
    """A second Ctrl-C while the first is being dealt with."""
    states = states_of_steps("plain")
    raised = 0
    for number in rng.integers(1, 5000, 12):
        model = make("plain")
        try:
            with interrupt_at(number, also=number + rng.integers(1, 60)):
                model.fit(X, Y, **FIT)
        except KeyboardInterrupt:
            raised += 1
        assert_sound(model, states)
    assert raised >= 11


@pytest.mark.parametrize("kind", ["plain", "train_step"])
def test_at_any_time(kind, rng):
    """From another thread, while the program runs at full speed."""
    states = states_of_steps(kind)
    fit = FIT | {"epochs": 1000}
    del fit["validation_data"]
    for delay in rng.uniform(0, 0.02, 10):
        model = make(kind)
        known = set(states)
        steps = []

        class Record(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None, model=model, known=known, steps=steps):
                known.add(state_of(model))
                steps.append(batch)

        timer = threading.Timer(delay, _thread.interrupt_main)
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            model.fit(X, Y, callbacks=[Record()], **fit)
        timer.join()
        # A step may have ended without its callback: then one more step gives the state after the next.
        if state_of(model) not in known:
            twin = make(kind)
            last = len(steps)
            for epoch in range(last // 4 + 1):
                twin.fit(
                    X,
                    Y,
                    initial_epoch=epoch,
                    **{**fit, "epochs": epoch + 1},
                    callbacks=[_stop_after(last - 4 * epoch + 1)],
                )
            assert state_of(model) == state_of(twin)
            known.add(state_of(model))
        assert_sound(model, known)


def _stop_after(steps):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch + 1 >= steps

    return Stop()


def test_interrupted_training_goes_on_from_a_file(tmp_path, rng):
    model = make("plain")
    with interrupt_at(None) as seen:
        make("plain").fit(X, Y, **FIT)
    with pytest.raises(KeyboardInterrupt), interrupt_at(seen[0] // 2):
        model.fit(X, Y, **FIT)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations)


class Waits(layers.Layer):
    """A layer in which the program may hang."""

    seconds = 0.0
    presses = 0

    def call(self, inputs):
        for _ in range(Waits.presses):
            signal.raise_signal(signal.SIGINT)
        end = time.monotonic() + Waits.seconds
        while time.monotonic() < end:
            pass
        return inputs


def test_a_slow_step_is_left_at_once(monkeypatch):
    model = keras.Sequential([keras.Input((3,)), Waits(), layers.Dense(1)])
    model.compile("sgd", "mse")
    monkeypatch.setattr(Waits, "seconds", 60.0)
    timer = threading.Timer(0.1, _thread.interrupt_main)
    start = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, verbose=0)
    timer.join()
    assert time.monotonic() - start < 10
    assert_clean()


def test_the_third_press_ends_what_hangs_after_the_update():
    class Hangs(TrainStep):
        def train_step(self, data):
            super().train_step(data)
            for press in range(5):
                pressed.append(press)
                signal.raise_signal(signal.SIGINT)

    pressed = []
    model = Hangs([keras.Input((3,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, verbose=0)
    assert pressed == [0, 1, 2]
    assert_clean()


def test_while_weights_are_written_it_waits():
    class Impatient(keras.optimizers.SGD):
        def update_arrays(self, param, grad, slots, learning_rate, step):
            param -= learning_rate * grad
            signal.raise_signal(signal.SIGINT)
            param += 1

    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    model.compile(Impatient(0.0), "mse")
    before = model.get_weights()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, verbose=0)
    for ours, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_allclose(ours, old + 1)
    assert int(model.optimizer.iterations) == 1
    assert_clean()


def test_in_a_callback_it_comes_at_once():
    class Presses(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                signal.raise_signal(signal.SIGINT)
                time.sleep(60)

    model = make("plain")
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, callbacks=[Presses()], **FIT)
    assert int(model.optimizer.iterations) == 2
    assert_clean()


def test_a_handler_of_the_programs_own_is_left_alone():
    pressed = []

    def handler(number, frame):
        pressed.append(number)

    signal.signal(signal.SIGINT, handler)
    try:
        press = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: signal.raise_signal(signal.SIGINT)
        )
        history = make("plain").fit(X, Y, callbacks=[press], **FIT)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert len(pressed) == 8
    assert history.epoch == [0, 1]


def test_training_in_another_thread():
    errors = []

    def work():
        try:
            make("plain").fit(X, Y, **FIT)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors
    assert_clean()


class Breaks(layers.Layer):
    """A layer that fails where it is told to."""

    where = None

    def call(self, inputs, training=None):
        if training and Breaks.where == "call":
            raise RuntimeError("broken")
        return inputs


def breaking_model(optimizer="adam"):
    model = keras.Sequential([keras.Input((3,)), *body(), Breaks()])
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


@pytest.mark.parametrize("is_built", [True, False])
def test_an_error_after_batch_normalization_was_updated(is_built, monkeypatch):
    model = breaking_model()
    if is_built:
        model.fit(X, Y, **FIT)
    before = state_of(model)
    moving = model.layers[1].moving_mean.numpy()
    monkeypatch.setattr(Breaks, "where", "call")
    with pytest.raises(RuntimeError, match="broken"):
        model.fit(X, Y, **FIT)
    assert state_of(model) == before
    np.testing.assert_array_equal(model.layers[1].moving_mean.numpy(), moving)
    assert_clean()
    monkeypatch.undo()
    model.fit(X, Y, **FIT)
    assert state_of(model) != before


def test_an_error_in_train_on_batch(monkeypatch):
    model = breaking_model()
    before = state_of(model)
    monkeypatch.setattr(Breaks, "where", "call")
    with pytest.raises(RuntimeError, match="broken"):
        model.train_on_batch(X, Y)
    assert state_of(model) == before
    assert_clean()


@pytest.mark.parametrize("fails_at", [1, 2, 5])
def test_an_error_in_the_middle_of_an_update(fails_at):
    class Fails(keras.optimizers.SGD):
        calls = 0

        def update_step(self, gradient, variable, learning_rate):
            type(self).calls += 1
            if self.calls == fails_at:
                raise RuntimeError("broken")
            variable.assign_sub(gradient)

    model = breaking_model(Fails())
    before = state_of(model)
    with pytest.raises(RuntimeError, match="broken"):
        model.train_on_batch(X, Y)
    weights = [v.numpy() for v in model.weights]
    model.optimizer.learning_rate = 0.0
    Fails.calls = 100
    twin = breaking_model("sgd")
    twin.set_weights(weights)
    assert state_of_weights(twin) == state_of_weights(model)
    assert model.optimizer.built or state_of(model) == before
    assert int(model.optimizer.iterations) == 0
    assert_clean()


def state_of_weights(model):
    return [v.numpy().tolist() for v in model.weights]


def test_an_interrupt_that_waits_replaces_an_error():
    with pytest.raises(KeyboardInterrupt) as caught:
        with transaction():
            current.is_committed = True
            current.interrupts = 1
            raise RuntimeError("broken")
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert_clean()


def test_evaluate_and_predict_can_be_interrupted_and_asked_again():
    class Press(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            signal.raise_signal(signal.SIGINT)

        def on_predict_batch_end(self, batch, logs=None):
            signal.raise_signal(signal.SIGINT)

    model = make(next(iter(KINDS)))
    expected = model.predict(X, verbose=0), model.evaluate(X, Y, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        model.evaluate(X, Y, verbose=0, callbacks=[Press()])
    with pytest.raises(KeyboardInterrupt):
        model.predict(X, verbose=0, callbacks=[Press()])
    np.testing.assert_array_equal(model.predict(X, verbose=0), expected[0])
    assert model.evaluate(X, Y, verbose=0) == expected[1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
