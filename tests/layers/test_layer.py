import numpy as np
import pytest

import gpukeras as keras
from gpukeras import layers, ops
from gpukeras.autograd.scope import setting
from gpukeras.autograd.tape import Tape
from tests.helpers import assert_close

X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")


class SimpleDense(layers.Layer):
    """The seed chapter's layer: nothing but weights and a forward call."""

    def __init__(self, units, activation=None):
        super().__init__()
        self.units = units
        self.activation = activation

    def build(self, input_shape):
        input_dim = input_shape[-1]
        self.W = self.add_weight(shape=(input_dim, self.units), initializer="random_normal")
        self.b = self.add_weight(shape=(self.units,), initializer="zeros")

    def call(self, inputs):
        y = ops.matmul(inputs, self.W) + self.b
        if self.activation is not None:
            y = self.activation(y)
        return y


def test_a_layer_with_a_forward_call_only_trains(device):
    model = keras.Sequential([SimpleDense(8, ops.relu), SimpleDense(1)])
    model.compile(keras.optimizers.Adam(0.03), "mse")
    x = np.random.default_rng(0).normal(size=(64, 3))
    y = x.sum(1, keepdims=True)
    losses = model.fit(x, y, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


def test_numpy_functions_in_call_record_and_train(device):
    class NumpyDense(layers.Layer):
        def build(self, input_shape):
            self.w = self.add_weight(shape=(input_shape[-1], 5))
            self.b = self.add_weight(shape=(5,), initializer="zeros")

        def call(self, x):
            return np.mean(np.maximum(x @ self.w + self.b, 0), axis=-1, keepdims=True)

    model = keras.Sequential([NumpyDense()])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = None
    model.fit(X, X[:, :1], verbose=0)
    before = model.get_weights()
    model.fit(X, X[:, :1], verbose=0)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, model.get_weights(), strict=True))


def test_build_is_deferred_and_runs_once():
    calls = []

    class Counting(layers.Layer):
        def build(self, input_shape):
            calls.append(input_shape)
            self.w = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="w")

        def call(self, x):
            return x * self.w

    layer = Counting(name="counting")
    assert not layer.built and layer.weights == []
    layer(X)
    layer(X[:2])
    assert calls == [(4, 3)]
    assert layer.w.path == "counting/w"
    with pytest.raises(ValueError, match="is built"):
        layer.another = layers.Dense(1)


def test_nested_layers_lists_and_dictionaries_are_tracked():
    class Nest(layers.Layer):
        def __init__(self):
            super().__init__()
            self.first = layers.Dense(2)
            self.blocks = [layers.Dense(2), layers.Dense(2)]
            self.named = {"last": layers.Dense(1)}
            self.pair = (layers.Dense(2),)

        def call(self, x):
            x = self.first(x)
            for block in self.blocks:
                x = block(x)
            return self.named["last"](self.pair[0](x))

    layer = Nest()
    layer.blocks.append(layers.Dense(2))
    layer(X)
    assert len(layer._layers) == 6
    assert len(layer.trainable_weights) == 12
    assert layer.count_params() == sum(w.size for w in layer.weights)
    layer.trainable = False
    assert layer.trainable_weights == [] and len(layer.non_trainable_weights) == 12
    assert not layer.blocks[0].kernel.trainable
    layer.trainable = True
    assert len(layer.trainable_weights) == 12


def test_training_flag_reaches_inner_layers():
    seen = []

    class Inner(layers.Layer):
        def call(self, x, training=None):
            seen.append(training)
            return x

    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def call(self, x):
            return self.inner(x)

    outer = Outer()
    outer(X)  # the first call also traces, to build what is inside
    seen.clear()
    outer(X)
    outer(X, training=True)
    outer(X)
    outer(X, training=False)
    assert seen == [None, True, None, False]


