"""`.keras` files: what goes in comes out, trainings go on bit for bit, bad files are told."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import gpukeras as keras
from gpukeras.saving import store

ROOT = Path(__file__).parents[2]


def small_model(units=3):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dense(2)])


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path, **changed):
    """The archive at `path` again, with members changed, or left out where None."""
    contents = {**members(path), **{k.replace("__", "."): v for k, v in changed.items()}}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            if content is not None:
                archive.writestr(name, content)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.keras"
    small_model().save(path)
    return path


# --- Round trips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_model_comes_back(as_path, tmp_path, rng):
    model = small_model()
    path = as_path(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert type(loaded) is keras.Sequential
    assert loaded.name == model.name
    x = rng.normal(size=(3, 4)).astype("float32")
    np.testing.assert_array_equal(loaded(x).numpy(), model(x).numpy())
    assert not loaded.compiled
    metadata = json.loads(members(path)["metadata.json"])
    assert metadata["keras_version"].startswith("3.")
    assert set(metadata) == {"keras_version", "date_saved"}


def training_model():
    i = keras.Input((6,))
    x = keras.layers.Dense(8, activation="relu")(i)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.3)(x)
    x = keras.layers.GaussianNoise(0.1, seed=5)(x)
    return keras.Model(i, keras.layers.Dense(1)(x))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(0.01),
        lambda: keras.optimizers.SGD(0.01, momentum=0.9),
        lambda: keras.optimizers.RMSprop(0.01),
        lambda: keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.01, 100)),
        lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=3),
        lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
    ],
    ids=["adam", "momentum", "rmsprop", "schedule", "ema", "accumulation", "loss scale"],
)
def test_a_training_goes_on_bit_for_bit(optimizer, tmp_path, rng, device):
    x = rng.normal(size=(32, 6)).astype("float32")
    y = rng.normal(size=(32, 1)).astype("float32")
    model = training_model()
    model.compile(optimizer(), "mse", metrics=["mae"])
    for start in (0, 8, 16):
        model.train_on_batch(x[start : start + 8], y[start : start + 8])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        one.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    for actual, expected in zip(loaded.variables, model.variables, strict=True):
        np.testing.assert_array_equal(actual.numpy(), expected.numpy(), err_msg=expected.path)
    for actual, expected in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(actual.numpy(), expected.numpy(), err_msg=expected.path)


def test_what_was_compiled_is_compiled_again_unless_it_shall_not(tmp_path):
    model = small_model()
    model.compile("sgd", "mse", metrics=["mae"])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.compiled
    assert loaded.optimizer.built
    assert type(loaded.optimizer) is keras.optimizers.SGD
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert not loaded.compiled


def test_one_layer_in_two_places_is_one_layer_again(tmp_path):
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(4)])
    i = keras.Input((4,))
    middle = keras.Model(i, keras.layers.Dense(4)(inner(i)))
    j = keras.Input((4,))
    model = keras.Model(j, keras.layers.Add()([middle(j), inner(j)]))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    middle, inner = (
        next(layer for layer in loaded.layers if isinstance(layer, cls) and layer is not loaded)
        for cls in (keras.Functional, keras.Sequential)
    )
    assert inner in middle.layers
    assert len(loaded.weights) == len(model.weights) == 6
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(loaded(x).numpy(), model(x).numpy())


def test_custom_layers_are_made_by_their_configs(tmp_path):
    class Scale(keras.layers.Layer):
        def __init__(self, factor, inner=None, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor
            self.inner = inner or keras.layers.Dense(factor)

        def build(self, input_shape):
            self.weight = self.add_weight(shape=(input_shape[-1],), initializer="normal")
            if not self.inner.built:
                self.inner.build(input_shape)

        def call(self, x):
            return self.inner(x * self.weight) * self.factor

        def get_config(self):
            inner = keras.saving.serialize_keras_object(self.inner)
            return {**super().get_config(), "factor": self.factor, "inner": inner}

        @classmethod
        def from_config(cls, config):
            config["inner"] = keras.saving.deserialize_keras_object(config["inner"])
            return cls(**config)

    model = keras.Sequential([keras.Input((4,)), Scale(3)])
    path = tmp_path / "model.keras"
    model.save(path)
    with pytest.raises(TypeError, match=r"model\.keras.*'Scale'.*register_keras_serializable"):
        keras.saving.load_model(path)
    x = np.ones((2, 4), "float32")
    for loaded in (
        keras.saving.load_model(path, custom_objects={"Scale": Scale}),
        _load_in_scope(path, {"Scale": Scale}),
    ):
        assert loaded.layers[0].factor == 3
        np.testing.assert_array_equal(loaded(x).numpy(), model(x).numpy())


def _load_in_scope(path, objects):
    with keras.saving.custom_object_scope(objects):
        return keras.saving.load_model(path)


def test_a_custom_loss_and_metric_come_back(tmp_path):
    @keras.saving.register_keras_serializable("tests")
    def cubed(y_true, y_pred):
        return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** 3, axis=-1)

    model = small_model()
    model.compile("adam", cubed, metrics=[cubed, "mse"])
    x, y = np.ones((4, 4), "float32"), np.ones((4, 2), "float32")
    model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)


FRESH = """
import sys
from gpukeras.saving import load_model
model = load_model(sys.argv[1])
print(type(model).__name__, type(model.optimizer).__name__, len(model.weights))
"""


def test_a_process_that_has_imported_nothing_else_loads_every_kind_of_object(tmp_path):
    layers = keras.layers
    kernel = {
        "kernel_regularizer": keras.regularizers.L2(0.1),
        "kernel_constraint": keras.constraints.MaxNorm(2.0),
        "kernel_initializer": keras.initializers.HeNormal(),
    }
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            layers.Bidirectional(layers.LSTM(3)),
            layers.Dropout(0.1),
            layers.Dense(2, "gelu", **kernel),
        ]
    )
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 10))
    model.compile(optimizer, keras.losses.Huber(), metrics=[keras.metrics.RootMeanSquaredError()])
    model.save(tmp_path / "model.keras")
    done = run(FRESH, tmp_path / "model.keras")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["Sequential", "Adam", "8"]


def test_an_unbuilt_model_is_saved_with_a_warning(tmp_path):
    model = keras.Sequential([keras.layers.Dense(2)])
    with pytest.warns(UserWarning, match="before it was built"):
        model.save(tmp_path / "model.keras")
    assert not keras.saving.load_model(tmp_path / "model.keras").built


# --- Endings and arguments ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.h5", r"Invalid filepath extension.*old `.h5` format.*`.keras`"),
        ("model.hdf5", r"Invalid filepath extension"),
        ("model", r"Invalid filepath extension.*`.keras`"),
        ("model.onnx", r"Invalid filepath extension"),
    ],
)
def test_other_endings_are_refused(name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        small_model().save(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_arguments_that_do_not_work_here(tmp_path):
    with pytest.raises(NotImplementedError, match="zipped=False"):
        keras.saving.save_model(small_model(), tmp_path / "model", zipped=False)
    with pytest.raises(NotImplementedError, match="include_optimizer"):
        keras.saving.save_model(small_model(), tmp_path / "m.keras", include_optimizer=False)
    with pytest.raises(ValueError, match="unknown arguments.*colour"):
        keras.saving.save_model(small_model(), tmp_path / "m.keras", colour="red")


# --- Bad files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.keras", "File not found.*gone.keras"),
        ("gone.h5", "File format not supported.*Keras.*load_weights"),
        ("gone.txt", "File format not supported.*`.keras`"),
    ],
)
def test_what_cannot_be_a_model(name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        keras.saving.load_model(tmp_path / name)


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        keras.saving.load_model(tmp_path)


@pytest.mark.parametrize("length", [0, 10, 300, -1, -30, -2000])
def test_a_file_cut_short_is_told(length, saved):
    content = saved.read_bytes()
    saved.write_bytes(content[:length])
    with pytest.raises(ValueError, match=r"model\.keras.*(damaged|no `.keras` file)"):
        keras.saving.load_model(saved)


@pytest.mark.parametrize("position", [0.3, 0.5, 0.7])
def test_a_damaged_file_is_told(position, saved):
    content = bytearray(saved.read_bytes())
    start = int(len(content) * position)
    content[start : start + 8] = bytes(b ^ 255 for b in content[start : start + 8])
    saved.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"model\.keras.*damaged"):
        keras.saving.load_model(saved)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"config__json": None}, "config.json is missing"),
        ({"model__weights__h5": None}, "model.weights.h5 is missing"),
        ({"config__json": b"{garbage"}, "config.json is no JSON"),
        ({"config__json": b"\xff\xfe\x00"}, "config.json is no JSON"),
        ({"config__json": b"[1, 2]"}, "describes no model"),
        ({"config__json": b"[" * 100000}, "config.json is no JSON"),
        (
            {"config__json": b'{"class_name": "__bytes__", "config": {"value": "x"}}'},
            "no model",
        ),
        (
            {"config__json": b'{"module": "keras", "class_name": "Sequential", "config": {}}'},
            "cannot be made of its config.json",
        ),
    ],
)
def test_wrong_contents_are_told(changed, message, saved):
    rewrite(saved, **changed)
    with pytest.raises(ValueError, match=rf"model\.keras.*{message}"):
        keras.saving.load_model(saved)


@pytest.mark.parametrize("content", [b"", b"no hdf5", "cut"])
def test_weights_that_are_no_hdf5_are_told(content, saved):
    if content == "cut":
        content = members(saved)["model.weights.h5"][:-600]
    rewrite(saved, model__weights__h5=content)
    with pytest.raises(OSError, match=r"model\.keras.*no readable HDF5"):
        keras.saving.load_model(saved)


def test_a_random_file_is_told(tmp_path, rng):
    path = tmp_path / "model.keras"
    path.write_bytes(rng.bytes(5000))
    with pytest.raises(ValueError, match=r"no `\.keras` file"):
        keras.saving.load_model(path)


def test_other_members_are_never_touched(saved, tmp_path):
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr("../escaped.txt", "x")
        archive.writestr("/tmp/escaped.txt", "x")
    before = sorted(os.listdir(tmp_path.parent))
    assert keras.saving.load_model(saved).built
    assert sorted(os.listdir(tmp_path.parent)) == before
    assert os.listdir(tmp_path) == ["model.keras"]


def test_a_member_that_would_fill_the_memory_is_not_read(saved, monkeypatch):
    monkeypatch.setattr(store, "_BOMB_FLOOR", 1 << 20)
    contents = members(saved)
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("config.json", contents["config.json"])
        archive.writestr("model.weights.h5", bytes(8 << 20))
    with pytest.raises(ValueError, match="claims 8388608 bytes"):
        keras.saving.load_model(saved)


def test_code_in_a_file_is_not_run(saved, tmp_path):
    harmful = {"class_name": "__lambda__", "config": {"value": ["code"]}}
    foreign = {"module": "os", "class_name": "system", "config": {}, "registered_name": "system"}
    function = {"module": "os", "class_name": "function", "config": "system"}
    for layer in (harmful, foreign, function):
        config = json.loads(members(saved)["config.json"])
        config["config"]["layers"][1] = layer
        rewrite(saved, config__json=json.dumps(config))
        for safe_mode in (True, False):
            with pytest.raises((TypeError, ValueError), match=r"model\.keras.*(lambda|[Uu]nknown)"):
                keras.saving.load_model(saved, safe_mode=safe_mode)


# --- Kills and full disks -------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import gpukeras as keras
from gpukeras.saving import store
path, moment = sys.argv[1], int(sys.argv[2])
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, kernel_initializer="ones")])
moments = iter(range(10000))
def die():
    if next(moments) == moment:
        os.kill(os.getpid(), signal.SIGKILL)
from gpukeras.saving import atomic
write, fsync, replace = atomic._Sink.write, os.fsync, os.replace
def writing(self, data):
    die()
    half = len(data) // 2
    write(self, data[:half])
    die()
    return half + write(self, data[half:])
def syncing(*args):
    die()
    fsync(*args)
def moving(*args):
    die()
    replace(*args)
    die()
atomic._Sink.write, os.fsync, os.replace = writing, syncing, moving
model.save(path)
print(next(moments))
"""


