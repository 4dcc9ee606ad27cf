"""Steps as CUDA graphs on a CuPy that is made of NumPy: recorded, replayed, and the same to the last bit."""

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import layers, ops
from gpukeras.backend import devices
from gpukeras.training import captures
from tests.emulator import compile as emulator

pytest_plugins = ["tests.fake_gpu"]

X = np.random.default_rng(0).normal(size=(22, 12)).astype("float32")
IMAGES = X[:, :, None, None] * np.ones((1, 1, 6, 2), "float32")
LABELS = np.arange(22) % 3


def on(values):
    return ops.convert_to_tensor(values)


def perceptron():
    return keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(8, activation="relu", kernel_regularizer="l2"),
            layers.Dropout(0.3),
            layers.BatchNormalization(),
            layers.Dense(3, activation="softmax"),
        ]
    )


def images():
    return keras.Sequential(
        [
            keras.Input((12, 6, 2)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )


def unbuilt():
    return keras.Sequential(
        [layers.Dense(5, activation="gelu"), layers.LayerNormalization(), layers.Dense(3, "softmax")]
    )


def trained(make, x, optimizer, **settings):
    keras.utils.set_random_seed(3)
    model = make()
    model.compile(optimizer(), "sparse_categorical_crossentropy", metrics=["accuracy"], **settings)
    history = model.fit(on(x), on(LABELS), batch_size=8, epochs=5, verbose=0, validation_data=(on(x), on(LABELS)))
    evaluated = model.evaluate(on(x), on(LABELS), batch_size=8, verbose=0)
    predicted = [devices.to_numpy(model.predict(on(x), batch_size=8, verbose=0)) for _ in range(4)]
    weights = [devices.to_numpy(v.array) for v in model.variables + model.optimizer.variables]
    return model, history.history, evaluated, predicted, weights


OPTIMIZERS = {
    "adam with a schedule": lambda: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5)),
    "sgd, clipped, averaged": lambda: keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.5, use_ema=True),
    "rmsprop, accumulated": lambda: keras.optimizers.RMSprop(gradient_accumulation_steps=2),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("make", "x"), [(perceptron, X), (images, IMAGES), (unbuilt, X)])
