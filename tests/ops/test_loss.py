"""Cross entropies and the reduction: formulas in float64, gradients, dtypes, bad inputs."""

import numpy as np
import pytest

from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices
from gpukeras.ops import loss
from gpukeras.testing import check_gradients
from tests.helpers import assert_close
from tests.strict_device import forbid_host_reads

REDUCTIONS = ["sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none", None]


def probabilities(rng, shape=(4, 3, 5), axis=-1):
    p = rng.uniform(0.1, 0.9, shape)
    return p / p.sum(axis=axis, keepdims=True)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("from_logits", [False, True])
def test_categorical_crossentropy(from_logits, axis, rng, device):
    target, p = probabilities(rng, axis=axis), probabilities(rng, axis=axis)
    output = np.log(p) + 3 if from_logits else 2 * p
    y = loss.categorical_crossentropy(target, output, from_logits, axis)
    assert_close(y, -(target * np.log(p)).sum(axis), "float64")
    check_gradients(loss.categorical_crossentropy, target, output, from_logits=from_logits, axis=axis)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("from_logits", [False, True])
def test_sparse_categorical_crossentropy(from_logits, axis, rng, device):
    p = probabilities(rng, (4, 3, 3), axis)
    target = rng.integers(0, 3, (4, 3))
    output = np.log(p) - 2 if from_logits else 3 * p
    y = loss.sparse_categorical_crossentropy(target, output, from_logits, axis)
    chosen = np.take_along_axis(p, np.expand_dims(target, axis), axis).squeeze(axis)
    assert_close(y, -np.log(chosen), "float64")
    check_gradients(loss.sparse_categorical_crossentropy, target, output, from_logits=from_logits, axis=axis)
    column = loss.sparse_categorical_crossentropy(target[:, 0, None], p[:, 0])
    assert_close(column, loss.sparse_categorical_crossentropy(target[:, 0], p[:, 0]))


@pytest.mark.parametrize("from_logits", [False, True])
def test_labels_that_are_no_class_count_nothing(from_logits, rng, device):
    target = np.array([-1, 5, 2, 100])
    y = loss.sparse_categorical_crossentropy(target, probabilities(rng, (4, 5)), from_logits)
    assert (y.numpy() != 0).tolist() == [False, False, True, False]
    check_gradients(
        loss.sparse_categorical_crossentropy,
        target,
        probabilities(rng, (4, 5)),
        from_logits=from_logits,
    )


@pytest.mark.parametrize("from_logits", [False, True])
def test_binary_crossentropy(from_logits, rng, device):
    target, p = rng.random((4, 3)), rng.uniform(0.1, 0.9, (4, 3))
    output = np.log(p / (1 - p)) if from_logits else p
    y = loss.binary_crossentropy(target, output, from_logits)
    assert_close(y, -target * np.log(p) - (1 - target) * np.log(1 - p), "float64")
    check_gradients(loss.binary_crossentropy, target, output, from_logits=from_logits)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("name", ["binary", "categorical", "sparse_categorical"])
def test_extremes_stay_finite(name, from_logits, float_dtype, device):
    """Also in float16, where 1 - 1e-7 is 1: probabilities are clipped in float32."""
    target = np.array([[0, 1], [1, 0]], float_dtype)
    output = np.array([[1, 0], [1, 0]], float_dtype)
    if from_logits:
        output = (output * 2 - 1) * (2e4 if float_dtype == "float16" else 1e6)
    if name == "sparse_categorical":
        target = target.argmax(1)
    x = Tensor(devices.to_device(output))
    with Tape() as tape:
        tape.watch(x)
        y = getattr(loss, f"{name}_crossentropy")(target, x, from_logits=from_logits)
    assert y.dtype == float_dtype
    (dx,) = tape.gradients([(y, y.array * 0 + 1)], [x])
    assert np.isfinite(y.numpy()).all()
    assert np.isfinite(Tensor(dx).numpy()).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("shape", "weight_shape", "mask_shape"),
    [
        ((4, 5), None, None),
        ((4, 5), (4, 5), None),
        ((4, 5), (4, 1), None),
        ((4,), (4, 1), None),
        ((4, 1), (4,), None),
        ((4, 5), (), None),
        ((4, 5), None, (4, 5)),
        ((4, 5), (4, 5), (4, 5)),
        ((4,), (4, 1), (4,)),
        ((), None, None),
        ((0,), None, None),
    ],
)
def test_reduce_loss(shape, weight_shape, mask_shape, reduction, rng, device):
    values = rng.random(shape)
    weight = None if weight_shape is None else rng.uniform(0.5, 1, weight_shape)
    mask = None if mask_shape is None else rng.random(mask_shape) < 0.6
    check_gradients(loss.reduce_loss, values, weight, mask, reduction=reduction)
    if weight is None and mask is None:
        y = loss.reduce_loss(values, reduction=reduction)
        if reduction in (None, "none") or shape in ((), (0,)):
            assert_close(y, values)
        else:
            assert_close(y, values.sum() if reduction == "sum" else values.mean())


def test_nothing_valid_gives_zero(rng, device):
    values, nothing = rng.random((3, 2)), np.zeros((3, 2))
    assert loss.reduce_loss(values, None, nothing.astype(bool)).item() == 0
    assert loss.reduce_loss(values, nothing, reduction="mean_with_sample_weight").item() == 0


def test_nothing_is_read_on_the_host(rng, device):
    x = Tensor(loss.as_array(probabilities(rng, (4, 5)).tolist()))
    label, one_hot = [0, 4, 2, 9], np.eye(5)[[0, 4, 2, 1]].tolist()
    with forbid_host_reads(), Tape() as tape:
        tape.watch(x)
        y = [
            loss.reduce_loss(f(t, x, from_logits=from_logits), [1.0, 0.5, 0.0, 2.0])
            for f, t in (
                (loss.sparse_categorical_crossentropy, label),
                (loss.categorical_crossentropy, one_hot),
            )
            for from_logits in (False, True)
        ]
        gradients = [tape.gradients([(v, v.array)], [x])[0] for v in y]
    assert all(g.shape == x.shape for g in gradients)


@pytest.mark.parametrize(
    ("name", "target", "output"),
    [
        ("categorical_crossentropy", (2, 3), (2, 4)),
        ("categorical_crossentropy", (), ()),
        ("sparse_categorical_crossentropy", (3,), (2, 4)),
        ("sparse_categorical_crossentropy", (), ()),
        ("binary_crossentropy", (2,), (2, 1)),
    ],
)
def test_shapes_that_do_not_fit(name, target, output):
    with pytest.raises(ValueError, match=name):
        getattr(loss, name)(np.ones(target), np.ones(output))


def test_weights_that_do_not_fit():
    with pytest.raises(ValueError, match=r"sample_weight of shape \(3,\).*\(4, 5\)"):
        loss.reduce_loss(np.ones((4, 5)), np.ones(3))
