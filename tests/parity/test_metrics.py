"""Metrics against the installed Keras: several updates, weights, masks, resets, configs."""

import inspect

import numpy as np
import pytest

from gpukeras import metrics, registry
from gpukeras.autograd.symbolic import clear_names
from gpukeras.autograd.tensor import Tensor
from tests.helpers import assert_close
from tests.oracle import jnp
from tests.oracle import keras as oracle_keras

pytestmark = pytest.mark.oracle

BITS, SIGNS, ONE_HOT, CLASSES, REAL = "bits", "signs", "one-hot", "classes", "real"
VECTOR, COLUMN, EQUAL, SEGMENTS, LOGITS = "vector", "column", "equal", "segments", "logits"
TIED = "tied"


def cases():
    for name in (
        "MeanSquaredError",
        "RootMeanSquaredError",
        "MeanAbsoluteError",
        "MeanAbsolutePercentageError",
        "MeanSquaredLogarithmicError",
        "LogCoshError",
        "Poisson",
        "KLDivergence",
        "PearsonCorrelation",
        "ConcordanceCorrelation",
        "CosineSimilarity",
    ):
        yield name, {}, REAL
    yield "R2Score", {}, REAL
    yield "R2Score", {"class_aggregation": None}, REAL
    yield "R2Score", {"class_aggregation": "variance_weighted_average"}, REAL
    yield "R2Score", {"num_regressors": 2}, REAL
    for name in ("Hinge", "SquaredHinge"):
        yield name, {}, SIGNS
        yield name, {}, BITS
    yield "CategoricalHinge", {}, ONE_HOT
    for settings in ({}, {"from_logits": True, "label_smoothing": 0.1}):
        yield "BinaryCrossentropy", settings, BITS
        yield "CategoricalCrossentropy", settings, ONE_HOT
    yield "SparseCategoricalCrossentropy", {}, CLASSES
    yield "SparseCategoricalCrossentropy", {"from_logits": True, "ignore_class": 1}, CLASSES
    yield "Accuracy", {}, EQUAL
    yield "BinaryAccuracy", {}, BITS
    yield "BinaryAccuracy", {"threshold": 0.3}, COLUMN
    yield "BinaryAccuracy", {}, VECTOR
    yield "CategoricalAccuracy", {}, ONE_HOT
    yield "SparseCategoricalAccuracy", {}, CLASSES
    yield "SparseCategoricalAccuracy", {}, TIED
    for k in (1, 2):
        yield "TopKCategoricalAccuracy", {"k": k}, ONE_HOT
        yield "SparseTopKCategoricalAccuracy", {"k": k}, CLASSES
        yield "SparseTopKCategoricalAccuracy", {"k": k}, TIED
    for name in ("TruePositives", "FalsePositives", "TrueNegatives", "FalseNegatives"):
        for thresholds in (None, 0.3, [0.2, 0.7], [0.0, 0.5, 1.0], [0.0, 0.25, 0.5, 0.75, 1.0]):
            yield name, {"thresholds": thresholds}, BITS
        yield name, {}, VECTOR
    for name in ("Precision", "Recall"):
        for settings in (
            {},
            {"thresholds": [0.2, 0.7]},
            {"thresholds": [0.0, 0.5, 1.0]},
            {"class_id": 1},
            {"top_k": 2},
            {"top_k": 2, "class_id": 0},
            {"top_k": 2, "thresholds": 0.5},
        ):
            yield name, settings, BITS
        yield name, {}, COLUMN
    for name, argument in (
        ("PrecisionAtRecall", "recall"),
        ("RecallAtPrecision", "precision"),
        ("SensitivityAtSpecificity", "specificity"),
        ("SpecificityAtSensitivity", "sensitivity"),
    ):
        yield name, {argument: 0.6}, VECTOR
        yield name, {argument: 0.4, "num_thresholds": 7, "class_id": 2}, BITS
        yield name, {argument: 0.4, "num_thresholds": 1}, COLUMN
    for curve in ("ROC", "PR", "PRGAIN"):
        for method in ("interpolation", "majoring", "minoring"):
            settings = {"curve": curve, "summation_method": method}
            yield "AUC", settings, VECTOR
            yield "AUC", {**settings, "num_thresholds": 5}, COLUMN
            yield "AUC", {**settings, "thresholds": [0.2, 0.3, 0.9]}, VECTOR
            yield "AUC", {**settings, "multi_label": True}, BITS
    yield "AUC", {"multi_label": True, "num_labels": 4, "thresholds": [0.3, 0.7]}, BITS
    yield "AUC", {"multi_label": True, "thresholds": [0.25, 0.5, 0.75]}, BITS
    for curve in ("ROC", "PR"):
        weights = [0.1, 0.4, 0.2, 0.3]
        yield "AUC", {"curve": curve, "multi_label": True, "label_weights": weights}, BITS
        yield "AUC", {"curve": curve, "label_weights": weights}, BITS
        yield "AUC", {"curve": curve, "label_weights": weights, "thresholds": [0.2, 0.8]}, BITS
    yield "AUC", {"from_logits": True}, LOGITS
    for average in (None, "micro", "macro", "weighted"):
        yield "F1Score", {"average": average}, ONE_HOT
        yield "F1Score", {"average": average, "threshold": 0.4}, BITS
        yield "FBetaScore", {"average": average, "beta": 2.0, "threshold": 0.5}, BITS
    yield "IoU", {"num_classes": 4, "target_class_ids": [0, 2]}, SEGMENTS
    yield "IoU", {"num_classes": 4, "target_class_ids": (1,), "ignore_class": 3}, SEGMENTS
    yield "MeanIoU", {"num_classes": 4}, SEGMENTS
    yield "MeanIoU", {"num_classes": 3, "dtype": "float32"}, SEGMENTS
    yield "MeanIoU", {"num_classes": 4, "sparse_y_pred": False}, CLASSES
    yield "BinaryIoU", {"threshold": 0.4, "target_class_ids": [1]}, BITS
    yield "BinaryIoU", {}, VECTOR
    yield "OneHotIoU", {"num_classes": 4, "target_class_ids": [1, 3]}, ONE_HOT
    yield "OneHotMeanIoU", {"num_classes": 4}, ONE_HOT


