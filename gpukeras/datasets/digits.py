"""Handwritten digits of 8 x 8 pixels, shipped with the package."""

from pathlib import Path

import numpy as np

__all__ = ["load_data"]

_TEST_IMAGES = 360


def load_data():
    """Load the UCI handwritten digits: 1,797 grey images of 8 x 8 pixels, ten classes.

    The images keep the order of their source. The first 1,437 are for training, the last 360 for
    testing; both hold every digit about equally often. A pixel counts the dark points in a block of
    4 x 4 of the scanned bitmap.

    Returns:
        ``(x_train, y_train), (x_test, y_test)``, new NumPy arrays at every call.

    Shapes:
        x_train (1437, 8, 8), x_test (360, 8, 8): uint8, from 0 (paper) to 16 (ink)
        y_train (1437,), y_test (360,): uint8, the digits 0 to 9

    Reference:
        E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
        Repository, 1998, https://doi.org/10.24432/C50P49; its test set. Licence: CC BY 4.0.

    Example:
        >>> (x_train, y_train), (x_test, y_test) = load_data()
        >>> x_train.shape, y_test.shape
        ((1437, 8, 8), (360,))
        >>> y_train[:10].tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as archive:
        x, y = archive["x"], archive["y"]
    split = len(x) - _TEST_IMAGES
    return (x[:split], y[:split]), (x[split:], y[split:])
