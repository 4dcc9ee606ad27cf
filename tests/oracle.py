"""The installed Keras (JAX, CPU), which says what is right. Imported by tests only."""

import os
import warnings

import pytest

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    keras = pytest.importorskip("keras")
    import jax
    import jax.numpy as jnp

__all__ = ["jax", "jnp", "keras"]


def plain(config):
    """A config with lists for tuples, so that dictionaries of both libraries can be compared."""
    if isinstance(config, dict):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [plain(item) for item in config]
    return config