CASES = list(cases())


def data(kind, rng, n=9, classes=4):
    y_pred = rng.uniform(0.02, 0.98, (n, classes)).astype("float32")
    label = rng.integers(0, classes, n)
    if kind == CLASSES:
        return label, y_pred
    if kind == TIED:
        return label[:, None].astype("float32"), y_pred.round(1)
    if kind == ONE_HOT:
        return np.eye(classes, dtype="float32")[label], y_pred
    if kind == BITS:
        return rng.integers(0, 2, (n, classes)), y_pred
    if kind == SIGNS:
        return rng.integers(0, 2, (n, classes)).astype("float32") * 2 - 1, y_pred
    if kind == COLUMN:
        return rng.integers(0, 2, (n, 1)).astype("float32"), y_pred[:, :1]
    if kind in (VECTOR, LOGITS):
        y_pred = y_pred[:, 0] * 6 - 3 if kind == LOGITS else y_pred[:, 0].round(1)
        return rng.integers(0, 2, n), y_pred
    if kind == EQUAL:
        return rng.integers(0, 3, (n, 2)), rng.integers(0, 3, (n, 2)).astype("float32")
    if kind == SEGMENTS:
        return rng.integers(-1, classes, (n, 3)), rng.integers(0, classes, (n, 3))
    return rng.uniform(0.05, 0.95, (n, classes)).astype("float32"), y_pred


def both(name, settings):
    clear_names()
    oracle_keras.backend.clear_session()
    return getattr(metrics, name)(**settings), getattr(oracle_keras.metrics, name)(**settings)


