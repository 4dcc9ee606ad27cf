"""Files cross in both directions: Keras loads models saved here, and Keras's are loaded here."""

import io
import json
import zipfile

import h5py
import numpy as np
import pytest

import gpukeras
from tests.helpers import assert_close
from tests.oracle import keras as oracle_keras

pytestmark = [
    pytest.mark.oracle,
    # What Keras itself warns about while it saves and loads.
    pytest.mark.filterwarnings("ignore:.*:UserWarning:keras"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning:keras"),
]

LIBRARIES = {"gpukeras": gpukeras, "keras": oracle_keras}
DIRECTIONS = [("gpukeras", "keras"), ("keras", "gpukeras")]


# --- Models, made by either library ---------------------------------------------------------------


def sequential(keras):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu"), keras.layers.Dense(2)]), [
        (5, 4)
    ]


def sequential_without_input(keras):
    model = keras.Sequential([keras.layers.Dense(3, activation="tanh"), keras.layers.Dense(2)])
    model.build((None, 4))
    return model, [(5, 4)]


def two_inputs_two_outputs(keras):
    a, b = keras.Input((3,), name="a"), keras.Input((4,), name="b")
    x = keras.layers.Concatenate()([keras.layers.Dense(5)(a), keras.layers.Dense(6)(b)])
    outputs = {
        "first": keras.layers.Dense(2, name="first")(x),
        "second": keras.layers.Dense(1, name="second")(x),
    }
    return keras.Model([a, b], list(outputs.values())), [(5, 3), (5, 4)]


def shared_layer(keras):
    a, b = keras.Input((3,)), keras.Input((3,))
    shared = keras.layers.Dense(4, activation="sigmoid")
    x = keras.layers.Subtract()([shared(a), shared(b)])
    return keras.Model([a, b], keras.layers.Dense(1)(x)), [(5, 3), (5, 3)]


def nested(keras):
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(4)])
    i = keras.Input((4,))
    middle = keras.Model(i, keras.layers.Dense(4)(inner(i)))
    j = keras.Input((4,))
    head = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(2)])
    x = keras.layers.Add()([middle(j), middle(middle(j))])
    ending = keras.Model(k := keras.Input((2,)), keras.layers.Dense(3)(k))
    return keras.Model(j, ending(head(x))), [(5, 4)]


def ops_in_the_graph(keras):
    ops = keras.ops
    i = keras.Input((4, 6))
    x = keras.layers.Dense(6)(i)
    x = ops.relu(x + i * 2.0 - 0.5) / 3.0
    x = ops.concatenate([x, ops.mean(x, axis=-1, keepdims=True)], axis=-1)
    x = ops.transpose(x, (0, 2, 1))[:, 1:, ::2]
    x = ops.reshape(x, (-1, 12))
    x = ops.where(x > 0.1, x, ops.sum(x, axis=1, keepdims=True))
    x = ops.clip(x, -1.0, 1.0)
    first, second = ops.split(x, 2, axis=1)
    x = ops.stack([first, ops.exp(-second)], axis=1)
    x = ops.matmul(x, ops.transpose(x, (0, 2, 1)))
    return keras.Model(i, ops.softmax(ops.squeeze(ops.expand_dims(x, 1), 1), axis=-1)), [(5, 4, 6)]


def convolutions(keras):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.SeparableConv2D(6, 3),
            layers.Conv2DTranspose(2, 2, strides=2),
            layers.GlobalAveragePooling2D(),
        ]
    ), [(2, 8, 8, 3)]


def normalizations(keras):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 4)),
            layers.LayerNormalization(),
            layers.GroupNormalization(2),
            layers.UnitNormalization(),
            layers.BatchNormalization(scale=False),
            layers.RMSNormalization(),
        ]
    ), [(3, 6, 4)]


def recurrent(keras):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((5, 3)),
            layers.LSTM(4, return_sequences=True),
            layers.Bidirectional(layers.GRU(3, return_sequences=True)),
            layers.Bidirectional(layers.LSTM(3, return_sequences=True), merge_mode="sum"),
            layers.SimpleRNN(3, return_sequences=True),
            layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)]),
        ]
    ), [(2, 5, 3)]


