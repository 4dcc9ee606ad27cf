"""Sequential, Functional and subclassed models."""

import copy
import pickle
import threading

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import layers, ops
from tests.helpers import assert_close

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


class TestSequential:
    def test_without_an_input_it_is_built_by_the_first_call(self):
        model = keras.Sequential([layers.Dense(3), layers.Dense(2)])
        assert not model.built and model.weights == []
        with pytest.raises(AttributeError, match="not built"):
            _ = model.input_shape
        assert model(X).shape == (6, 2)
        assert model.input_shape == (None, 4) and model.output_shape == (None, 2)
        assert len(model.weights) == 4

    def test_with_an_input_it_is_built_at_once(self):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
        assert model.built and model.output_shape == (None, 3)
        assert [layer.name for layer in model.layers] == [model.layers[0].name]

    def test_add_and_pop(self):
        model = keras.Sequential()
        model.add(keras.Input((4,)))
        model.add(layers.Dense(3, name="a"))
        model.add(layers.Dense(2, name="b"))
        assert model(X).shape == (6, 2)
        assert model.pop().name == "b"
        assert model(X).shape == (6, 3)
        model.add(layers.Dense(5, name="c"))
        assert model(X).shape == (6, 5) and len(model.weights) == 4

    def test_nested_and_shared(self):
        inner = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
        model = keras.Sequential([keras.Input((4,)), inner, layers.Activation("relu"), layers.Dense(1)])
        assert_close(model(X), model.layers[2](ops.relu(inner(X))))
        assert len(model.weights) == 4

    @pytest.mark.parametrize(
        ("items", "message"),
        [
            ([layers.Dense], "Call it first"),
            (["dense"], "takes layers"),
            ([layers.Dense(1, name="x"), layers.Dense(1, name="x")], "named 'x' already"),
        ],
    )
    def test_bad_entries(self, items, message):
        with pytest.raises(ValueError, match=message):
            keras.Sequential(items)

    def test_bad_shape_names_the_input(self):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
        with pytest.raises(ValueError, match=r"\(None, 4\).*\(6, 5\)|4 on the last axis|expected shape"):
            model(np.ones((6, 5), "float32"))

    def test_config_round_trip(self):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="relu"), layers.Dropout(0.5)])
        again = keras.Sequential.from_config(model.get_config())
        assert again.get_config() == model.get_config()
        assert again.output_shape == (None, 3)


class TestFunctional:
    def make(self):
        a = keras.Input((4,), name="a")
        b = keras.Input((4,), name="b")
        shared = layers.Dense(3, activation="relu", name="shared")
        branch_a, branch_b = shared(a), shared(b)
        merged = layers.Concatenate(name="merged")([branch_a, branch_b])
        residual = layers.Add(name="residual")([layers.Dense(6, name="same")(merged), merged])
        outputs = {"first": layers.Dense(2, name="first")(residual), "sum": branch_a + branch_b}
        return keras.Model({"a": a, "b": b}, outputs)

    def test_branches_heads_residuals_and_shared_layers(self):
        model = self.make()
        outputs = model({"a": X, "b": X * 2})
        assert sorted(outputs) == ["first", "sum"]
        shared = model.get_layer("shared")
        assert_close(outputs["sum"], shared(X).numpy() + shared(X * 2).numpy())
        assert len(model.weights) == 6

    def test_inputs_in_any_structure(self):
        model = self.make()
        expected = model({"a": X, "b": X * 2})["first"]
        assert_close(model([X, X * 2])["first"], expected)
        assert_close(model({"b": X * 2, "a": X})["first"], expected)

    def test_reading_intermediate_outputs(self):
        model = self.make()
        part = keras.Model(model.input, model.get_layer("merged").output)
        assert part([X, X]).shape == (6, 6)
        tail = keras.Model(model.get_layer("merged").output, model.get_layer("residual").output)
        assert tail(np.ones((2, 6), "float32")).shape == (2, 6)
        assert tail.get_layer("same") is model.get_layer("same")

    def test_models_as_layers(self):
        inner_input = keras.Input((4,))
        inner = keras.Model(inner_input, layers.Dense(2)(inner_input), name="inner")
        x = keras.Input((4,))
        outer = keras.Model(x, inner(x) + inner(x * 2.0))
        assert_close(outer(X), inner(X).numpy() + inner(X * 2).numpy())
        assert len(outer.weights) == 2

    def test_config_round_trip(self):
        model = self.make()
        again = keras.Model.from_config(model.get_config())
        assert again.get_config() == model.get_config()
        again.set_weights(model.get_weights())
        assert_close(again([X, X])["first"], model([X, X])["first"])

    def test_ops_and_numpy_functions_in_the_graph(self):
        x = keras.Input((4,))
        y = np.maximum(x @ keras.Variable(np.ones((4, 2), "float32")), 0) + 1.0
        model = keras.Model(x, ops.mean(y, axis=-1))
        assert_close(model(X), np.maximum(X.sum(1), 0) + 1)

    def test_subclass_with_a_functional_constructor(self):
        class Mine(keras.Model):
            def __init__(self, units):
                x = keras.Input((4,))
                super().__init__(inputs=x, outputs=layers.Dense(units)(x))

        assert Mine(3)(X).shape == (6, 3)

    def test_disconnected_graphs_are_named(self):
        a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
        with pytest.raises(ValueError, match="'b'"):
            keras.Model(a, layers.Dense(1)(b))

    def test_bad_inputs(self):
        model = self.make()
        with pytest.raises(ValueError, match=r"needs inputs named"):
            model({"a": X})
        with pytest.raises(ValueError, match="has 2 inputs"):
            model([X])
        with pytest.raises(ValueError, match=r"expected shape \(None, 4\)"):
            model([X, X[:, :3]])
        with pytest.raises(ValueError, match="KerasTensors"):
            keras.Model(X, X)

    def test_unique_names(self):
        x = keras.Input((4,))
        with pytest.raises(ValueError, match="unique"):
            keras.Model(x, layers.Dense(1, name="d")(layers.Dense(1, name="d")(x)))

    def test_a_graph_deeper_than_the_recursion_limit(self):
        x = y = keras.Input((2,))
        for _ in range(1500):
            y = layers.Identity()(y)
        assert_close(keras.Model(x, y)(X[:, :2]), X[:, :2])