def assert_equal_state(metric, oracle):
    actual, expected = metric.result(), np.asarray(oracle.result())
    assert actual.dtype == expected.dtype
    # 5: an area is a difference of sums that were added in another order
    assert_close(actual, expected, dtype="float32", scale=5)
    assert [v.path for v in metric.variables] == [v.path for v in oracle.variables]
    for ours, theirs in zip(metric.variables, oracle.variables, strict=True):
        assert ours.dtype == theirs.dtype
        assert_close(ours.value, np.asarray(theirs.value), dtype="float32", scale=10)


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize(("name", "settings", "kind"), CASES)
@pytest.mark.filterwarnings("ignore:You are passing weight")
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")  # the oracle's own
def test_several_updates_and_a_reset(name, settings, kind, is_weighted, rng):
    metric, oracle = both(name, settings)
    assert metric.name == oracle.name
    config, expected = metric.get_config(), oracle.get_config()
    if expected.get("label_weights") is not None:
        expected["label_weights"] = settings["label_weights"]  # the oracle keeps an array
    assert config == expected
    for sizes in ((9, 5), (5,)):
        for n in sizes:
            y_true, y_pred = data(kind, rng, n)
            weight = None
            if is_weighted:
                weight = rng.integers(0, 3, n) if "IoU" in name else rng.random(n).astype("float32")
                if kind == SEGMENTS:
                    weight = weight[:, None].repeat(3, 1)
                if name == "BinaryIoU" and kind == BITS:
                    weight = weight[:, None].repeat(4, 1)
            metric.update_state(y_true, y_pred, sample_weight=weight)
            oracle.update_state(y_true, y_pred, sample_weight=weight)
            assert_equal_state(metric, oracle)
        metric.reset_state()
        oracle.reset_state()
        assert all(not v.numpy().any() for v in metric.variables)


@pytest.mark.parametrize("name", ["Mean", "Sum"])
@pytest.mark.parametrize("shape", [(), (6,), (6, 1), (6, 3), (6, 3, 2)])
@pytest.mark.parametrize("weight_shape", [None, (), (6,), (6, 1), (6, 3)])
def test_reduction_of_values(name, shape, weight_shape, rng):
    metric, oracle = both(name, {})
    values = rng.random(shape).astype("float32")
    weight = None if weight_shape is None else rng.random(weight_shape).astype("float32")
    fits = weight is None or (
        weight.ndim <= values.ndim and all(w in (1, v) for w, v in zip(weight.shape, shape, strict=False))
    )
    if not fits and (values.ndim, weight_shape) != (1, (6, 1)):
        with pytest.raises(ValueError, match="sample_weight"):
            metric.update_state(values, weight)
        return
    for _ in range(2):
        metric.update_state(values, weight)
        oracle.update_state(values, weight)
        assert_equal_state(metric, oracle)


@pytest.mark.parametrize("weight_shape", [None, (5,), (5, 3)])
@pytest.mark.parametrize("name", ["MeanSquaredError", "SparseCategoricalAccuracy"])
def test_mask(name, weight_shape, rng):
    metric, oracle = both(name, {})
    y_pred = rng.random((5, 3, 4)).astype("float32")
    y_true = rng.integers(0, 4, (5, 3)) if "Sparse" in name else rng.random((5, 3, 4))
    weight = None if weight_shape is None else rng.random(weight_shape).astype("float32")
    if weight_shape == (5,):
        weight = weight[:, None]
    mask = rng.random((5, 3)) < 0.6
    tensor, oracle_tensor = Tensor(y_pred), jnp.asarray(y_pred)
    tensor._keras_mask = Tensor(mask)
    oracle_keras.src.backend.set_keras_mask(oracle_tensor, jnp.asarray(mask))
    metric.update_state(y_true, tensor, weight)
    oracle.update_state(y_true, oracle_tensor, weight)
    assert_equal_state(metric, oracle)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")  # the oracle's own