def embedding_and_attention(keras):
    layers = keras.layers
    i = keras.Input((6,), dtype="int32")
    x = layers.Embedding(10, 8)(i)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    x = layers.GroupQueryAttention(4, 4, 2)(x, x)
    x = layers.TimeDistributed(layers.Dense(3, activation="gelu"))(x)
    return keras.Model(i, layers.GlobalMaxPooling1D()(x)), [(3, 6)]


def random_layers(keras):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5),
            layers.GaussianNoise(0.1),
            layers.Dropout(0.5, seed=3),
            layers.Dense(2),
        ]
    ), [(3, 6)]


def wrapped_and_shared(keras):
    layers = keras.layers
    dense = layers.Dense(4)
    i = keras.Input((3, 4))
    x = layers.TimeDistributed(dense)(i)
    return keras.Model(i, layers.Add()([x, dense(i)])), [(2, 3, 4)]


def advanced_activations(keras):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((5, 4)),
            layers.Dense(4),
            layers.PReLU(shared_axes=[1]),
            layers.LeakyReLU(negative_slope=0.2),
            layers.EinsumDense("abc,cd->abd", (5, 3), bias_axes="d"),
            layers.Softmax(),
            layers.Reshape((3, 5)),
        ]
    ), [(2, 5, 4)]


MODELS = [
    sequential,
    sequential_without_input,
    two_inputs_two_outputs,
    shared_layer,
    nested,
    ops_in_the_graph,
    convolutions,
    normalizations,
    recurrent,
    embedding_and_attention,
    random_layers,
    advanced_activations,
]


# --- Helpers --------------------------------------------------------------------------------------


def data(model, shapes, rng):
    """A batch for each input of the model."""
    batches = []
    for tensor, shape in zip(model.inputs, shapes, strict=True):
        is_integer = str(tensor.dtype).startswith("int")
        batches.append(
            rng.integers(0, 10, shape, dtype="int32") if is_integer else rng.normal(size=shape).astype("float32")
        )
    return batches[0] if len(batches) == 1 else batches


def outputs(model, x):
    y = model(x, training=False)
    return [np.asarray(part) for part in (y if isinstance(y, (list, tuple)) else [y])]


def randomize(model, rng):
    """Weights unlike the initial ones, so that none is right by accident."""
    model.set_weights([rng.uniform(0.1, 0.6, w.shape).astype(w.dtype) for w in model.get_weights()])


def weight_file(path):
    """Every array of a file by its place, random states left out, which Keras does not save."""
    source = path
    if str(path).endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            source = io.BytesIO(archive.read("model.weights.h5"))
    found = {}
    with h5py.File(source) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if hasattr(item, "shape") else {}))
    return {name: array for name, array in found.items() if "seed_generator" not in name}


# --- Whole models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
@pytest.mark.parametrize(("writer", "reader"), DIRECTIONS)
def test_a_saved_model_predicts_the_same_in_the_other_library(make, writer, reader, tmp_path, rng):
    model, shapes = make(LIBRARIES[writer])
    randomize(model, rng)
    model.save(tmp_path / "model.keras")
    loaded = LIBRARIES[reader].saving.load_model(tmp_path / "model.keras")
    x = data(model, shapes, rng)
    for actual, expected in zip(outputs(loaded, x), outputs(model, x), strict=True):
        assert_close(actual, expected, dtype="float32")


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_files_have_the_same_layout(make, tmp_path, rng):
    made = {}
    for name, keras in LIBRARIES.items():
        model, _ = make(keras)
        randomize(model, rng)
        model.save(tmp_path / f"{name}.keras")
        made[name] = {key: a.shape for key, a in weight_file(tmp_path / f"{name}.keras").items()}
    assert made["gpukeras"] == made["keras"]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
