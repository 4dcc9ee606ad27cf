"""How many Python calls a warm Dense + ReLU makes: forward, backward, and in which files.

    python -m bench.call_count

Prints one line of JSON. Calls are counted with `sys.setprofile` inside the library's own files; compiled code
(NumPy) is invisible to it.
"""

import collections
import json
import os
import sys

import numpy as np

import gpukeras as keras
from bench import machine
from gpukeras.autograd.scope import setting
from gpukeras.autograd.tape import Tape

LIBRARY = os.path.dirname(keras.__file__)


def count_calls(function):
    """Run `function`; returns its result and the calls it made in the library, by (file, function)."""
    calls = collections.Counter()

    def profile(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(LIBRARY):
            calls[os.path.relpath(frame.f_code.co_filename, LIBRARY), frame.f_code.co_name] += 1

    sys.setprofile(profile)
    try:
        result = function()
    finally:
        sys.setprofile(None)
    return result, calls


def main():
    """Count and print."""
    layer = keras.layers.Dense(4, activation="relu")
    x = keras.ops.convert_to_tensor(np.ones((2, 3), "float32"))
    layer(x)
    with setting(layer=layer):  # as inside of a model, whose own call is the outermost
        layer(x)
        with Tape() as tape:
            y, forward = count_calls(lambda: layer(x))
    seed = np.ones(y.shape, "float32")
    variables = layer.trainable_variables
    _, backward = count_calls(lambda: tape.gradients([(y, seed)], variables))
    report = {
        "bench": "call_count",
        **machine.description(),
        "forward_calls": sum(forward.values()),
        "backward_calls": sum(backward.values()),
        "forward": {f"{file}:{name}": count for (file, name), count in forward.items()},
        "backward": {f"{file}:{name}": count for (file, name), count in backward.items()},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
