"""The digits are complete, in order and undamaged."""

import hashlib
from pathlib import Path

import numpy as np

from gpukeras.datasets import digits

# Of the 1,797 lines of the source's text file, each number written as one byte.
SHA256 = "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"


def joined():
    (x_train, y_train), (x_test, y_test) = digits.load_data()
    return np.concatenate([x_train, x_test]), np.concatenate([y_train, y_test])


def test_shapes_and_dtypes():
    (x_train, y_train), (x_test, y_test) = digits.load_data()
    assert x_train.shape == (1437, 8, 8) and y_train.shape == (1437,)
    assert x_test.shape == (360, 8, 8) and y_test.shape == (360,)
    assert {a.dtype for a in (x_train, y_train, x_test, y_test)} == {np.dtype("uint8")}


def test_pixels_use_the_whole_range():
    x, _ = joined()
    assert x.min() == 0 and x.max() == 16


def test_class_counts_are_those_that_uci_states():
    _, y = joined()
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_every_digit_is_tested_about_equally_often():
    _, (_, y_test) = digits.load_data()
    counts = np.bincount(y_test, minlength=10)
    assert counts.min() >= 33 and counts.max() <= 37


def test_bytes_are_the_source_s():
    x, y = joined()
    rows = np.concatenate([x.reshape(-1, 64), y[:, None]], axis=1)
    assert hashlib.sha256(rows.tobytes()).hexdigest() == SHA256


def test_images_belong_to_their_labels():
    (x_train, y_train), (x_test, y_test) = digits.load_data()
    means = np.stack([x_train[y_train == digit].mean(axis=0) for digit in range(10)])
    distances = ((x_test[:, None] - means) ** 2).sum(axis=(2, 3))
    assert (distances.argmin(axis=1) == y_test).mean() > 0.8


def test_each_call_returns_arrays_of_its_own():
    (x, _), _ = digits.load_data()
    x[:] = 99
    (again, _), _ = digits.load_data()
    assert again.max() == 16


def test_licence_note_lies_beside_the_data():
    note = Path(digits.__file__).with_name("digits.LICENSE.txt").read_text(encoding="utf-8")
    assert "CC BY 4.0" in note and "Alpaydin" in note