@pytest.mark.parametrize(("writer", "reader"), DIRECTIONS)
def test_json_makes_the_same_model_in_the_other_library(make, writer, reader, rng):
    model, shapes = make(LIBRARIES[writer])
    randomize(model, rng)
    made = LIBRARIES[reader].models.model_from_json(model.to_json())
    made.set_weights([np.asarray(w) for w in model.get_weights()])
    x = data(model, shapes, rng)
    for actual, expected in zip(outputs(made, x), outputs(model, x), strict=True):
        assert_close(actual, expected, dtype="float32")


def test_keras_shares_a_layer_that_occurs_twice_in_a_file(tmp_path, rng):
    # Only in this direction: in its own files Keras 3.15 loses the mark of the first occurrence.
    model, shapes = wrapped_and_shared(gpukeras)
    model.save(tmp_path / "model.keras")
    loaded = oracle_keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.weights) == len(model.weights) == 2
    x = data(model, shapes, rng)
    assert_close(outputs(loaded, x)[0], outputs(model, x)[0], dtype="float32")


# --- Subclassed models, by their weights ----------------------------------------------------------


def subclassed(keras):
    layers = keras.layers

    class Block(layers.Layer):
        def __init__(self):
            super().__init__()
            self.stack = [layers.Dense(4), [layers.Dense(4), layers.BatchNormalization()]]
            self.named = {"one": layers.Dense(4), "two": layers.Dense(4)}

        def build(self, input_shape):
            self.scale = self.add_weight(shape=(4,), initializer="ones", name="scale")
            for layer in (self.stack[0], *self.stack[1], *self.named.values()):
                layer.build((None, 4))

        def call(self, x):
            x = self.stack[1][1](self.stack[1][0](self.stack[0](x)))
            return self.named["two"](self.named["one"](x)) * self.scale

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder = layers.Dense(4)
            self.zeta = layers.Dense(2)
            self._hidden = layers.Dense(4)
            self.blocks = [Block(), Block()]
            self.head = keras.Sequential([layers.Dense(3), self.zeta])

        def call(self, x):
            x = self._hidden(self.encoder(x))
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    model = Net()
    model(np.zeros((1, 3), "float32"))
    return model


@pytest.mark.parametrize(("writer", "reader"), DIRECTIONS)
def test_weights_of_a_subclassed_model_cross(writer, reader, tmp_path, rng):
    model, other = subclassed(LIBRARIES[writer]), subclassed(LIBRARIES[reader])
    randomize(model, rng)
    model.save_weights(tmp_path / "net.weights.h5")
    other.load_weights(tmp_path / "net.weights.h5")
    x = rng.normal(size=(5, 3)).astype("float32")
    assert_close(outputs(other, x)[0], outputs(model, x)[0], dtype="float32")


def test_weight_files_of_a_subclassed_model_have_the_same_layout(tmp_path):
    keys = {}
    for name, keras in LIBRARIES.items():
        subclassed(keras).save_weights(tmp_path / f"{name}.weights.h5")
        keys[name] = set(weight_file(tmp_path / f"{name}.weights.h5"))
    assert keys["gpukeras"] == keys["keras"]


# --- Optimizers and dtypes ------------------------------------------------------------------------

OPTIMIZERS = {
    "adam": lambda keras: keras.optimizers.Adam(0.01),
    "adamw_ema": lambda keras: keras.optimizers.AdamW(0.01, use_ema=True),
    "momentum": lambda keras: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    "plain": lambda keras: keras.optimizers.SGD(0.01),
    "rmsprop": lambda keras: keras.optimizers.RMSprop(0.01, centered=True, momentum=0.5),
    "schedule": lambda keras: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 2, 0.9)),
    "loss_scale": lambda keras: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("writer", "reader"), DIRECTIONS)