def run(program, *arguments):
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_killed_at_any_moment_the_old_or_the_new_file_loads(tmp_path):
    path = tmp_path / "model.keras"
    whole = run(KILLED, path, -1)
    assert whole.returncode == 0, whole.stderr
    last = int(whole.stdout)
    small_model().save(path)
    old = path.read_bytes()
    found = set()
    for moment in [*range(0, last, max(1, last // 8)), last - 2, last - 1]:
        path.write_bytes(old)
        assert run(KILLED, path, moment).returncode == -9
        found.add(keras.saving.load_model(path).input_shape)
    assert found == {(None, 4), (None, 64)}
    small_model().save(path)
    assert os.listdir(tmp_path) == ["model.keras"]


LIMITED = """
import resource, sys
import gpukeras as keras
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    getattr(model, sys.argv[3])(sys.argv[1])
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
@pytest.mark.parametrize(("method", "name"), [("save", "model.keras"), ("save_weights", "model.weights.h5")])
@pytest.mark.parametrize("limit", [0, 100, 12000])
def test_a_file_that_may_not_grow_leaves_the_old_one(method, name, limit, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"old")
    result = run(LIMITED, path, limit, method)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "too large" in result.stdout and name in result.stdout
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("after", [0, 1, 2, 5, 8])
def test_a_full_disk_leaves_the_old_file(after, saved, monkeypatch):
    from gpukeras.saving import atomic

    write, count = atomic._Sink.write, iter(range(1000))

    def failing(self, data):
        if not self.has_failed and next(count) >= after:
            self.has_failed = True
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    old = saved.read_bytes()
    monkeypatch.setattr(atomic._Sink, "write", failing)
    with pytest.raises(OSError, match=r"No space left.*model\.keras.*untouched"):
        small_model(7).save(saved)
    assert saved.read_bytes() == old
    assert os.listdir(saved.parent) == ["model.keras"]


def test_a_model_that_cannot_be_written_leaves_the_old_file(saved):
    class Stubborn(keras.layers.Layer):
        def get_config(self):
            return {"value": object()}

    old = saved.read_bytes()
    with pytest.raises(TypeError, match="Cannot write <object"):
        keras.Sequential([keras.Input((4,)), Stubborn()]).save(saved)
    assert saved.read_bytes() == old


def test_a_copy_elsewhere_loads(saved, tmp_path):
    shutil.copy(saved, tmp_path / "copy.keras")
    assert keras.saving.load_model(tmp_path / "copy.keras").built
    assert io.BytesIO(saved.read_bytes()).read(2) == b"PK"
