"""Losses against the installed Keras: values, gradients, reductions, weights, masks, configs."""

import numpy as np
import pytest

from gpukeras import losses, registry
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from tests.helpers import assert_close
from tests.oracle import jax, jnp
from tests.oracle import keras as oracle_keras

pytestmark = pytest.mark.oracle

REDUCTIONS = ["sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none", None]
SIGNS, CLASSES, ONE_HOT, BITS, REAL, MASKS = "signs", "classes", "one-hot", "bits", "real", "masks"


def cases():
    for name in (
        "MeanSquaredError",
        "MeanAbsoluteError",
        "MeanAbsolutePercentageError",
        "MeanSquaredLogarithmicError",
        "LogCosh",
        "Poisson",
    ):
        yield name, {}, REAL
    for delta in (0.3, 1.0):
        yield "Huber", {"delta": delta}, REAL
    for axis in (-1, 1):
        yield "CosineSimilarity", {"axis": axis}, REAL
    for name in ("Hinge", "SquaredHinge"):
        yield name, {}, BITS
        yield name, {}, SIGNS
    yield "CategoricalHinge", {}, ONE_HOT
    yield "KLDivergence", {}, MASKS
    for from_logits in (False, True):
        for smoothing in (0.0, 0.2):
            settings = {"from_logits": from_logits, "label_smoothing": smoothing}
            yield "BinaryCrossentropy", settings, BITS
            yield "CategoricalCrossentropy", settings, ONE_HOT
            yield "BinaryFocalCrossentropy", settings, BITS
            yield "CategoricalFocalCrossentropy", settings, ONE_HOT
        yield "BinaryCrossentropy", {"from_logits": from_logits, "axis": 1}, BITS
        yield "CategoricalCrossentropy", {"from_logits": from_logits, "axis": 1}, ONE_HOT
        yield "SparseCategoricalCrossentropy", {"from_logits": from_logits}, CLASSES
        yield (
            "SparseCategoricalCrossentropy",
            {"from_logits": from_logits, "ignore_class": 1},
            CLASSES,
        )
        yield (
            "BinaryFocalCrossentropy",
            {
                "apply_class_balancing": True,
                "alpha": 0.3,
                "gamma": 1.5,
                "from_logits": from_logits,
            },
            BITS,
        )
    yield "CategoricalFocalCrossentropy", {"alpha": [0.2, 0.3, 0.1, 0.4], "gamma": 1.0}, ONE_HOT
    for axis in (None, (1, 2)):
        yield "Dice", {"axis": axis}, MASKS
        yield "Tversky", {"axis": axis, "alpha": 0.3, "beta": 0.6}, MASKS


CASES = list(cases())


def data(kind, rng, shape=(5, 3, 4)):
    y_pred = rng.uniform(0.05, 0.95, shape).astype("float32")
    if kind == CLASSES:
        return rng.integers(0, shape[-1], shape[:-1]).astype("int32"), y_pred
    if kind == ONE_HOT:
        return np.eye(shape[-1], dtype="float32")[rng.integers(0, shape[-1], shape[:-1])], y_pred
    if kind == BITS:
        return rng.integers(0, 2, shape).astype("float32"), y_pred
    if kind == SIGNS:
        return rng.integers(0, 2, shape).astype("float32") * 2 - 1, y_pred * 2
    return rng.uniform(0.05, 0.95, shape).astype("float32"), y_pred


def compare(loss, oracle, y_true, y_pred, sample_weight=None, mask=None):
    """Values and gradients of y_pred."""

    def scalar(y_pred):
        if mask is not None:
            oracle_keras.src.backend.set_keras_mask(y_pred, jnp.asarray(mask))
        value = oracle(y_true, y_pred, sample_weight)
        return jnp.sum(value), value

    y_pred_jax = jnp.asarray(y_pred)
    with oracle_keras.src.backend.StatelessScope():
        expected = jax.grad(scalar, has_aux=True)(y_pred_jax) if mask is None else None
        value = expected[1] if expected else scalar(y_pred_jax)[1]
    tensor = Tensor(y_pred)
    if mask is not None:
        tensor._keras_mask = Tensor(mask)
    with Tape() as tape:
        tape.watch(tensor)
        actual = loss(y_true, tensor, sample_weight)
    assert actual.dtype == np.asarray(value).dtype
    assert_close(actual, np.asarray(value), dtype="float32", scale=10)
    if expected is not None:
        seed = np.ones(actual.shape, actual.dtype)
        (gradient,) = tape.gradients([(actual, seed)], [tensor])
        assert_close(gradient, np.asarray(expected[0]), dtype="float32", scale=10)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "none"])
@pytest.mark.parametrize(("name", "settings", "kind"), CASES)
def test_value_gradient_and_config(name, settings, kind, reduction, rng):
    settings = {**settings, "reduction": reduction}
    loss, oracle = getattr(losses, name)(**settings), getattr(oracle_keras.losses, name)(**settings)
    assert loss.get_config() == oracle.get_config()
    y_true, y_pred = data(kind, rng)
    compare(loss, oracle, y_true, y_pred)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight_shape", [(5, 3), (5, 1), (5, 3, 1), ()])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("MeanSquaredError", REAL),
        ("SparseCategoricalCrossentropy", CLASSES),
        ("CategoricalCrossentropy", ONE_HOT),
    ],
)
def test_sample_weight(name, kind, weight_shape, reduction, rng):
    loss = getattr(losses, name)(reduction=reduction)
    oracle = getattr(oracle_keras.losses, name)(reduction=reduction)
    y_true, y_pred = data(kind, rng)
    compare(loss, oracle, y_true, y_pred, rng.random(weight_shape).astype("float32"))


