"""Metrics: state on the device, updates in place, tracking, errors. Values stand in tests/parity."""

import contextlib

import numpy as np
import pytest

from gpukeras import metrics, registry
from gpukeras.autograd.scope import setting, transaction
from gpukeras.autograd.tensor import Tensor, Variable
from gpukeras.backend import devices
from tests.helpers import assert_close, values
from tests.strict_device import forbid_host_reads

REQUIRED = {
    "IoU": {"num_classes": 3, "target_class_ids": [0, 1]},
    "MeanIoU": {"num_classes": 3},
    "MeanMetricWrapper": {"fn": metrics.mean_squared_error},
    "OneHotIoU": {"num_classes": 3, "target_class_ids": [1]},
    "OneHotMeanIoU": {"num_classes": 3},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
}
NAMES = [name for name, cls in registry.registered("metric").items() if cls.__module__.startswith("gpukeras.")]


def make(metric, **settings):
    return getattr(metrics, metric)(**REQUIRED.get(metric, {}), **settings)


def batch(name, rng, n=6):
    y_pred = rng.uniform(0.1, 0.9, (n, 3)).astype("float32")
    label = rng.integers(0, 3, n)
    if name in ("Mean", "Sum"):
        return (y_pred,)
    if "Sparse" in name:
        return label, y_pred
    if name == "BinaryIoU":
        return label > 0, y_pred[:, 0]
    if name in ("IoU", "MeanIoU"):
        return label, rng.integers(0, 3, n)
    return np.eye(3, dtype="float32")[label], y_pred


@pytest.mark.parametrize("name", NAMES)
def test_updates_in_place_without_reading(name, rng, device):
    metric = make(name)
    tensors = [Tensor(devices.to_device(x)) for x in batch(name, rng)]
    weight = Tensor(devices.to_device(np.ones(6, "int32" if "IoU" in name else "float32")))
    metric.update_state(*tensors, sample_weight=weight)
    arrays = [v.array for v in metric.variables]
    before = [values(a).copy() for a in arrays]
    with forbid_host_reads():
        metric.update_state(*tensors, sample_weight=weight)
        if name != "R2Score":
            metric.update_state(*tensors)
            result = metric.result()
    assert all(v.array is a for v, a in zip(metric.variables, arrays, strict=True))
    assert any((values(a) != b).any() for a, b in zip(arrays, before, strict=True))
    assert isinstance(metric.result() if name == "R2Score" else result, Tensor)
    metric.reset_state()
    assert all(v.array is a for v, a in zip(metric.variables, arrays, strict=True))
    assert not any(values(a).any() for a in arrays)


@pytest.mark.parametrize("name", NAMES)
def test_config_round_trip(name, rng):
    metric = make(name, name="x")
    again = metrics.deserialize(metrics.serialize(metric))
    assert type(again) is type(metric)
    assert again.get_config() == metric.get_config()
    data = batch(name, rng)
    assert_close(metric(*data), again(*data))


@pytest.mark.parametrize("name", ["Mean", "AUC", "MeanIoU", "F1Score"])
def test_an_interrupted_step_leaves_the_sums(name, rng):
    metric = make(name)
    data = batch(name, rng)
    metric.update_state(*data)
    before = [v.numpy() for v in metric.variables]
    with contextlib.suppress(KeyboardInterrupt), transaction():
        metric.update_state(*data)
        raise KeyboardInterrupt
    assert all((v.numpy() == b).all() for v, b in zip(metric.variables, before, strict=True))


def test_a_traced_call_adds_nothing(rng):
    metric = metrics.Mean()
    with setting(symbolic=True):
        metric.update_state([1.0])
        metric.reset_state()
    assert metric.count.item() == 0


def test_nothing_was_seen():
    for name in ("Mean", "AUC", "Precision", "BinaryAccuracy", "MeanIoU"):
        assert make(name).result().item() == 0
    for metric in (metrics.F1Score(), metrics.R2Score(), metrics.AUC(multi_label=True)):
        with pytest.raises(ValueError, match="update_state"):
            metric.result()


def test_metric_of_ones_own(rng):
    class Spread(metrics.Metric):
        def __init__(self, scale=1.0, **kwargs):
            super().__init__(**kwargs)
            self.scale = scale
            self.low = self.add_weight(name="low", initializer="zeros")
            self.high = Variable(np.zeros(2, "float32"), trainable=False)
            self.inner = metrics.Mean(name="inner")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.low.assign_add(y_true.sum())
            self.high.assign_add([1.0, 2.0])
            self.inner.update_state(y_pred)

        def result(self):
            return {"low": self.low.value, "inner": self.inner.result()}

    metric = Spread(scale=2.0)
    assert metric.name == "spread"
    assert [v.path for v in metric.variables] == [
        "spread/low",
        "variable",
        "inner/total",
        "inner/count",
    ]
    assert metric(np.ones(3), np.full(3, 2.0))["inner"].item() == 2.0
    metric.reset_state()
    assert not any(v.numpy().any() for v in metric.variables)
    assert metric.get_config() == {"scale": 2.0, "dtype": "float32", "name": "spread"}


def test_the_base_must_be_initialized():
    class Forgetful(metrics.Metric):
        def __init__(self):
            self.total = self.add_weight()

    with pytest.raises(RuntimeError, match=r"Forgetful: call super\(\).__init__"):
        Forgetful()
    with pytest.raises(NotImplementedError, match="update_state"):
        metrics.Metric()()
    with pytest.raises(NotImplementedError, match="result"):
        metrics.Metric().result()


