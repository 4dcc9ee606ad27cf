"""Small datasets to learn and to test with."""

from gpukeras.datasets import digits

__all__ = ["digits"]
