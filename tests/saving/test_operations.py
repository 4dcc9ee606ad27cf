"""Ops of functional graphs: settings into the class's config, arrays into the node."""

import json

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import ops, saving


def again(model):
    return saving.model_from_json(model.to_json())


GRAPHS = {
    "operators": lambda x: (x + 1.0) * x - x / (2.0 + x**2) - (-x),
    "reflected": lambda x: 2.0 - 1.0 / (3.0 + x * x),
    "comparison": lambda x: ops.where(x > 0.0, x, ops.abs(x) + 1.0),
    "constants": lambda x: ops.maximum(x, np.arange(6, dtype="float32")),
    "tensors": lambda x: x * ops.convert_to_tensor(np.arange(6, dtype="float32")),
    "reduction": lambda x: ops.max(ops.mean(x, axis=-1, keepdims=True), axis=1),
    "reshape": lambda x: ops.reshape(ops.transpose(x, (0, 2, 1)), (-1, 3, 8)),
    "indexing": lambda x: x[:, 1:, ::-1][..., 2],
    "newaxis": lambda x: x[:, None, 0],
    "concatenate": lambda x: ops.concatenate([x, x * 2.0, x], axis=1),
    "stack": lambda x: ops.stack([x, x], axis=-1),
    "split": lambda x: ops.split(x, 3, axis=2)[1],
    "split at": lambda x: ops.split(x, [1, 4], axis=2)[2],
    "clip": lambda x: ops.clip(x, -0.5, 0.5),
    "pad": lambda x: ops.pad(x, [[0, 0], [1, 2], [0, 0]], constant_values=3),
    "matmul": lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))),
    "activations": lambda x: ops.gelu(ops.leaky_relu(x, 0.3), approximate=False),
    "softmax": lambda x: ops.softmax(x, axis=1),
    "cast": lambda x: ops.cast(ops.cast(x * 10, "int32"), "float32"),
    "keywords": lambda x: ops.add(x1=x, x2=x),
    "squeeze": lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
    "take": lambda x: ops.take(x, np.array([0, 2]), axis=1),
    "one_hot": lambda x: ops.one_hot(ops.cast(x[:, 0] > 0, "int32"), 2),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_of_ops_comes_back(name, rng):
    i = keras.Input((4, 6))
    model = keras.Model(i, GRAPHS[name](i))
    x = rng.normal(size=(2, 4, 6)).astype("float32")
    expected = model(x).numpy()
    once = again(model)
    np.testing.assert_array_equal(once(x).numpy(), expected)
    assert json.loads(once.to_json()) == json.loads(model.to_json())
    np.testing.assert_array_equal(again(once)(x).numpy(), expected)


def test_settings_stand_in_the_config_and_arrays_in_the_node():
    i = keras.Input((4,), name="i")
    config = keras.Model(i, ops.mean(i, 1, keepdims=True)).get_config()["layers"][1]
    assert config["module"] == "keras.src.ops.numpy"
    assert config["class_name"] == config["registered_name"] == "Mean"
    assert config["config"] == {"name": config["name"], "axis": 1, "keepdims": True}
    assert len(config["inbound_nodes"][0]["args"]) == 1
    assert config["inbound_nodes"][0]["kwargs"] == {}


def test_an_op_that_keras_does_not_have_is_told():
    from gpukeras.autograd.op import op

    @op
    def peculiar(x, /):
        return x * 2, None

    i = keras.Input((4,))
    with pytest.raises(ValueError, match=r"peculiar.*no form in files.*within a layer"):
        keras.Model(i, peculiar(i)).to_json()


def test_a_tensor_as_a_setting_is_told():
    i = keras.Input((4,))
    model = keras.Model(i, ops.clip(i, 0.0, i))
    with pytest.raises(ValueError, match=r"clip.*as a setting"):
        model.to_json()


def config_of(class_name, config):
    return {
        "module": "keras.src.ops.numpy",
        "class_name": class_name,
        "config": config,
        "registered_name": class_name,
    }


def test_ops_that_are_not_known_are_told():
    with pytest.raises(TypeError, match="'Load' of the saved graph does not cross"):
        saving.deserialize_keras_object(config_of("Load", {"name": "x"}))
    with pytest.raises(TypeError, match="setting 'colour'"):
        saving.deserialize_keras_object(config_of("Mean", {"name": "x", "colour": "red"}))
    operation = saving.deserialize_keras_object(config_of("Mean", {"name": "x", "new": None}))
    assert operation.name == "x"
