"""One engine in one process: reads commands as lines of JSON, answers each with a line of JSON.

    python -m bench.worker gpukeras|keras|raw-torch

`bench.compare` starts a worker in each engine's environment and has them work in turn; a worker that waits for its
next command sleeps. Whatever a library prints goes to the error stream.
"""

import gc
import json
import os
import sys
import time

from bench import machine

__all__ = ["main"]


class Worker:
    """The commands, one method each; what they return is the answer."""

    def __init__(self, engine):
        self.engine = engine
        self.keras = None
        self.memory_after_import = 0
        self.model = self.x = self.y = self.batch_size = self.first = None

    def load(self):
        """Import the engine, models included. Returns seconds and versions."""
        start = time.perf_counter()
        if self.engine == "gpukeras":
            import gpukeras as keras
        elif self.engine == "raw-torch":
            import torch as keras  # the workloads are its own; see raw_torch.py
        else:
            import keras
        self.keras = keras
        getattr(keras, "Model", None)  # gpukeras imports its parts at first use
        seconds = time.perf_counter() - start
        self.memory_after_import = machine.resident_memory()
        return {"seconds": seconds, "versions": machine.versions()}

    def open(self, workload, tiny=False, weights=True):
        """Build and compile a workload; with the weights that every engine starts from, or its own."""
        self.close()
        if self.engine == "raw-torch":
            from bench import raw_torch

            self.model = raw_torch.build(workload, tiny)
            self.x, self.y, self.batch_size = self.model.x, self.model.y, self.model.batch_size
        else:
            from bench import workloads

            opened = workloads.WORKLOADS[workload](self.keras, tiny)
            self.model = opened.compile()
            self.x, self.y, self.batch_size = opened.x, opened.y, opened.batch_size
            if weights:
                workloads.reset(self.model)
                self.first = self.model.get_weights()
        return {}

    def close(self):
        """Let go of the workload."""
        if self.model is not None:
            self.model = self.x = self.y = self.first = None
            if self.engine != "raw-torch":
                self.keras.utils.clear_session()
            gc.collect()
        return {}

    def agree(self, steps=4):
        """Mean loss of an epoch of one step, then of two epochs of some more: equal work, equal losses."""
        losses = []
        for rows, epochs in ((self.batch_size, 1), (steps * self.batch_size, 2)):
            x, y = self.x[:rows], self.y[:rows]
            fitted = self.model.fit(x, y, batch_size=self.batch_size, epochs=epochs, shuffle=False, verbose=0)
            losses += [float(loss) for loss in fitted.history["loss"]]
        return {"losses": losses}

    def first_step(self):
        """Seconds from a compiled model to the end of its first step."""
        rows = self.batch_size
        x, y = self.x[:rows], self.y[:rows]
        start = time.perf_counter()
        self.model.fit(x, y, batch_size=rows, epochs=1, verbose=0)
        return {"seconds": time.perf_counter() - start}

    def train(self, epochs=1):
        """Seconds per training step, through `fit`, from the weights of the start.

        The time runs from the beginning of the first epoch to the end of the last: what `fit` does once is left out
        (TensorFlow builds a data pipeline in it, which would decide the figures of short runs).
        """
        if self.engine == "raw-torch":
            self.model.reset()
        elif self.first is not None:
            self.model.set_weights(self.first)
        gc.collect()
        watch = self._watch()
        started = time.perf_counter()
        self.model.fit(self.x, self.y, batch_size=self.batch_size, epochs=epochs, verbose=0, callbacks=watch)
        ended = time.perf_counter()
        if watch:
            started, ended = watch[0].started, watch[0].ended
        steps = epochs * (len(self.x) // self.batch_size)
        return {"seconds": (ended - started) / steps, "steps": steps}

    def _watch(self):
        """A callback that reads the clock at the first epoch's beginning and each epoch's end."""
        if self.engine == "raw-torch":
            return []

        class Watch(self.keras.callbacks.Callback):
            started = ended = None

            def on_epoch_begin(self, epoch, logs=None):
                if self.started is None:
                    self.started = time.perf_counter()

            def on_epoch_end(self, epoch, logs=None):
                self.ended = time.perf_counter()

        return [Watch()]

    def predict(self, rows=256, batches=16, repeats=1):
        """Seconds of `predict` for some rows, in a call with several such batches."""
        import numpy as np

        x = np.resize(self.x, (rows * batches, *self.x.shape[1:]))
        self.model.predict(x[:rows], batch_size=rows, verbose=0)
        found = self._repeat(lambda: self.model.predict(x, batch_size=rows, verbose=0), repeats)
        return {"seconds": found["seconds"] / batches, "steps": batches}

    def predict_one(self, repeats=1):
        """Seconds of `predict` for one row."""
        x = self.x[:1]
        return self._repeat(lambda: self.model.predict(x, batch_size=None, verbose=0), repeats)

    def call_one(self, repeats=1):
        """Seconds of a call of the model on one row, until its result is there."""
        x = self.x[:1]
        if not hasattr(self.model(x), "block_until_ready"):
            return self._repeat(lambda: self.model(x), repeats)
        return self._repeat(lambda: self.model(x).block_until_ready(), repeats)  # JAX returns before it has computed

    def _repeat(self, function, repeats):
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        return {"seconds": (time.perf_counter() - start) / repeats}

    def memory(self):
        """Bytes that were in memory at most, above those after the import."""
        return {"bytes": max(0, machine.peak_memory() - self.memory_after_import)}

    def first_fit(self):
        """A first chapter's program: two clouds of points, a linear model, five epochs."""
        import numpy as np

        if self.keras is None:
            self.load()
        keras, random = self.keras, np.random.default_rng(0)
        covariance = [[1, 0.5], [0.5, 1]]
        x = np.vstack([random.multivariate_normal(mean, covariance, 1000) for mean in ([0, 3], [3, 0])])
        y = np.vstack([np.zeros((1000, 1), "float32"), np.ones((1000, 1), "float32")])
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile(optimizer="sgd", loss="mean_squared_error", metrics=["accuracy"])
        history = model.fit(x.astype("float32"), y, epochs=5, batch_size=128, verbose=0)
        return {"loss": float(history.history["loss"][-1])}


def main():
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # also what compiled code prints
    sys.stdout = sys.stderr
    limit = int(os.environ.get("BENCH_CORES", "0"))  # before any library counts the cores
    if limit and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:limit])
    worker = Worker(sys.argv[1])
    idle_from = time.process_time()
    for line in sys.stdin:
        idle = time.process_time() - idle_from
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answer["idle_seconds"] = idle  # what the engine's threads used while it should have slept
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        idle_from = time.process_time()


if __name__ == "__main__":
    main()