def test_masks_travel_from_layer_to_layer():
    seen = []

    class Watch(layers.Layer):
        def __init__(self):
            super().__init__()
            self.supports_masking = True

        def call(self, x, mask=None):
            seen.append(None if mask is None else np.asarray(mask))
            return x

    tokens = np.array([[1, 2, 0], [3, 0, 0]])
    y = Watch()(layers.Embedding(5, 2, mask_zero=True)(tokens))
    np.testing.assert_array_equal(seen[0], tokens != 0)
    np.testing.assert_array_equal(y._keras_mask, tokens != 0)


def test_a_layer_that_does_not_support_masks_warns():
    class Plain(layers.Layer):
        def call(self, x):
            return x * 1.0

    with pytest.warns(UserWarning, match="does not support masking"):
        Plain()(layers.Embedding(5, 2, mask_zero=True)(np.array([[1, 0]])))


def test_losses_from_regularizers_activity_and_add_loss():
    class Penalized(layers.Layer):
        def call(self, x):
            self.add_loss(ops.sum(x) * 0.1)
            return x

    dense = layers.Dense(2, kernel_regularizer="l2")
    model = keras.Sequential([Penalized(), dense])
    model(X)
    assert len(model.losses) == 2
    assert_close(model.losses[0], np.float32(X.sum() * 0.1))
    assert_close(model.losses[1], 0.01 * np.square(dense.kernel.numpy()).sum())


def test_dtype_policies_and_autocast():
    layer = layers.Dense(2, dtype="mixed_float16")
    y = layer(X)
    assert y.dtype == "float16" and layer.kernel.dtype == "float32" and layer.compute_dtype == "float16"
    with Tape() as tape:
        y = layer(X)
    (d, _) = tape.gradients([(y, np.ones(y.shape, "float16"))], layer.trainable_variables)
    assert d.dtype == np.float32
    assert layers.Dense(2, dtype="float64")(X).dtype == "float64"
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert layers.Dense(1)(X).dtype.name == "bfloat16"
    finally:
        keras.config.set_dtype_policy(None)


def test_weights_are_assigned_in_place():
    layer = layers.Dense(2)
    layer(X)
    memory = layer.kernel.array
    layer.set_weights([np.ones((3, 2)), np.zeros(2)])
    assert layer.kernel.array is memory
    copies = layer.get_weights()
    copies[0][...] = 7
    assert layer.kernel.numpy().max() == 1
    value = layer.kernel.value
    layer.kernel.assign(np.zeros((3, 2)))
    assert np.asarray(value).max() == 1


def test_config_round_trip_and_user_layers():
    layer = layers.Dense(3, activation="relu", name="d", kernel_regularizer="l2")
    again = layers.Dense.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    with pytest.raises(TypeError, match="wrong"):
        layers.Dense.from_config({"wrong": 1})

    class Stored(layers.Layer):
        def __init__(self, size, **kwargs):
            super().__init__(**kwargs)
            self._hidden_elsewhere = size * 2

    assert Stored(5, name="s").get_config()["size"] == 5


def test_compute_output_shape_by_tracing():
    class Odd(layers.Layer):
        def call(self, x):
            return ops.concatenate([x, x], axis=-1)

    assert Odd().compute_output_shape((None, 3)) == (None, 6)
    assert Odd()(keras.Input((5,))).shape == (None, 10)


class TestCallsOfAShapeSeenBefore:
    def test_what_is_set_between_two_calls_holds(self):
        layer = layers.Dense(2)
        layer(X)
        layer.activity_regularizer = keras.regularizers.L2(0.5)
        y = layer(X).numpy()
        assert_close(layer.losses[0].numpy(), 0.5 * np.sum(y**2) / len(y))
        layer.input_spec = keras.InputSpec(shape=(7, 3))
        with pytest.raises(ValueError, match=r"\(7, 3\)"):
            layer(X)

    def test_each_shape_and_mode_is_checked_once(self, monkeypatch):
        layer = layers.Dropout(0.5)
        checked = []
        check = layers.Layer._checked_call
        monkeypatch.setattr(
            layers.Layer, "_checked_call", lambda self, *given: checked.append(given) or check(self, *given)
        )
        with setting(layer=layers.Dense(1)):
            for _ in range(3):
                for x in (X, X[:2]):
                    for training in (True, False):
                        with setting(training=training):
                            layer(ops.convert_to_tensor(x))
        assert len(checked) == 4