def test_ignored_class_and_masks_weigh_nothing(rng):
    y_pred = Tensor(rng.random((2, 3)).astype("float32"))
    y_pred._keras_mask = Tensor(np.array([True, False]))
    metric = metrics.SparseCategoricalAccuracy()
    metric.update_state(np.array([y_pred.numpy()[0].argmax(), 0]), y_pred)
    assert metric.count.item() == 1
    assert metric.result().item() == 1


def test_many_samples_are_counted_exactly():
    metric = metrics.AUC(num_thresholds=3)
    metric.update_state(np.ones(70_000, bool), np.full(70_000, 0.75, "float32"))
    assert metric.true_positives.numpy().tolist() == [70_000, 70_000, 0]


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("AUC", {"curve": "ROCK"}, "curve.*'ROCK'"),
        ("AUC", {"summation_method": "mean"}, "summation_method.*'mean'"),
        ("AUC", {"num_thresholds": 1}, "num_thresholds"),
        ("AUC", {"num_labels": 2}, "num_labels"),
        ("FBetaScore", {"average": "all"}, "FBetaScore: average.*'all'"),
        ("FBetaScore", {"beta": 1}, "beta"),
        ("F1Score", {"threshold": 1.5}, "F1Score: threshold.*1.5"),
        ("IoU", {"num_classes": 2, "target_class_ids": [2]}, "IoU: target_class_ids"),
        ("Precision", {"thresholds": [0.5, 1.5]}, r"Precision: thresholds.*\[1.5\]"),
        ("TruePositives", {"thresholds": -0.1}, "TruePositives: thresholds"),
        ("PrecisionAtRecall", {"recall": 2}, "PrecisionAtRecall: recall"),
        ("RecallAtPrecision", {"precision": 0.5, "num_thresholds": 0}, "num_thresholds"),
        ("R2Score", {"class_aggregation": "sum"}, "class_aggregation"),
        ("R2Score", {"num_regressors": -1}, "num_regressors"),
    ],
)
def test_bad_settings(name, settings, words):
    with pytest.raises(ValueError, match=words):
        getattr(metrics, name)(**settings)


@pytest.mark.parametrize(
    ("name", "settings", "shapes"),
    [
        ("Accuracy", {}, ((2, 3), (4, 5))),
        ("BinaryAccuracy", {}, ((2, 3), (4, 5))),
        ("SparseCategoricalAccuracy", {}, ((2, 2), (4, 5))),
        ("SparseTopKCategoricalAccuracy", {}, ((2,), (4, 5))),
        ("MeanSquaredError", {}, ((2, 3), (4, 5))),
        ("RootMeanSquaredError", {}, ((2, 3), (4, 5))),
        ("PearsonCorrelation", {}, ((2, 3), (4, 5))),
        ("R2Score", {}, ((2, 3), (4, 5))),
        ("R2Score", {}, ((2,), (2,))),
        ("F1Score", {}, ((2, 3), (4, 5))),
        ("F1Score", {}, ((2,), (2,))),
        ("AUC", {}, ((2, 3), (4, 5))),
        ("AUC", {"multi_label": True}, ((2,), (2,))),
        ("Precision", {"class_id": 1}, ((2,), (2,))),
        ("Precision", {"top_k": 7}, ((2, 3), (2, 3))),
        ("MeanIoU", {"num_classes": 2}, ((2, 3), (4, 5))),
    ],
)
def test_shapes_that_do_not_fit(name, settings, shapes):
    metric = getattr(metrics, name)(**settings)
    with pytest.raises(ValueError, match=r"\(|needs|top_k"):
        metric.update_state(*(np.zeros(shape) for shape in shapes))


def test_weights_that_do_not_fit():
    with pytest.raises(ValueError, match=r"sample_weight of shape \(2,\).*\(4,\)"):
        metrics.MeanSquaredError().update_state(np.ones((4, 3)), np.ones((4, 3)), np.ones(2))
    with pytest.raises(ValueError, match="6 entries"):
        metrics.MeanIoU(2).update_state(np.ones((2, 3)), np.ones((2, 3)), np.ones(2, "int32"))
    with pytest.raises(ValueError, match="sample_weight"):
        metrics.AUC().update_state(np.ones((4, 3)), np.ones((4, 3)), np.ones(2))


def test_warnings():
    with pytest.warns(UserWarning, match="MeanIoU: sample weights are cut"):
        metrics.MeanIoU(2).update_state([0, 1], [0, 1], np.ones(2, "float32"))
    metric = metrics.R2Score(num_regressors=9)
    metric.update_state(np.eye(2), np.eye(2))
    with pytest.warns(UserWarning, match="9 regressors"):
        metric.result()


def test_get():
    assert metrics.get("auc").name.startswith("auc")
    assert isinstance(metrics.get("MSE"), metrics.MeanSquaredError)
    assert isinstance(metrics.get({"class_name": "AUC", "config": {"curve": "PR"}}), metrics.AUC)
    assert metrics.get(metrics.binary_accuracy) is metrics.binary_accuracy
    with pytest.raises(ValueError, match="accuracy"):
        metrics.get("acuracy")
