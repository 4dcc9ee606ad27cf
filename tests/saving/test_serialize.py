"""Configs: values and objects there and back, and nothing in them is run."""

import json

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import saving

serialize, deserialize = saving.serialize_keras_object, saving.deserialize_keras_object


def through_json(config):
    return json.loads(json.dumps(config))


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 1.5, "text", [1, [2]], {"a": {"b": None}}, b"bytes", slice(1, None), Ellipsis],
    ids=repr,
)
def test_plain_values_come_back(value):
    assert deserialize(through_json(serialize(value))) == value


def test_tuples_come_back_as_lists():
    assert serialize((1, (2,))) == (1, (2,))
    assert deserialize(through_json(serialize((1, (2,))))) == [1, [2]]


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32", "bool"])
def test_arrays_come_back(dtype):
    array = np.arange(4).reshape(2, 2).astype(dtype)
    again = deserialize(through_json(serialize(array)))
    assert type(again) is np.ndarray and again.dtype == dtype
    np.testing.assert_array_equal(again, array)
    tensor = deserialize(through_json(serialize(keras.ops.convert_to_tensor(array))))
    assert type(tensor) is keras.Tensor and tensor.dtype == dtype
    np.testing.assert_array_equal(tensor.numpy(), array)


def test_scalars_of_numpy_are_plain():
    assert serialize(np.float32(2)) == 2.0 and type(serialize(np.float32(2))) is float
    assert serialize(np.array(3)) == 3 and type(serialize(np.array(3))) is int


def test_a_keras_tensor_keeps_shape_dtype_and_origin():
    tensor = keras.Input((3,), dtype="int32", name="ids")
    again = deserialize(through_json(serialize(tensor)))
    assert again.shape == (None, 3) and again.dtype == "int32"
    assert again._pre_serialization_keras_history == ["ids", 0, 0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.layers.Dense(3, activation="relu", kernel_regularizer="l2"),
        lambda: keras.initializers.RandomNormal(seed=3),
        lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 10)),
        lambda: keras.losses.Huber(delta=2.0),
        lambda: keras.metrics.BinaryAccuracy(threshold=0.3),
        lambda: keras.DTypePolicy("mixed_float16"),
        lambda: keras.random.SeedGenerator(3),
        lambda: keras.regularizers.L1L2(0.1, 0.2),
        lambda: keras.constraints.MaxNorm(2),
        lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]),
    ],
)
def test_objects_come_back(make):
    one = make()
    again = deserialize(through_json(serialize(one)))
    assert type(again) is type(one)
    assert serialize(again) == serialize(one)


def test_a_built_layer_comes_back_built():
    layer = keras.layers.Dense(3)
    layer.build((None, 4))
    again = deserialize(through_json(serialize(layer)))
    assert again.built and again.kernel.shape == (4, 3)


def test_lists_and_dictionaries_of_objects_come_back():
    config = through_json(serialize({"layers": [keras.layers.Dense(1), keras.layers.Dense(2)]}))
    assert [layer.units for layer in deserialize(config)["layers"]] == [1, 2]


def test_functions_come_back_by_name():
    assert deserialize(serialize(keras.activations.relu)) is keras.activations.relu
    assert deserialize(serialize(keras.losses.mean_squared_error)) is keras.losses.mean_squared_error


def test_custom_objects_are_found_by_name():
    class Mine(keras.layers.Layer):
        pass

    def own(x):
        return x

    assert type(deserialize(serialize(Mine()), custom_objects={"Mine": Mine})) is Mine
    assert deserialize(serialize(own), custom_objects={"own": own}) is own
    assert deserialize("own", custom_objects={"own": own}) is own
    assert deserialize("own", module_objects={"own": own}) is own
    # A class that Keras has is not replaced by one of the same name.
    config = serialize(keras.layers.Dense(2))
    assert type(deserialize(config, custom_objects={"Dense": Mine})) is keras.layers.Dense


def test_functions_of_early_keras_3_are_found_without_their_package():
    @saving.register_keras_serializable("early")
    def squash(x):
        return x

    config = {"module": "builtins", "class_name": "function", "config": "squash"}
    assert deserialize(config) is squash


def test_modules_of_keras_have_other_names_too():
    for module in ("keras.models", "keras.src.models.sequential", "keras"):
        config = {"module": module, "class_name": "Sequential", "config": {"layers": []}}
        assert type(deserialize(config)) is keras.Sequential
    config = {
        "module": "keras.src.layers.core.dense",
        "class_name": "Dense",
        "config": {"units": 2},
    }
    assert type(deserialize(config)) is keras.layers.Dense


