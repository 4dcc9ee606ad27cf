"""Checkpoints: where, when and what is saved. Keras's own behaviour stands in tests/parity."""

import numpy as np
import pytest

import gpukeras as keras
from gpukeras.callbacks import ModelCheckpoint

X = np.linspace(-1, 1, 16, dtype="float32").reshape(8, 2)
Y = X.sum(axis=1, keepdims=True)


def make_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def test_training_goes_on_from_a_checkpoint(tmp_path):
    path = tmp_path / "{epoch}.keras"
    model = make_model()
    straight = model.fit(X, Y, epochs=4, batch_size=4, callbacks=[ModelCheckpoint(path)], verbose=0)
    loaded = keras.models.load_model(tmp_path / "2.keras")
    resumed = loaded.fit(X, Y, epochs=4, initial_epoch=2, batch_size=4, verbose=0)
    assert resumed.history["loss"] == straight.history["loss"][2:]
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_few_batches(tmp_path):
    path = tmp_path / "{epoch}-{batch}-{loss:.1f}.weights.h5"
    checkpoint = ModelCheckpoint(path, save_weights_only=True, save_freq=3)
    history = make_model().fit(X, Y, epochs=3, batch_size=2, callbacks=[checkpoint], verbose=0)
    assert history.epoch == [0, 1, 2]
    names = sorted(file.name.rpartition("-")[0] for file in tmp_path.iterdir())
    assert names == ["1-3", "2-2", "3-1", "3-4"]


def test_best_by_batches_needs_no_finished_epoch(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "{batch}.keras", monitor="loss", save_best_only=True, save_freq=1)
    checkpoint.set_model(make_model())
    checkpoint.on_epoch_begin(0)
    for batch, loss in enumerate([3.0, 4.0, 2.0]):
        checkpoint.on_train_batch_end(batch, {"loss": loss})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["1.keras", "3.keras"]


def test_batches_that_are_not_saved_do_not_read_the_logs(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "model.keras", save_freq=2)
    checkpoint.set_model(make_model())
    reads = []
    callbacks = keras.callbacks.CallbackList([checkpoint])
    for batch in range(4):
        callbacks.on_train_batch_end(batch, lambda: reads.append(1) or {"loss": 1.0})
    assert len(reads) == 2


def test_subclass_gets_logs_as_a_dictionary(tmp_path):
    seen = []

    class Mine(ModelCheckpoint):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(logs["loss"])
            super().on_train_batch_end(batch, logs)

    make_model().fit(X, Y, batch_size=4, callbacks=[Mine(tmp_path / "a.keras", save_freq=1)], verbose=0)
    assert len(seen) == 2
    assert (tmp_path / "a.keras").exists()


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "1.keras").mkdir()
    (tmp_path / "1.keras" / "file").touch()
    with pytest.raises(OSError, match="non-directory filepath for ModelCheckpoint"):
        make_model().fit(X, Y, callbacks=[ModelCheckpoint(tmp_path / "{epoch}.keras")], verbose=0)


def test_a_name_that_the_logs_lack(tmp_path):
    with pytest.raises(KeyError, match="Reason: .*val_loss.*The logs have .*loss"):
        make_model().fit(X, Y, callbacks=[ModelCheckpoint(tmp_path / "{val_loss}.keras")], verbose=0)


def test_old_whole_model_format_is_refused():
    with pytest.raises(NotImplementedError, match="let the filepath end in `.keras`"):
        ModelCheckpoint("model.h5")


def test_value_that_is_no_scalar(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "a.keras", save_best_only=True)
    checkpoint.set_model(make_model())
    with pytest.warns(UserWarning, match="only when `monitor` is a scalar value"):
        checkpoint.on_epoch_end(0, {"val_loss": np.ones(2)})
    assert (tmp_path / "a.keras").exists()
