"""Losses: their own base, reductions, errors, and user's losses. Values stand in tests/parity."""

import numpy as np
import pytest

from gpukeras import losses, ops, registry
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import cuda, devices, dtypes
from gpukeras.losses.base import LossFunctionWrapper
from gpukeras.testing import check_gradients
from tests.helpers import assert_close

NAMES = [
    name
    for name, cls in registry.registered("loss").items()
    if isinstance(cls, type) and name != "CTC" and cls.__module__.startswith("gpukeras.")
]
INTEGERS = {
    "CategoricalGeneralizedCrossEntropy",
    "Circle",
    "SparseCategoricalCrossentropy",
}


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name, rng, device):
    loss = getattr(losses, name)(dtype="float64")
    y_pred = rng.uniform(0.1, 0.9, (4, 3))
    if name == "Circle":
        loss = losses.Circle(gamma=2.0, dtype="float64")
        y_pred /= np.linalg.norm(y_pred, axis=1, keepdims=True)
    y_true = np.array([0, 2, 0, 2]) if name in INTEGERS else rng.uniform(0.1, 0.9, (4, 3))
    weight = None if name in ("Dice", "Tversky") else rng.random(4)
    check_gradients(loss, y_true, y_pred, weight)


@pytest.mark.parametrize("name", NAMES)
def test_config_round_trip(name):
    loss = getattr(losses, name)(reduction="sum", name="x")
    again = losses.deserialize(losses.serialize(loss))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    assert again.reduction == "sum"


@pytest.mark.parametrize("axis", [None, (1, 2), -1])
def test_gradients_of_overlaps(axis, rng, device):
    y_true, y_pred = rng.uniform(0.1, 0.9, (2, 3, 4)), rng.uniform(0.1, 0.9, (2, 3, 4))
    check_gradients(losses.dice, y_true, y_pred, axis=axis)
    check_gradients(losses.tversky, y_true, y_pred, alpha=0.2, beta=0.7, axis=axis)


def test_gradients_of_circle_with_references(rng, device):
    y_pred, references = rng.uniform(-0.5, 0.5, (4, 3)), rng.uniform(-0.5, 0.5, (5, 3))
    check_gradients(
        losses.circle,
        np.array([0, 1, 0, 2]),
        y_pred,
        np.array([0, 1, 2, 0, 1]),
        references,
        remove_diagonal=False,
        gamma=2.0,
    )


def test_loss_of_ones_own(rng, device):
    class Cubed(losses.Loss):
        def call(self, y_true, y_pred):
            return abs(y_true - y_pred) ** 3

    loss = Cubed(reduction="sum")
    y_true, y_pred = rng.random((3, 2)), rng.random((3, 2))
    expected = (np.abs(y_true - y_pred) ** 3).sum()
    assert_close(loss(y_true, y_pred), np.float32(expected))
    assert loss.get_config() == {"name": loss.name, "reduction": "sum"}


def test_function_of_ones_own_with_settings():
    def powered(y_true, y_pred, power=1):
        return abs(y_true - y_pred) ** power

    loss = LossFunctionWrapper(powered, power=3, name="powered")
    assert_close(loss([0.0, 0.0], [1.0, 2.0]), np.float32(4.5))
    config = loss.get_config()
    assert config["power"] == 3
    with registry.custom_object_scope({"powered": powered}):
        again = LossFunctionWrapper.from_config(config)
    assert_close(again([0.0, 0.0], [1.0, 2.0]), np.float32(4.5))


def test_nested_outputs():
    class Both(losses.Loss):
        def call(self, y_true, y_pred):
            return abs(y_true["a"] - y_pred["a"]) + abs(y_true["b"] - y_pred["b"])

    ones, zeros = np.ones(3), np.zeros(3)
    assert Both()({"a": ones, "b": zeros}, {"a": zeros, "b": zeros}).item() == 1.0

    def both(y_true, y_pred):
        return abs(y_true[0] - y_pred[0]) + y_pred[1]

    assert LossFunctionWrapper(both)([ones, ones], (zeros, ones)).item() == 2.0


def test_short_floats_are_computed_in_float32():
    y_pred = Tensor(devices.to_device(np.full((2, 3), 300.0, "float16")))
    with Tape() as tape:
        tape.watch(y_pred)
        y = losses.MeanSquaredError()(np.zeros((2, 3)), y_pred)
    assert y.item() == 90000.0  # beyond float16
    (gradient,) = tape.gradients([(y, y.array * 0 + 1)], [y_pred])
    assert gradient.dtype == np.float16


def test_get():
    assert losses.get(None) is None
    assert losses.get("mse") is losses.mean_squared_error
    assert isinstance(losses.get("MeanSquaredError"), losses.MeanSquaredError)
    assert isinstance(losses.get(losses.Huber), losses.Huber)
    config = {"class_name": "Huber", "config": {"delta": 2.0}}
    assert losses.get(config)(np.zeros(1), np.full(1, 2.0)).item() == 2.0
    with pytest.raises(ValueError, match="mean_squared_error"):
        losses.get("mean_squared_eror")
    with pytest.raises(TypeError, match="loss"):
        losses.get(3)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_reduction(name):
    with pytest.raises(ValueError, match=f"{name}: reduction must be one of.*'avg'"):
        getattr(losses, name)(reduction="avg")


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"CosineSimilarity"}))
def test_shapes_that_do_not_fit(name):
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(4, 5\)|\(6, 1\).*\(4, 5\)"):
        getattr(losses, name)()(np.ones((2, 3)), np.ones((4, 5)))