def test_a_training_goes_on_in_the_other_library(name, writer, reader, tmp_path, rng):
    keras = LIBRARIES[writer]
    model, _ = sequential(keras)
    randomize(model, rng)
    model.compile(OPTIMIZERS[name](keras), "mse", metrics=["mae"])
    x, y = rng.normal(size=(4, 4)).astype("float32"), rng.normal(size=(4, 2)).astype("float32")
    for _ in range(3):
        model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    loaded = LIBRARIES[reader].saving.load_model(tmp_path / "model.keras")
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    for actual, expected in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        assert_close(np.asarray(actual), np.asarray(expected))
    for _ in range(2):
        model.train_on_batch(x, y)
        loaded.train_on_batch(x, y)
    for actual, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        assert_close(actual, np.asarray(expected), dtype="float32")


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize(("writer", "reader"), DIRECTIONS)
def test_every_policy_crosses(policy, writer, reader, tmp_path, rng):
    keras = LIBRARIES[writer]
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, dtype=policy)])
    randomize(model, rng)
    model.save(tmp_path / "model.keras")
    loaded = LIBRARIES[reader].saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].dtype_policy.name == policy
    for actual, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual.astype("float32"), expected.astype("float32"))


# --- Configs --------------------------------------------------------------------------------------


def some_function(x):
    return x


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        "text",
        1.5,
        [1, (2, "x")],
        {"a": (1,), "b": None},
        b"bytes",
        slice(1, None, 2),
        Ellipsis,
        np.float32(2),
        np.array(3.0),
        np.arange(6, dtype="int16").reshape(2, 3),
        some_function,
        int,
    ],
    ids=lambda value: getattr(value, "__name__", None) or repr(value),  # no addresses: they differ by process
)
def test_values_are_written_as_keras_writes_them(value):
    expected = oracle_keras.saving.serialize_keras_object(value)
    assert gpukeras.saving.serialize_keras_object(value) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda keras: keras.layers.Dense(3, kernel_regularizer="l2", name="d"),
        lambda keras: keras.initializers.RandomNormal(stddev=0.1, seed=3),
        lambda keras: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 10)),
        lambda keras: keras.losses.Huber(delta=2.0),
        lambda keras: keras.metrics.BinaryAccuracy(threshold=0.3),
        lambda keras: keras.DTypePolicy("mixed_float16"),
        lambda keras: keras.random.SeedGenerator(3, name="seeds"),
        lambda keras: keras.ops.convert_to_tensor(np.ones((2,), "float32")),
        lambda keras: keras.Input((3,), name="i"),
        lambda keras: keras.activations.relu,
        lambda keras: keras.losses.mean_squared_error,
    ],
)
def test_objects_are_written_as_keras_writes_them(make):
    for keras in (gpukeras, oracle_keras):
        keras.utils.clear_session()  # both number automatic names by process
    expected = oracle_keras.saving.serialize_keras_object(make(oracle_keras))
    assert gpukeras.saving.serialize_keras_object(make(gpukeras)) == expected


# In the graph of ops, `x / 3` is Divide here and TrueDivide in Keras, and split has indices here.
@pytest.mark.parametrize("make", [m for m in MODELS if m is not ops_in_the_graph], ids=lambda make: make.__name__)
def test_model_configs_are_keras_configs(make):
    def written(keras):
        keras.utils.clear_session()
        return json.loads(make(keras)[0].to_json())

    assert comparable(written(gpukeras)) == comparable(written(oracle_keras))


def comparable(config):
    """A config without the numbers of shared objects, and without Keras's defaults of calls."""
    if isinstance(config, dict):
        if set(config) == {"args", "kwargs"}:
            defaults = {"mask": None, "training": False}
            kept = {k: v for k, v in config["kwargs"].items() if v != defaults.get(k, ...)}
            config = {**config, "kwargs": kept}
        return {key: comparable(v) for key, v in config.items() if key != "shared_object_id"}
    return [comparable(item) for item in config] if isinstance(config, list) else config


def test_every_op_of_the_table_is_a_class_of_keras_with_these_settings():
    import importlib
    import inspect

    from gpukeras.saving import operations

    for name, module in operations._MODULE_OF.items():
        class_name = "".join(part.capitalize() for part in name.split("_"))
        keras_class = getattr(importlib.import_module(module), class_name)
        function = operations._function(name)
        assert function is not None, f"ops.{name} is missing"
        known = inspect.signature(function).parameters
        settings = [
            parameter
            for parameter in inspect.signature(keras_class.__init__).parameters
            if parameter not in ("self", "name", "args", "kwargs")
        ]
        missing = set(settings) - set(known)
        assert not missing, f"ops.{name} lacks {missing}"
