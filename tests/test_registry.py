import numpy as np
import pytest

import gpukeras as keras
from gpukeras import registry
from gpukeras.configurable import Configurable, serialize


def test_names_are_derived_and_resolved():
    for name in ("Adam", "adam"):
        assert type(registry.resolve("optimizer", name)) is keras.optimizers.Adam
    assert registry.snake_case("MultiHeadAttention") == "multi_head_attention"
    assert registry.resolve("activation", "relu") is keras.activations.relu
    assert registry.resolve("loss", None) is None
    layer = keras.layers.Dense(1)
    assert registry.resolve("layer", layer) is layer
    assert registry.resolve("initializer", keras.initializers.Ones).__class__ is keras.initializers.Ones


def test_config_dictionaries_are_resolved():
    optimizer = keras.optimizers.SGD(0.5, momentum=0.25)
    again = registry.resolve("optimizer", serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    with pytest.raises(ValueError, match="class_name"):
        registry.resolve("optimizer", {"name": "x"})
    with pytest.raises(ValueError, match="custom_objects"):
        registry.resolve("layer", {"class_name": "Dens", "config": {}})


def test_unknown_names_list_the_closest():
    with pytest.raises(ValueError, match="Unknown optimizer 'adamm'. Did you mean .*'adam'"):
        registry.resolve("optimizer", "adamm")
    with pytest.raises(TypeError, match="Cannot make a optimizer of 3"):
        registry.resolve("optimizer", 3)


def test_custom_objects_are_scoped():
    def my_activation(x):
        return x

    with registry.custom_object_scope({"my_activation": my_activation}):
        assert registry.resolve("activation", "my_activation") is my_activation
    with pytest.raises(ValueError, match="my_activation"):
        registry.resolve("activation", "my_activation")


class Stored(Configurable):
    def __init__(self, size, rate=0.5, names=("a",), **kwargs):
        self.size = size
        self.rate = rate
        self._hidden = names


def test_the_constructor_is_the_config():
    assert Stored(3).get_config() == {"size": 3, "rate": 0.5, "names": ("a",)}
    assert Stored(3, 0.1, names=("b", "c")).get_config() == {"size": 3, "rate": 0.1, "names": ("b", "c")}
    with pytest.raises(TypeError, match="Stored cannot be built"):
        Stored.from_config({"sise": 3})


def test_serialize_plain_values_and_refusals():
    value = {"a": [np.float32(1.0), (2, None)], "b": np.dtype("int8"), "c": np.int64(3)}
    assert serialize(value) == {"a": [1.0, (2, None)], "b": "int8", "c": 3}
    with pytest.raises(ValueError, match="lambda"):
        serialize(lambda x: x)
    with pytest.raises(TypeError, match="Cannot write"):
        serialize(object())