def test_launched_steps_equal_eager_ones(gpu, make, x, optimizer):
    model, *found = trained(make, x, OPTIMIZERS[optimizer])
    launches = gpu.names().count("launch")
    _, *expected = trained(make, x, OPTIMIZERS[optimizer], run_eagerly=True)
    assert launches >= 9 + 9 + 4  # training, evaluation, prediction; whole batches and partial ones
    assert gpu.names().count("launch") == launches
    for a, b in zip(leaves_of(found), leaves_of(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_thousand_launches_equal_a_thousand_eager_steps(gpu):
    def weights(**settings):
        keras.utils.set_random_seed(3)
        model = perceptron()
        model.compile("adam", "sparse_categorical_crossentropy", **settings)
        model.fit(on(X), on(LABELS), batch_size=11, epochs=500, verbose=0)
        return [devices.to_numpy(v.array) for v in model.variables + model.optimizer.variables]

    launched = weights()
    assert gpu.names().count("launch") == 1000 - 3  # one before all is built, two before the recording
    for a, b in zip(launched, weights(run_eagerly=True), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(emulator.reason_to_skip() is not None, reason=str(emulator.reason_to_skip()))
@pytest.mark.parametrize(("make", "x"), [(perceptron, X), (images, IMAGES), (unbuilt, X)])
def test_launched_steps_of_cuda_c_equal_eager_ones(gpu_with_kernels, make, x):
    optimizer = OPTIMIZERS["adam with a schedule"]
    _, *found = trained(make, x, optimizer)
    assert gpu_with_kernels.names().count("launch") >= 22
    _, *expected = trained(make, x, optimizer, run_eagerly=True)
    for a, b in zip(leaves_of(found), leaves_of(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def transformer():
    inputs = keras.Input((12,))
    z = layers.Embedding(9, 8)(layers.Lambda(lambda x: ops.cast(ops.minimum(ops.abs(x) * 3, 8), "int32"))(inputs))
    z = layers.LayerNormalization()(z + layers.MultiHeadAttention(2, 4)(z, z, use_causal_mask=True))
    z = z + layers.Dense(8)(layers.Dense(12, activation="gelu")(z))
    return keras.Model(inputs, layers.Dense(3, "softmax", dtype="float32")(layers.GlobalAveragePooling1D()(z)))


@pytest.mark.skipif(emulator.reason_to_skip() is not None, reason=str(emulator.reason_to_skip()))
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("make", [perceptron, transformer])
def test_launched_steps_of_mixed_precision_equal_eager_ones(gpu_with_kernels, make, policy):
    keras.config.set_dtype_policy(policy)

    def optimizer():
        if policy == "mixed_bfloat16":
            return keras.optimizers.Adam(0.01)
        # Too large a scale at first, and soon again: steps are left out, launched ones among them.
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), 2.0**22, dynamic_growth_steps=3)

    model, *found = trained(make, X, optimizer)
    assert gpu_with_kernels.names().count("launch") >= 22
    _, *expected = trained(make, X, optimizer, run_eagerly=True)
    for a, b in zip(leaves_of(found), leaves_of(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    steps, done = 15, model.optimizer.iterations.numpy()
    assert steps // 3 < done < steps - 3 if policy == "mixed_float16" else done == steps


def leaves_of(structure):
    if isinstance(structure, dict):
        return [leaf for name in structure for leaf in leaves_of(structure[name])]
    if isinstance(structure, (list, tuple)):
        return [leaf for item in structure for leaf in leaves_of(item)]
    return [structure]


def test_a_launch_runs_no_python_of_the_model(gpu):
    calls = []

    class Counting(layers.Layer):
        def call(self, x):
            calls.append(x)
            return x * 2.0

    model = keras.Sequential([keras.Input((12,)), Counting(), layers.Dense(3)])
    model.compile("sgd", "mse")
    calls.clear()
    model.fit(on(X), on(X[:, :3]), batch_size=22, epochs=6, verbose=0)
    assert len(calls) < model.optimizer.iterations.numpy() == 6


class TestWhatCannotBeRecorded:
    def trained(self, activation):
        model = keras.Sequential([keras.Input((12,)), layers.Dense(3, activation=activation)])
        model.compile("sgd", "mse")
        model.fit(on(X), on(X[:, :3]), batch_size=22, epochs=6, verbose=0)
        return model

    def test_runs_eagerly_and_says_which_line_is_to_blame(self, gpu):
        def reading(x):
            return x * float(ops.max(x)) if isinstance(x, keras.ops.convert_to_tensor(0.0).__class__) else x

        with pytest.warns(
            UserWarning, match="train step of 'sequential.*' runs without a CUDA graph: .*capturing"
        ) as caught:
            model = self.trained(reading)
        assert len(caught) == 1 and caught[0].filename == __file__  # the line that called the library
        assert f"reading, line {reading.__code__.co_firstlineno + 1} of {__file__}" in str(caught[0].message)
        assert model.optimizer.iterations.numpy() == 6
        assert not gpu.live_pools

    def test_is_undone_as_ever_when_it_fails_right_after_the_recording(self, gpu):
        calls = []

        def failing(x):
            calls.append(x)
            if len(calls) == 5:  # the eager run of the step whose recording, call 4, has failed
                raise ZeroDivisionError
            return x * float(ops.max(x)) if len(calls) == 4 else ops.tanh(x)

        layer = layers.BatchNormalization()
        model = keras.Sequential([keras.Input((12,)), layer, layers.Dense(3, activation=failing)])
        model.compile("sgd", "mse")
        calls.clear()
        x, y = on(X), on(X[:, :3])
        for _ in range(3):
            model.train_on_batch(x, y)
        before = devices.to_numpy(layer.moving_mean.array)
        with pytest.raises(ZeroDivisionError):
            model.train_on_batch(x, y)
        np.testing.assert_array_equal(devices.to_numpy(layer.moving_mean.array), before)

    def test_is_not_recorded_where_compile_says_so(self, gpu):
        for settings in ({"jit_compile": False}, {"run_eagerly": True}):
            model = perceptron()
            model.compile("sgd", "sparse_categorical_crossentropy", **settings)
            model.fit(on(X), on(LABELS), batch_size=11, epochs=4, verbose=0)
        assert "begin_capture" not in gpu.names()

    def test_is_told_of_once_for_all_kinds_and_sizes_of_steps(self, gpu):
        model = keras.Sequential([keras.Input((12,)), layers.Dense(3, activation=lambda x: x * read_if_tensor(x))])
        model.compile("sgd", "mse")
        x, y = on(X), on(X[:, :3])
        with pytest.warns(UserWarning, match="runs without a CUDA graph") as caught:
            model.fit(x, y, batch_size=8, epochs=6, verbose=0, validation_data=(x, y), validation_batch_size=4)
        assert [str(w.message).partition(":")[0] for w in caught] == [str(caught[0].message).partition(":")[0]]

    @pytest.mark.parametrize(
        ("result", "reason"),
        [(lambda y: float(ops.max(y)), "capturing"), (lambda y: 0.5, "a float is among its results")],
    )
    def test_metrics_of_the_users_own(self, gpu, result, reason):
        model = with_metrics_of_its_own(result)
        with pytest.warns(UserWarning, match=f"runs without a CUDA graph: .*{reason}") as caught:
            history = model.fit(on(X), on(X[:, :3]), batch_size=22, epochs=6, verbose=0)
        assert len(caught) == 1 and len(history.history["largest"]) == 6

    def test_a_learning_rate_that_a_function_gives_is_asked_for_at_every_step(self, gpu):
        def weights(**settings):
            keras.utils.set_random_seed(1)
            rates = iter([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
            model = perceptron()
            model.compile(keras.optimizers.SGD(lambda: next(rates)), "sparse_categorical_crossentropy", **settings)
            model.fit(on(X), on(LABELS), batch_size=22, epochs=6, verbose=0)
            assert next(rates, None) is None
            return model.get_weights()

        with pytest.warns(UserWarning, match="learning_rate is a function, .* LearningRateSchedule") as caught:
            found = weights()
        assert len(caught) == 1
        for a, b in zip(found, weights(run_eagerly=True), strict=True):
            np.testing.assert_array_equal(a, b)


class OwnSteps(keras.Sequential):
    """Steps of the user's own: one that does all itself, two that leave it to the library's."""

    def train_step(self, data):
        x, y = data
        with keras.GradientTape() as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}

    def test_step(self, data):
        return super().test_step(data)

    def predict_step(self, data):
        return super().predict_step(data)


def test_steps_of_the_users_own_are_told_of_where_they_run_eagerly(gpu):
    model = OwnSteps([keras.Input((12,)), layers.Dense(3)])
    model.compile("sgd", "mse")
    x, y = on(X), on(X[:, :3])
    with pytest.warns(
        UserWarning, match=r"OwnSteps.train_step runs without CUDA graphs: .* super\(\).train_step"
    ) as caught:
        model.fit(x, y, batch_size=11, epochs=3, verbose=0)
    assert len(caught) == 1 and not gpu.names().count("launch")
    for _ in range(3):  # without a word
        model.evaluate(x, y, batch_size=11, verbose=0)
        model.predict(x, batch_size=11, verbose=0)
    assert gpu.names().count("launch")


def read_if_tensor(x):
    return float(ops.max(x)) if hasattr(x, "array") else 1.0


def with_metrics_of_its_own(result):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(x)

        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            return {"largest": result(y_pred)}

    model = Own()
    model.compile("sgd", "mse")
    return model


def test_metrics_of_the_users_own_are_recorded(gpu):
    def found(**settings):
        keras.utils.set_random_seed(1)
        model = with_metrics_of_its_own(ops.max)
        model.run_eagerly = settings.get("run_eagerly", False)
        return model.fit(on(X), on(X[:, :3]), batch_size=22, epochs=6, verbose=0, shuffle=False).history["largest"]

    largest = found()
    assert gpu.names().count("launch") == 3
    assert largest == found(run_eagerly=True) and len(set(largest)) == 6


STOPPING = keras.optimizers.schedules.PiecewiseConstantDecay([1000], [0.0, 0.0])


class TestChanges:
    """A graph is recorded anew after anything has changed that it depends on, and the old one is freed."""

    def model(self):
        keras.utils.set_random_seed(1)
        model = perceptron()
        model.compile(keras.optimizers.SGD(0.1, weight_decay=0.01), "sparse_categorical_crossentropy")
        self.fit(model)
        return model

    def fit(self, model):
        model.fit(on(X), on(LABELS), batch_size=22, epochs=4, verbose=0, shuffle=False)

    @pytest.mark.parametrize(
        "change",
        [
            lambda model: setattr(model.layers[0].kernel, "trainable", False),
            lambda model: setattr(model.layers[0], "activation", keras.activations.tanh),
            lambda model: setattr(model.optimizer, "weight_decay", 0.5),
            lambda model: setattr(model.optimizer, "learning_rate", 0.9),
            lambda model: model.set_weights([w * 0.5 for w in model.get_weights()]),
            lambda model: setattr(model.optimizer, "learning_rate", STOPPING),
            lambda model: model.optimizer.exclude_from_weight_decay(var_names=["kernel"]),
            lambda model: (setattr(model.optimizer, "weight_decay", None), setattr(model.optimizer, "clipnorm", 0.01)),
        ],
    )
    def test_are_followed(self, gpu, change):
        model, other = self.model(), self.model()
        for changed in (model, other):
            change(changed)
        other.run_eagerly = True
        self.fit(model)
        self.fit(other)
        for a, b in zip(model.variables, other.variables, strict=True):
            np.testing.assert_array_equal(devices.to_numpy(a.array), devices.to_numpy(b.array))

    @pytest.mark.parametrize(
        ("set_to", "is_set_to", "value"),
        [
            (keras.config.set_epsilon, keras.config.epsilon, 0.3),
            (keras.config.enable_tf32, keras.config.is_tf32_enabled, False),
            (keras.config.enable_cudnn, keras.config.is_cudnn_enabled, False),
        ],
    )
    def test_of_settings_of_the_process_are_followed(self, gpu, set_to, is_set_to, value):
        model, other = self.model(), self.model()
        other.run_eagerly = True
        (graph,) = captures.graphs_of(model)
        before = is_set_to()
        set_to(value)
        try:
            self.fit(model)
            self.fit(other)
        finally:
            set_to(before)
        assert graph.graph is None  # dropped
        for a, b in zip(model.variables, other.variables, strict=True):
            np.testing.assert_array_equal(devices.to_numpy(a.array), devices.to_numpy(b.array))

    def test_of_other_models_drop_no_graph(self, gpu):
        model = self.model()
        (graph,) = captures.graphs_of(model)
        other = perceptron()
        other.layers[0].activation = keras.activations.tanh
        self.fit(model)
        assert captures.graphs_of(model) == [graph] and graph.graph is not None

    def test_that_a_step_makes_itself_drop_no_graph(self, gpu):
        class Noting(layers.Layer):
            calls = 0

            def call(self, x):
                self.calls += 1
                self.seen = x
                return ops.tanh(x)

        def trained(**settings):
            keras.utils.set_random_seed(1)
            noting = Noting()
            model = keras.Sequential([keras.Input((12,)), noting, layers.Dense(3, "softmax")])
            model.compile("adam", "sparse_categorical_crossentropy", **settings)
            noting.calls = 0
            model.fit(on(X), on(LABELS), batch_size=11, epochs=6, verbose=0)
            return noting.calls, model.get_weights()

        calls, weights = trained()
        assert calls == 4 and gpu.names().count("launch") == 12 - 3  # as wherever Keras compiles
        calls, expected = trained(run_eagerly=True)
        assert calls == 12
        for a, b in zip(weights, expected, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_before_every_step_are_told_of(self, gpu):
        model = self.model()
        layer = model.layers[0]

        class Setting(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                layer.noise = batch

        with pytest.warns(UserWarning, match=f"'noise' of Dense '{layer.name}' was set") as caught:
            model.fit(on(X), on(LABELS), batch_size=2, epochs=2, verbose=0, callbacks=[Setting()])
        assert len(caught) == 1

    def test_of_a_wrapped_optimizer_are_followed(self, gpu):
        def weights(**settings):
            keras.utils.set_random_seed(1)
            model = perceptron()
            inner = keras.optimizers.SGD(0.1, weight_decay=0.01)
            optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
            model.compile(optimizer, "sparse_categorical_crossentropy", **settings)
            self.fit(model)
            inner.weight_decay = 0.5
            self.fit(model)
            return model.get_weights()

        for a, b in zip(weights(), weights(run_eagerly=True), strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize(
        "change",
        [
            lambda optimizer: setattr(optimizer, "learning_rate", STOPPING),
            lambda optimizer: setattr(optimizer._learning_rate, "initial_learning_rate", 0.0),
        ],
    )
    def test_of_a_schedule_are_followed(self, gpu, change):
        model = perceptron()
        schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 100, 0.9)
        model.compile(keras.optimizers.SGD(schedule), "sparse_categorical_crossentropy")
        self.fit(model)
        before = model.layers[0].kernel.numpy()
        change(model.optimizer)
        self.fit(model)
        np.testing.assert_array_equal(model.layers[0].kernel.numpy(), before)

    def test_free_the_graphs_of_before(self, gpu):
        model = self.model()
        (graph,) = captures.graphs_of(model)
        assert graph.graph is not None
        model.layers[0].activation = keras.activations.tanh
        self.fit(model)
        assert graph.graph is None and graph.function is None


def test_at_most_eight_graphs_are_kept(gpu):
    model = perceptron()
    model.compile("sgd", "sparse_categorical_crossentropy")
    for rows in range(2, 14):
        model.fit(on(X[:rows]), on(LABELS[:rows]), batch_size=rows, epochs=12, verbose=0)
    assert len(captures.graphs_of(model)) == 8


def test_more_shapes_in_turn_than_graphs_are_kept(gpu):
    """Eight of them have graphs, and the user is told of the others."""
    model = perceptron()
    model.compile("sgd", "sparse_categorical_crossentropy")
    sizes = range(2, 12)
    with pytest.warns(UserWarning, match="batches of more than 8 shapes or kinds in turn") as caught:
        for _ in range(6):
            for rows in sizes:
                model.train_on_batch(on(X[:rows]), on(LABELS[:rows]))
    assert len(caught) == 1
    assert gpu.names().count("launch") >= 8 * 2
    assert model.optimizer.iterations.numpy() == 60


def test_a_shape_used_long_ago_makes_room(gpu):
    model = perceptron()
    model.compile("sgd", "sparse_categorical_crossentropy")
    for rows in range(2, 12):
        for _ in range(40):
            model.train_on_batch(on(X[:rows]), on(LABELS[:rows]))
    assert len(captures.graphs_of(model)) == 8 and all(graph.graph for graph in captures.graphs_of(model))


@pytest.mark.parametrize("jit_compile", ["auto", True])
def test_what_a_layer_reads_is_never_frozen(gpu, jit_compile):
    class Reading(layers.Layer):
        def call(self, x):
            return x * float(ops.max(x)) if hasattr(x, "array") else x

    def weights(**settings):
        keras.utils.set_random_seed(2)
        model = keras.Sequential([keras.Input((12,)), Reading(), layers.Dense(3, "softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy", **settings)
        model.fit(on(X), on(LABELS), batch_size=4, epochs=2, verbose=0)
        return model.get_weights()

    with pytest.warns(UserWarning, match="runs without a CUDA graph: .*capturing"):
        found = weights(jit_compile=jit_compile)
    for a, b in zip(found, weights(run_eagerly=True), strict=True):
        np.testing.assert_array_equal(a, b)


def test_predictions_stay_as_they_are_when_the_graph_runs_again(gpu):
    model = perceptron()
    found = [model.predict(on(X * k), verbose=0, batch_size=22) for k in range(1, 6)]
    kept = [devices.to_numpy(y) for y in found]
    model.predict(on(X * 9), verbose=0, batch_size=22)
    for y, before in zip(found, kept, strict=True):
        np.testing.assert_array_equal(devices.to_numpy(y), before)
    assert gpu.names().count("launch") >= 3


def test_a_model_of_two_inputs_and_outputs(gpu):
    a, b = keras.Input((12,), name="a"), keras.Input((12,), name="b")
    shared = layers.Dense(4, activation="tanh")
    model = keras.Model({"a": a, "b": b}, [layers.Dense(1)(shared(a)), layers.Dense(2)(shared(b))])
    model.compile("adam", "mse")
    x, y = {"a": on(X), "b": on(-X)}, [on(X[:, :1]), on(X[:, :2])]
    losses = model.fit(x, y, batch_size=22, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert gpu.names().count("launch") >= 3


def test_a_step_out_of_memory_is_tried_again(gpu, monkeypatch):
    calls = []

    def failing(x):
        calls.append(x)
        if len(calls) == 4:
            raise MemoryError("Unable to allocate")
        return ops.tanh(x)

    model = keras.Sequential([keras.Input((12,)), layers.Dense(3, activation=failing)])
    model.compile("sgd", "mse", jit_compile="auto")
    calls.clear()
    calls.append(None)
    model.fit(on(X), on(X[:, :3]), batch_size=11, epochs=3, verbose=0, shuffle=False)
    assert model.optimizer.iterations.numpy() == 6