class TestBadInput:
    def test_wrong_last_axis_names_layer_and_sizes(self):
        layer = layers.Dense(2, name="dense_1")
        layer(X)
        with pytest.raises(ValueError, match=r"Dense 'dense_1' expected 3 on the last axis.*\(4, 5\).*Flatten"):
            layer(np.ones((4, 5), "float32"))

    def test_wrong_rank(self):
        with pytest.raises(ValueError, match="at least 2 axes"):
            layers.Dense(2)(np.ones(3, "float32"))

    def test_forgotten_super_init(self):
        class Forgot(layers.Layer):
            def __init__(self):
                self.units = 3

            def call(self, x):
                return x

        with pytest.raises(RuntimeError, match=r"super\(\).__init__"):
            Forgot()(X)

    def test_unknown_arguments_and_names(self):
        with pytest.raises(ValueError, match="unknown arguments"):
            layers.Dense(2, colour="red")
        with pytest.raises(ValueError, match="relu"):
            layers.Dense(2, activation="rellu")
        with pytest.raises(ValueError, match="glorot_uniform"):
            layers.Dense(2, kernel_initializer="glorot_unifrom")

    def test_bad_units(self):
        for units in (0, -1, 2.5, "3", True):
            with pytest.raises(ValueError, match="units"):
                layers.Dense(units)

    def test_not_supported_arguments_are_named(self):
        with pytest.raises(NotImplementedError, match="lora_rank"):
            layers.Dense(2, lora_rank=4)

    def test_settings_by_position(self):
        with pytest.raises(ValueError, match="by keyword"):
            layers.Dropout(0.5)(X, "yes")

    def test_set_weights_checks_before_it_writes(self):
        layer = layers.Dense(2)
        layer(X)
        before = layer.get_weights()
        with pytest.raises(ValueError, match="has 2 weights"):
            layer.set_weights([np.ones((3, 2))])
        with pytest.raises(ValueError, match=r"\(5,\)"):
            layer.set_weights([np.ones((3, 2)), np.ones(5)])
        for a, b in zip(before, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_text_as_input(self):
        with pytest.raises(TypeError, match="not numeric"):
            layers.Dense(2)(np.array([["a", "b"]]))

    def test_count_params_before_building(self):
        with pytest.raises(ValueError, match="before it is built"):
            layers.Dense(2).count_params()

    def test_call_not_defined(self):
        with pytest.raises(NotImplementedError, match="defines no call"):
            layers.Layer()(X)

    def test_embedding_index_out_of_range(self):
        with pytest.raises(IndexError, match=r"Embedding 'e' has 5 rows, so indices must lie in 0..4"):
            layers.Embedding(5, 2, name="e")(np.array([[7]]))

    def test_messages_of_a_stack_name_the_stack(self):
        with pytest.raises(ValueError, match="Sequential 'stack' expected shape"):
            keras.Sequential([keras.Input((3,)), layers.Dense(1)], name="stack")(np.ones((2, 5)))


def test_the_first_parameter_of_call_may_have_any_name(rng):
    x = rng.normal(size=(2, 3)).astype("float32")

    class Named(keras.layers.Layer):
        def call(this, x, training=False):  # noqa: N805
            return x * (2.0 if training else 3.0)

    class Variadic(keras.layers.Layer):
        def call(*arguments, scale=3.0):
            return arguments[1] * scale

    class Static(keras.layers.Layer):
        @staticmethod
        def call(self):  # which here is the input
            return self * 3.0

    for kind in (Named, Variadic, Static):
        assert_close(kind()(x), x * 3.0)
        assert_close(keras.Sequential([keras.Input((3,)), kind()]).predict(x, verbose=0), x * 3.0)
    assert_close(Named()(x, training=True), x * 2.0)