def test_what_is_missing_says_so():
    with pytest.raises(NotImplementedError, match="SparseCategoricalCrossentropy"):
        losses.CTC()
    with pytest.raises(NotImplementedError, match="call"):
        losses.Loss()(np.ones(1), np.ones(1))
    with pytest.raises(ValueError, match="between 0 and 1"):
        losses.CategoricalGeneralizedCrossEntropy(q=1.0)
    with pytest.raises(ValueError, match="lambda"):
        LossFunctionWrapper(lambda y_true, y_pred: y_pred).get_config()


@pytest.mark.parametrize(
    ("loss", "true", "pred"),
    [
        (losses.MeanSquaredError(), (6, 1), (6, 1)),
        (losses.MeanSquaredError(), (6,), (6, 1)),
        (losses.BinaryCrossentropy(label_smoothing=0.1), (6, 3), (6, 3)),
        (losses.CategoricalCrossentropy(), (6, 3), (6, 3)),
        (losses.SparseCategoricalCrossentropy(), (6,), (6, 3)),
        (losses.SparseCategoricalCrossentropy(from_logits=True), (6, 1), (6, 3)),
        (losses.SparseCategoricalCrossentropy(), (6, 5), (6, 5, 3)),
    ],
)
def test_the_short_way_to_the_mean_gives_what_the_long_one_gives(loss, true, pred, rng):
    is_sparse = isinstance(loss, losses.SparseCategoricalCrossentropy)
    y_true = ops.convert_to_tensor(rng.integers(0, 2, true).astype("int32" if is_sparse else "float32"))
    y_pred = rng.uniform(0.1, 1, pred)
    y_pred = ops.convert_to_tensor((y_pred / y_pred.sum(-1, keepdims=True)).astype("float32"))
    short = loss(y_true, y_pred)
    loss._has_mean = False
    assert_close(short, loss(y_true, y_pred))


@pytest.fixture
def launches(monkeypatch):
    """The names of the launched kernels."""
    names = []
    launch = cuda.Source.launch

    def recording(self, name, *args, **kwargs):
        names.append(name)
        launch(self, name, *args, **kwargs)

    monkeypatch.setattr(cuda.Source, "launch", recording)
    return names


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_short_predictions_are_not_cast_on_a_gpu(dtype, from_logits, rng, device, launches):
    """The loss and its gradient are those of a cast to float32 and back."""
    y_true = devices.to_device(rng.integers(0, 5, (2, 9)))
    given = devices.to_device(rng.uniform(0.1, 3.0, (2, 9, 5)).astype(dtypes.as_dtype(dtype)))
    loss = losses.SparseCategoricalCrossentropy(from_logits=from_logits)

    def result(array):
        y_pred = Tensor(array)
        tape = Tape()
        tape.watch(y_pred)
        with tape:
            value = loss(Tensor(y_true), y_pred)
        one = devices.to_device(np.ones((), "float32"))
        return value.array, *tape.gradients([(value, one)], [y_pred])

    value, gradient = result(given)
    of_short, launches[:] = [*launches], []
    wide_value, wide_gradient = result(given.astype("float32"))
    assert value.dtype == np.float32 and gradient.dtype == given.dtype
    assert_close(value, wide_value, "float32")
    assert_close(gradient, wide_gradient.astype(given.dtype), dtype)
    assert of_short == launches


@pytest.mark.parametrize("is_used_twice", [False, True])
@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_the_gradient_of_a_softmax_before_the_loss(dtype, shape, is_used_twice, rng, device, launches):
    """On a GPU one kernel makes it of the probabilities, where nothing else uses them."""
    label, logits = rng.integers(0, 5, shape[:-1]), 2 * rng.standard_normal(shape)
    logits[0, ..., 1:] = -100.0  # whose probability is clipped
    label.reshape(-1)[:2] = 1, 7
    x, target = Tensor(devices.to_device(logits.astype(dtypes.as_dtype(dtype)))), Tensor(devices.to_device(label))
    tape = Tape()
    tape.watch(x)
    with tape:
        p = ops.softmax(x)
        value = losses.SparseCategoricalCrossentropy(dtype="float64" if dtype == "float64" else "float32")(target, p)
        if is_used_twice:
            value = value + ops.cast(ops.sum(p * p), value.dtype)
    seed = devices.to_device(np.ones((), value.dtype))
    dx, dp = tape.gradients([(value, seed)], [x, p])
    assert dx.dtype == dp.dtype == x.array.dtype

    logits = logits.astype(dtypes.as_dtype(dtype)).astype("float64")
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    one_hot = label[..., None] == np.arange(5)
    counts = ((one_hot * p).sum(axis=-1, keepdims=True) > 1e-7) & (label < 5)[..., None]
    expected = counts * (p - one_hot) / label.size
    if is_used_twice:
        expected += 2 * p * (p - (p * p).sum(axis=-1, keepdims=True))
    assert_close(dx, expected, dtype, scale=2)
    if device == "emulator":
        assert ("sparse_crossentropy_of_softmax_backward" in launches) != is_used_twice