class Subclassed(keras.Model):
    def __init__(self, units):
        super().__init__()
        self.units = units
        self.hidden = [layers.Dense(5, activation="tanh") for _ in range(2)]
        self.dropout = layers.Dropout(0.5)
        self.head = layers.Dense(units)

    def call(self, x, training=None):
        for layer in self.hidden:
            x = layer(x)
        return self.head(self.dropout(x, training=training))


def test_subclassed_model():
    model = Subclassed(2)
    model.compile("adam", "mse", metrics=["mae"])
    history = model.fit(X, X[:, :2], epochs=3, verbose=0)
    assert set(history.history) == {"loss", "mae"}
    assert len(model.weights) == 6 and [layer.name for layer in model.layers][-1] == model.head.name
    assert model.predict(X, verbose=0).shape == (6, 2)
    lines = []
    model.summary(print_fn=lines.append)
    assert "dropout" in lines[0]


def test_get_layer_errors():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="hidden")])
    with pytest.raises(ValueError, match="'hidden'"):
        model.get_layer("hiden")
    with pytest.raises(ValueError, match="layer 5"):
        model.get_layer(index=5)
    assert model.get_layer(index=0) is model.get_layer("hidden")


def test_predict_and_call_from_several_threads():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(16, activation="relu"), layers.BatchNormalization(), layers.Dense(3)]
    )
    batches = [np.random.default_rng(i).normal(size=(9, 4)).astype("float32") for i in range(8)]
    expected = [model(b).numpy() for b in batches]
    results, errors = {}, []

    def work(i):
        try:
            for _ in range(20):
                results[i, "call"] = model(batches[i]).numpy()
                results[i, "predict"] = model.predict(batches[i], batch_size=4, verbose=0)
        except BaseException as error:  # handed to the main thread, which asserts on it
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for i in range(8):
        np.testing.assert_array_equal(results[i, "call"], expected[i])
        assert_close(results[i, "predict"], expected[i])


class Scaled(keras.Model):
    """A model of the user's own, in a file that no registry knows."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x) * self.factor


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
class TestCopies:
    def test_of_a_model_of_the_users(self, clone):
        model = Scaled(3.0, name="scaled")
        expected = model.predict(X, verbose=0)
        other = clone(model)
        assert type(other) is Scaled and other.name == "scaled" and other is not model
        assert_close(other.predict(X, verbose=0), expected)

    def test_before_it_is_built(self, clone):
        other = clone(keras.Sequential([layers.Dense(3)]))
        assert not other.built and other(X).shape == (6, 3)

    def test_of_what_no_file_can_hold(self, clone):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(2, activation=lambda x: x)])
        with pytest.raises((TypeError, ValueError), match="lambda"):
            clone(model)


@pytest.mark.parametrize("method", ["__call__", "predict"])
def test_too_many_arrays_for_one_input_are_counted(method):
    inputs = keras.Input((3,), name="features")
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    for arrays in ([np.ones((4, 3)), np.ones((4, 2))], [np.ones((4, 3)), np.ones((4, 3))]):
        with pytest.raises(ValueError, match=r"has 1 input \(features\), but got 2\."):
            getattr(model, method)(arrays)
    assert model([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).shape == (2, 1)  # an array written out