# --- Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("safe_mode", [True, False])
def test_a_lambda_in_a_config_is_not_run(safe_mode):
    config = {"class_name": "__lambda__", "config": {"value": ["4wEAAAA=", None, None]}}
    with pytest.raises(ValueError, match=r"lambda.*not run.*register_keras_serializable"):
        deserialize(config, safe_mode=safe_mode)


@pytest.mark.parametrize(
    "config",
    [
        {"module": "os", "class_name": "system", "config": {"command": "true"}},
        {"module": "subprocess", "class_name": "Popen", "config": {"args": "true"}},
        {"module": "builtins", "class_name": "function", "config": "eval"},
        {"module": "builtins", "class_name": "eval", "config": {}},
        {"module": "keras.saving", "class_name": "load_model", "config": {}},
        {"module": "keras.utils", "class_name": "get_file", "config": {}},
        {"module": "gpukeras.registry", "class_name": "Counter", "config": {}},
        {"module": None, "class_name": "Mine", "config": {}, "registered_name": "Mine"},
        {"class_name": "Mine", "config": {}},
    ],
    ids=lambda config: f"{config.get('module')}.{config['class_name']}",
)
def test_what_is_not_registered_is_not_found(config):
    with pytest.raises(TypeError, match=r"Unknown (class|function)|There is no class"):
        deserialize(config)


def test_a_close_name_is_suggested():
    with pytest.raises(TypeError, match=r"no class 'Dence' of the module 'keras.layers'.*'Dense'"):
        deserialize({"module": "keras.layers", "class_name": "Dence", "config": {}})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"class_name": 3, "config": {}}, "'class_name' must be a string"),
        ({"module": "keras.layers", "class_name": "Dense", "config": [1]}, "must be a dictionary"),
        ({"module": "builtins", "class_name": "function", "config": {}}, "must be its name"),
        ({"class_name": "__numpy__", "config": {"value": [1]}}, "config of a __numpy__"),
        ({"class_name": "__slice__", "config": None}, "config of a __slice__"),
        ({"class_name": "__bytes__", "config": {"value": 3}}, "config of a __bytes__"),
        ({1, 2}, "plain values"),
    ],
)
def test_configs_of_a_wrong_form_are_told(config, message):
    with pytest.raises(TypeError, match=message):
        deserialize(config)


def test_a_type_of_tensorflow_is_told():
    with pytest.raises(ValueError, match="TensorFlow TypeSpec"):
        deserialize({"class_name": "__typespec__", "config": []})


def test_what_cannot_be_written_is_told():
    with pytest.raises(ValueError, match=r"lambda cannot be written.*named function"):
        serialize(lambda x: x)
    with pytest.raises(TypeError, match=r"Cannot write <object.*get_config"):
        serialize(object())
    with pytest.raises(TypeError, match=r"Variable.*cannot be written.*add_weight"):
        serialize(keras.Variable(np.zeros(2, "float32"), name="v"))

    class Odd(keras.layers.Layer):
        def get_config(self):
            return 3

    with pytest.raises(TypeError, match=r"Odd.get_config\(\) must return a dictionary"):
        serialize(Odd())


def test_unknown_arguments_are_told():
    with pytest.raises(TypeError, match=r"unknown arguments \['colour'\]"):
        deserialize({}, colour="red")


# --- JSON -----------------------------------------------------------------------------------------


def test_a_model_is_made_of_its_json():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])
    again = saving.model_from_json(model.to_json(indent=2))
    assert again.get_layer("head").kernel.shape == (3, 2)
    assert keras.models.model_from_json(model.to_json()).name == model.name


def test_json_that_is_none_is_told():
    with pytest.raises(ValueError, match=r"model_from_json needs what model.to_json\(\) returned"):
        saving.model_from_json("{garbage")


def test_only_objects_that_occur_twice_are_numbered():
    regularizer = keras.regularizers.L2(0.5)
    layers = [keras.layers.Dense(2, kernel_regularizer=regularizer, name=f"d{i}") for i in (1, 2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    config = json.loads(model.to_json())
    first, second = (layer["config"] for layer in config["config"]["layers"][1:])
    number = first["kernel_regularizer"]["shared_object_id"]
    assert second["kernel_regularizer"]["shared_object_id"] == number
    assert "shared_object_id" not in first["bias_initializer"]
    again = saving.model_from_json(model.to_json())
    assert again.layers[0].kernel_regularizer is again.layers[1].kernel_regularizer
    assert model.to_json() == model.to_json()
