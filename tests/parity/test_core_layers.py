"""Dense, Embedding, reshaping and merging layers against Keras."""

import numpy as np
import pytest

pytest.importorskip("keras")

from gpukeras import layers
from tests.parity.layer_comparison import compare_layers, same_layers

pytestmark = pytest.mark.oracle


def x(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


@pytest.mark.parametrize(
    ("name", "settings", "inputs"),
    [
        ("Dense", {"units": 3}, x(4, 5)),
        ("Dense", {"units": 3, "activation": "relu", "use_bias": False}, x(4, 5)),
        ("Dense", {"units": 2, "activation": "softmax", "kernel_regularizer": "l2"}, x(2, 3, 5)),
        (
            "Dense",
            {"units": 2, "kernel_constraint": "non_neg", "bias_initializer": "ones"},
            x(2, 3, 2, 5),
        ),
        ("Embedding", {"input_dim": 7, "output_dim": 3}, np.array([[0, 6, 2], [2, 2, 1]], "int32")),
        (
            "Embedding",
            {"input_dim": 7, "output_dim": 3, "mask_zero": True},
            np.array([[0, 6], [2, 0]], "int32"),
        ),
        ("Flatten", {}, x(2, 3, 4)),
        ("Flatten", {"data_format": "channels_first"}, x(2, 3, 4, 5)),
        ("Flatten", {}, x(6)),
        ("Reshape", {"target_shape": (2, -1)}, x(2, 6)),
        ("Reshape", {"target_shape": (3, 4)}, x(2, 12)),
        ("Permute", {"dims": (2, 1)}, x(2, 3, 4)),
        ("RepeatVector", {"n": 3}, x(2, 4)),
        ("Masking", {"mask_value": 0.0}, x(2, 3, 4)),
        ("Identity", {}, x(2, 3)),
        ("Rescaling", {"scale": 0.5, "offset": -1.0}, x(2, 3)),
        ("Add", {}, [x(2, 3), x(2, 3), x(2, 3)]),
        ("Add", {}, [x(2, 3, 4), x(2, 1, 4)]),
        ("Subtract", {}, [x(2, 3), x(2, 3)]),
        ("Multiply", {}, [x(2, 3), x(2, 3), x(2, 3)]),
        ("Multiply", {}, [x(2, 3, 1), x(2, 1, 4)]),
        ("Average", {}, [x(2, 3), x(2, 3)]),
        ("Maximum", {}, [x(2, 3), x(2, 3) - 0.1]),
        ("Minimum", {}, [x(2, 3), x(2, 3) - 0.1]),
        ("Concatenate", {}, [x(2, 3), x(2, 4)]),
        ("Concatenate", {"axis": 1}, [x(2, 3, 4), x(2, 2, 4)]),
        ("Dot", {"axes": 1}, [x(2, 3), x(2, 3)]),
        ("Dot", {"axes": (2, 1)}, [x(2, 3, 4), x(2, 4, 5)]),
        ("Dot", {"axes": 1, "normalize": True}, [x(2, 3), x(2, 3)]),
    ],
)
def test_equals_keras(name, settings, inputs, rng):
    ours, theirs = same_layers(layers, name, settings)
    compare_layers(ours, theirs, inputs, rng=rng)
    shapes = [x.shape for x in inputs] if isinstance(inputs, list) else inputs.shape
    assert ours.compute_output_shape(shapes) == tuple(theirs.compute_output_shape(shapes))
