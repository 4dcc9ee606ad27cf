import numpy as np
import pytest

import gpukeras as keras

X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("labels", "classes"), [([0, 2, 1], None), ([[1], [0]], 3), ([[0, 1], [2, 2]], None), (np.array([1.0, 0.0]), 2)]
)
def test_to_categorical_equals_keras(labels, classes):
    from tests.oracle import keras as oracle_keras

    ours, theirs = keras.utils.to_categorical(labels, classes), oracle_keras.utils.to_categorical(labels, classes)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.shape == theirs.shape


def test_to_categorical_refuses_labels_out_of_range():
    for labels in ([0, 3], [-1, 0]):
        with pytest.raises(ValueError, match=r"0\.\.2"):
            keras.utils.to_categorical(labels, 3)


def test_normalize():
    np.testing.assert_allclose(np.linalg.norm(keras.utils.normalize(X), axis=1), 1, rtol=1e-6)
    assert keras.utils.normalize(np.zeros((1, 2))).tolist() == [[0, 0]]


def test_set_random_seed_refuses_what_is_no_seed():
    for seed in ("one", -1, 2**32, 1.5):
        with pytest.raises(ValueError, match="2\\*\\*32"):
            keras.utils.set_random_seed(seed)


def test_py_dataset_feeds_the_loops_in_order():
    ended = []

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            x = X[index * 4 : index * 4 + 4]
            return x, x[:, :1]

        def on_epoch_end(self):
            ended.append(True)

    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(Batches(), epochs=2, verbose=0)
    assert len(ended) == 2
    # Batches of 4 and of 12 rows may be summed in another order: float32 rounds numbers near 1 to 6e-8.
    np.testing.assert_allclose(model.predict(Batches(), verbose=0), model.predict(X, verbose=0), rtol=1e-6, atol=1e-7)
    with pytest.raises(NotImplementedError, match="workers"):
        keras.utils.PyDataset(workers=2)
    with pytest.raises(ValueError, match="batch_size"):
        model.fit(Batches(), batch_size=4)


def test_progbar_counts_and_averages(capsys):
    bar = keras.utils.Progbar(4, stateful_metrics=["state"], interval=0)
    for step in range(1, 5):
        bar.update(step, [("mean", float(step)), ("state", float(step))])
    text = capsys.readouterr().out
    assert "4/4" in text.replace("\x1b[1m", "").replace("\x1b[0m", "") and "state: 4.0000" in text
    with pytest.raises(ValueError, match="both"):
        keras.utils.Progbar(2, stateful_metrics=[], stateless_metrics=[])


def test_clear_session_starts_names_anew():
    keras.utils.clear_session()
    assert [keras.layers.Dense(1).name for _ in range(2)] == ["dense", "dense_1"]
    keras.utils.clear_session()
    assert keras.layers.Dense(1).name == "dense"
