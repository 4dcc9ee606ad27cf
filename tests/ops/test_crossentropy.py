"""Cross entropies of (y_true, y_pred): smoothing, masks, focal weights, gradients, errors."""

import numpy as np
import pytest

from gpukeras.ops import crossentropy
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, values

LOGITS = pytest.mark.parametrize("from_logits", [False, True])


def probabilities(rng, shape=(3, 4, 5)):
    p = rng.uniform(0.1, 0.9, shape)
    return p / p.sum(axis=-1, keepdims=True)


@LOGITS
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("name", ["categorical", "categorical_focal", "binary", "binary_focal"])
def test_gradients(name, axis, label_smoothing, from_logits, rng, device):
    function = getattr(crossentropy, f"{name}_crossentropy")
    settings = {"axis": axis, "label_smoothing": label_smoothing, "from_logits": from_logits}
    check_gradients(function, probabilities(rng), probabilities(rng), **settings)


@LOGITS
def test_focal_settings(from_logits, rng, device):
    t, p = probabilities(rng), probabilities(rng)
    for gamma in (0.0, 1.0, 1.5):
        settings = {"gamma": gamma, "from_logits": from_logits}
        check_gradients(crossentropy.categorical_focal_crossentropy, t, p, alpha=0.6, **settings)
        check_gradients(crossentropy.binary_focal_crossentropy, t, p, apply_class_balancing=True, **settings)


def test_focal_without_focus_is_the_cross_entropy(rng):
    t, p = probabilities(rng), probabilities(rng)
    focal = crossentropy.categorical_focal_crossentropy(t, p, alpha=1.0, gamma=0.0)
    assert_close(focal, crossentropy.categorical_crossentropy(t, p))
    focal = crossentropy.binary_focal_crossentropy(t, p, gamma=0.0)
    assert_close(focal, crossentropy.binary_crossentropy(t, p))


def test_mean_over_several_axes(rng, device):
    for axis in (None, (1, 2)):
        check_gradients(crossentropy.binary_crossentropy, probabilities(rng), probabilities(rng), axis=axis)


def test_smoothing(rng):
    t, p = np.eye(4), probabilities(rng, (4, 4))
    smooth = 0.8 * t + 0.05
    y = crossentropy.categorical_crossentropy(t, p, label_smoothing=0.2)
    assert_close(y, -(smooth * np.log(p)).sum(-1), "float64")


@LOGITS
def test_ignored_class(from_logits, rng, device):
    label, p = np.array([0, 2, 1, 2]), probabilities(rng, (4, 3))
    for ignored in (2, -1, 255):
        labels = np.where(label == 2, ignored, label)
        y = crossentropy.sparse_categorical_crossentropy(labels, p, from_logits, ignored)
        assert values(y._keras_mask).tolist() == [True, False, True, False]
        assert (values(y) == 0).tolist() == [False, True, False, True]
    check_gradients(
        crossentropy.sparse_categorical_crossentropy,
        label,
        p,
        from_logits=from_logits,
        ignore_class=2,
    )


@pytest.mark.parametrize("name", crossentropy.__all__)
def test_dtype_is_that_of_the_prediction(name, float_dtype, rng, device):
    t, p = np.eye(5)[[0, 3, 1]], probabilities(rng, (3, 5))
    t = t.argmax(1) if name.startswith("sparse") else t
    function = getattr(crossentropy, name)
    y = function(t, p.astype(float_dtype))
    assert y.dtype == float_dtype
    assert_close(y, values(function(t, p)).astype(float_dtype))


@pytest.mark.parametrize("name", crossentropy.__all__)
def test_bad_inputs(name):
    function = getattr(crossentropy, name)
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(4, 5\)"):
        function(np.ones((2, 3)), np.ones((4, 5)))
    if name.startswith("categorical"):
        with pytest.raises(ValueError, match="integer axis"):
            function(np.ones((2, 3)), np.ones((2, 3)), axis=True)
