"""The table of logs. Keras's own behaviour stands in tests/parity."""

import csv

import numpy as np

import gpukeras as keras
from gpukeras.callbacks import CSVLogger


def test_table_agrees_with_the_history(tmp_path):
    x = np.linspace(-1, 1, 16, dtype="float32").reshape(8, 2)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    path = tmp_path / "log.csv"
    history = model.fit(x, x[:, :1], epochs=3, validation_split=0.5, callbacks=[CSVLogger(path)], verbose=0).history
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "loss", "mae", "val_loss", "val_mae"]
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    for name, values in history.items():
        assert [float(row[name]) for row in rows] == values


def test_lines_are_on_disk_while_training_runs(tmp_path):
    logger = CSVLogger(tmp_path / "log.csv", append=True)
    for start in range(2):
        logger.on_train_begin()
        logger.on_epoch_end(start, {"loss": 0.5})
        assert (tmp_path / "log.csv").read_text().splitlines()[-1] == f"{start},0.5,NA"
    logger.on_train_end()
    assert (tmp_path / "log.csv").read_text().splitlines()[0] == "epoch,loss,val_loss"
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3
