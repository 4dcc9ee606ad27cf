"""Measurements of gpukeras; each is a command, run from the root of the repository.

    python -m pytest bench          training step and prediction of every workload (pytest-benchmark)
    python -m bench.compare         the same Keras script on gpukeras and on Keras with JAX, PyTorch and TensorFlow
    python -m bench.profile MODEL   where a training step's time goes, layer by layer, against the floor
    python -m bench.memory          page faults of a training step, growth over many calls
    python -m bench.sweep           cost against batch size, depth and amount of data
    python -m bench.import_time     cost of the import and of the first use
    python -m bench.call_count      Python calls of a warm Dense + ReLU
    python -m bench.page            writes docs/speed.md from the figures in bench/results/

They print what they measured and assert nothing.
"""