def test_dtype(dtype):
    metric, oracle = both("MeanSquaredError", {"dtype": dtype})
    assert metric.get_config() == oracle.get_config()
    metric.update_state([1.0, 2.0], [1.5, 2.0])
    assert metric.result().dtype == dtype
    assert metric.total.dtype == dtype


def test_sorted_classes(rng):
    settings = {"k": 2, "from_sorted_ids": True}
    metric, oracle = both("SparseTopKCategoricalAccuracy", settings)
    assert metric.get_config() == oracle.get_config()
    y_true = np.array([2, 1, 0])
    y_pred = np.array([[1, 2, 0], [0, 2, 1], [0, 1, 2]], "float32")
    metric.update_state(y_true, y_pred)
    oracle.update_state(y_true, y_pred)
    assert_equal_state(metric, oracle)


def test_wrapper():
    def distance(y_true, y_pred, power=1):
        return abs(y_true - y_pred) ** power

    metric, oracle = (k.MeanMetricWrapper(distance, name="distance", power=2) for k in (metrics, oracle_keras.metrics))
    y_true, y_pred = np.array([[1.0, 2.0]], "float32"), np.array([[2.0, 5.0]], "float32")
    metric.update_state(y_true, y_pred)
    oracle.update_state(y_true, y_pred)
    assert_equal_state(metric, oracle)
    metric, oracle = (k.MeanMetricWrapper(k.mean_squared_error, name="x") for k in (metrics, oracle_keras.metrics))
    assert metric.get_config() == oracle.get_config()
    assert metrics.MeanMetricWrapper.from_config(metric.get_config())._fn is metrics.mean_squared_error


def test_functions(rng):
    shapes = {"sparse_categorical_crossentropy": CLASSES, "sparse_categorical_accuracy": CLASSES}
    shapes["sparse_top_k_categorical_accuracy"] = CLASSES
    for name in dir(oracle_keras.metrics):
        function = getattr(oracle_keras.metrics, name)
        if name[0] == "_" or not inspect.isfunction(function):
            continue
        if name in ("get", "serialize", "deserialize"):
            continue
        y_true, y_pred = data(shapes.get(name, ONE_HOT), rng)
        expected = np.asarray(function(y_true, y_pred))
        actual = getattr(metrics, name)(y_true, y_pred)
        assert actual.dtype == expected.dtype
        assert_close(actual, expected, dtype="float32", scale=5, err_msg=name)


def test_names_and_arguments_are_the_oracles():
    for name in dir(oracle_keras.metrics):
        if name.startswith("_"):
            continue
        ours, theirs = getattr(metrics, name), getattr(oracle_keras.metrics, name)
        expected = [(p.name, p.default) for p in inspect.signature(theirs).parameters.values()]
        actual = [(p.name, p.default) for p in inspect.signature(ours).parameters.values()]
        assert actual == expected, name


def test_names_mean_what_they_mean_to_the_oracle():
    for name, cls in oracle_keras.src.metrics.ALL_OBJECTS_DICT.items():
        if cls.__name__ != "Metric":
            assert registry.find(name, ["metric"]).__name__ == cls.__name__
    assert metrics.get(None) is None
    assert metrics.get("mse").name == "mean_squared_error"


def test_serialized_like_the_oracles():
    for name in ("AUC", "Precision", "MeanSquaredError", "Mean", "F1Score", "R2Score"):
        metric, oracle = both(name, {})
        config = metrics.serialize(metric)
        assert config == oracle_keras.metrics.serialize(oracle)
        assert metrics.deserialize(config).get_config() == metric.get_config()


def test_names_are_numbered():
    clear_names()
    assert [metrics.AUC().name for _ in range(3)] == ["auc", "auc_1", "auc_2"]
    assert metrics.TruePositives().name == "true_positives"