@pytest.mark.parametrize("shapes", [((6,), (6,)), ((6,), (6, 1)), ((6, 1), (6,)), ((6, 1), (6, 1))])
@pytest.mark.parametrize("weight_shape", [None, (6,), (6, 1)])
@pytest.mark.parametrize("name", ["MeanAbsoluteError", "BinaryCrossentropy"])
def test_ranks_that_differ_by_one(name, shapes, weight_shape, rng):
    y_true, y_pred = (rng.uniform(0.1, 0.9, shape).astype("float32") for shape in shapes)
    weight = None if weight_shape is None else rng.random(weight_shape).astype("float32")
    compare(getattr(losses, name)(), getattr(oracle_keras.losses, name)(), y_true, y_pred, weight)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight_shape", [None, (5, 3)])
def test_mask(weight_shape, reduction, rng):
    y_true, y_pred = data(REAL, rng)
    weight = None if weight_shape is None else rng.random(weight_shape).astype("float32")
    loss = losses.MeanSquaredError(reduction=reduction)
    oracle = oracle_keras.losses.MeanSquaredError(reduction=reduction)
    for mask in (rng.random((5, 3)) < 0.5, np.zeros((5, 3), bool)):
        compare(loss, oracle, y_true, y_pred, weight, mask)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_mask_and_ignored_class(reduction, rng):
    y_true, y_pred = data(CLASSES, rng)
    settings = {"ignore_class": 2, "reduction": reduction}
    loss = losses.SparseCategoricalCrossentropy(**settings)
    oracle = oracle_keras.losses.SparseCategoricalCrossentropy(**settings)
    compare(loss, oracle, y_true, y_pred, mask=rng.random((5, 3)) < 0.7)


@pytest.mark.parametrize("from_logits", [False, True])
def test_extreme_predictions(from_logits):
    """Where probabilities are clipped the gradient is 0, and logits stay finite."""
    y_pred = np.array([[0.0, 1.0], [1.0, 0.0], [3e-8, 1 - 3e-8]], "float32")
    if from_logits:
        y_pred = np.array([[-200.0, 200.0], [1e4, -1e4], [0.0, 90.0]], "float32")
    one_hot = np.array([[1, 0], [1, 0], [0, 1]], "float32")
    for name, y_true in (
        ("BinaryCrossentropy", one_hot),
        ("CategoricalCrossentropy", one_hot),
        ("SparseCategoricalCrossentropy", one_hot.argmax(1)),
    ):
        settings = {"from_logits": from_logits}
        loss = getattr(losses, name)(**settings)
        compare(loss, getattr(oracle_keras.losses, name)(**settings), y_true, y_pred)


def test_labels_that_are_no_class(rng):
    y_true, y_pred = np.array([-1, 0, 4, 2]), rng.uniform(0.1, 0.9, (4, 4)).astype("float32")
    for from_logits in (False, True):
        loss = losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        oracle = oracle_keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        compare(loss, oracle, y_true, y_pred)


def test_circle_and_generalized_cross_entropy(rng):
    y_pred = rng.standard_normal((6, 4)).astype("float32")
    y_pred /= np.linalg.norm(y_pred, axis=1, keepdims=True)
    y_true = np.array([0, 1, 0, 2, 1, 2])
    for settings in ({}, {"gamma": 5.0, "margin": 0.2}, {"remove_diagonal": False, "gamma": 2.0}):
        loss, oracle = losses.Circle(**settings), oracle_keras.losses.Circle(**settings)
        assert loss.get_config() == oracle.get_config()
        compare(loss, oracle, y_true, y_pred)
    loss = losses.CategoricalGeneralizedCrossEntropy(q=0.7)
    oracle = oracle_keras.losses.CategoricalGeneralizedCrossEntropy(q=0.7)
    assert loss.get_config() == oracle.get_config()
    compare(loss, oracle, y_true % 4, np.abs(y_pred))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtype_of_the_computation(dtype, rng):
    y_true, y_pred = data(REAL, rng)
    loss = losses.MeanSquaredError(dtype=dtype)
    if dtype != "float64":  # JAX has no float64 here
        oracle = oracle_keras.losses.MeanSquaredError(dtype=dtype)
        assert_close(loss(y_true, y_pred), np.asarray(oracle(y_true, y_pred)), dtype=dtype)
        assert loss.dtype == oracle.dtype
    assert loss(y_true, y_pred).dtype == dtype


def test_functions_have_the_oracles_names_and_arguments():
    import inspect

    for name in dir(oracle_keras.losses):
        if name.startswith("_"):
            continue
        ours, theirs = getattr(losses, name), getattr(oracle_keras.losses, name)
        kinds = {p.kind for p in inspect.signature(theirs).parameters.values()}
        if inspect.Parameter.VAR_POSITIONAL in kinds:
            continue
        expected = [(p.name, p.default) for p in inspect.signature(theirs).parameters.values()]
        actual = [(p.name, p.default) for p in inspect.signature(ours).parameters.values()]
        assert actual == expected, name


def test_names_mean_what_they_mean_to_the_oracle():
    for name in oracle_keras.src.losses.ALL_OBJECTS_DICT:
        if name in ("Loss", "LossFunctionWrapper", "CTC"):
            continue
        ours, theirs = losses.get(name), oracle_keras.losses.get(name)
        assert getattr(ours, "__name__", type(ours).__name__) == getattr(theirs, "__name__", type(theirs).__name__)


def test_serialized_like_the_oracles():
    for name, cls in registry.registered("loss").items():
        if not isinstance(cls, type) or name == "CTC":
            continue
        expected = oracle_keras.losses.serialize(getattr(oracle_keras.losses, name)())
        assert losses.serialize(cls()) == expected
    expected = oracle_keras.losses.serialize(oracle_keras.losses.mean_squared_error)
    assert losses.serialize(losses.mean_squared_error) == expected
