"""`.weights.h5` files: round trips, and files that do not fit change nothing."""

import os

import h5py
import numpy as np
import pytest

import gpukeras as keras
from gpukeras.saving import store


def model_of(units=3, inputs=4, **settings):
    return keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(units, **settings), keras.layers.Dense(2)])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.weights.h5"


def test_weights_come_back(path, device):
    model, other = model_of(), model_of()
    model.save_weights(path)
    other.load_weights(str(path))
    for actual, expected in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_weights_are_written_in_place(path):
    model, other = model_of(), model_of()
    model.save_weights(path)
    arrays = [v.array for v in other.weights]
    other.load_weights(path)
    assert all(v.array is array for v, array in zip(other.weights, arrays, strict=True))


def test_weights_come_out_of_a_whole_model(tmp_path):
    model, other = model_of(), model_of()
    model.save(tmp_path / "model.keras")
    other.load_weights(tmp_path / "model.keras")
    np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype_comes_back(dtype, path):
    model, other = model_of(dtype=dtype), model_of(dtype=dtype)
    model.save_weights(path)
    other.load_weights(path)
    assert other.get_weights()[0].dtype.name == dtype
    np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0])


def test_values_are_cast_to_the_dtype_of_the_weights(path):
    model, other = model_of(dtype="float64"), model_of()
    model.save_weights(path)
    other.load_weights(path)
    assert other.get_weights()[0].dtype == np.float32
    np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0].astype(np.float32))


def test_random_states_come_back(path):
    def make():
        class Noisy(keras.layers.Layer):
            def __init__(self):
                super().__init__()
                self.seed_generator = keras.random.SeedGenerator()

            def call(self, x):
                return x + keras.random.normal((3,), seed=self.seed_generator)

        return keras.Sequential([keras.Input((3,)), Noisy()])

    model, other = make(), make()
    x = np.zeros((1, 3), "float32")
    model(x)
    model.save_weights(path)
    other.load_weights(path)
    np.testing.assert_array_equal(other(x).numpy(), model(x).numpy())


def test_the_optimizer_comes_back(path):
    def compiled():
        model = model_of()
        model.compile("adam", "mse")
        return model

    x, y = np.ones((4, 4), "float32"), np.ones((4, 2), "float32")
    model, other = compiled(), compiled()
    model.train_on_batch(x, y)
    model.save_weights(path)
    other.train_on_batch(x, y)
    other.load_weights(path)
    for actual, expected in zip(other.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(actual.numpy(), expected.numpy())
    unbuilt = compiled()
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        unbuilt.load_weights(path)


# --- Files that do not fit ------------------------------------------------------------------------


def assert_unchanged(model, before):
    for actual, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_another_shape_is_told_and_changes_nothing(path):
    model_of(units=5).save_weights(path)
    model = model_of()
    before = model.get_weights()
    with pytest.raises(ValueError) as caught:
        model.load_weights(path)
    message = str(caught.value)
    for part in (
        str(path),
        "layers/dense ",
        "kernel of shape (4, 3), found (4, 5)",
        "skip_mismatch",
    ):
        assert part in message
    assert "layers/dense_1" in message
    assert_unchanged(model, before)


def test_the_last_layer_alone_does_not_fit_and_changes_nothing(path):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(9)]).save_weights(path)
    model = model_of()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"1 of its objects.*layers/dense_1"):
        model.load_weights(path)
    assert_unchanged(model, before)


def test_more_or_fewer_variables_are_told(path):
    model_of(use_bias=False).save_weights(path)
    with pytest.raises(ValueError, match=r"expected 2 variables \(kernel \(4, 3\), bias \(3,\)\), found 1"):
        model_of().load_weights(path)
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save_weights(path)
    with pytest.raises(ValueError, match=r"layers/dense_1 .*found 0 \(none\)"):
        model_of().load_weights(path)


def test_skip_mismatch_loads_the_rest_with_a_warning(path):
    source = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(9)])
    source.save_weights(path)
    model = model_of()
    before = model.get_weights()
    with pytest.warns(UserWarning, match=r"layers/dense_1.*keep the weights they had"):
        model.load_weights(path, skip_mismatch=True)
    np.testing.assert_array_equal(model.get_weights()[0], source.get_weights()[0])
    np.testing.assert_array_equal(model.get_weights()[2], before[2])


def test_an_own_loader_that_fails_in_the_middle_changes_nothing(path):
    class Choosy(keras.layers.Layer):
        def build(self, input_shape):
            self.weight = self.add_weight(shape=(1,))

        def call(self, x):
            return x * self.weight

        def load_own_variables(self, store):
            self.weight.assign(store["0"])
            raise RuntimeError("not today")

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), Choosy()])
    model.save_weights(path)
    model.set_weights([w + 1 for w in model.get_weights()])
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"layers/choosy .*not today"):
        model.load_weights(path)
    assert_unchanged(model, before)
    with pytest.warns(UserWarning, match="not today"):
        model.load_weights(path, skip_mismatch=True)


def test_objects_can_be_skipped(path):
    model, other = model_of(), model_of()
    model.save_weights(path, objects_to_skip=[model.layers[0]])
    before = other.get_weights()
    other.load_weights(path, objects_to_skip=[other.layers[0]])
    np.testing.assert_array_equal(other.get_weights()[0], before[0])
    np.testing.assert_array_equal(other.get_weights()[2], model.get_weights()[2])


# --- Arguments and files --------------------------------------------------------------------------


def test_endings(tmp_path):
    for name in ("weights.h5", "model.keras", "weights"):
        with pytest.raises(ValueError, match=r"must end in `\.weights\.h5`"):
            model_of().save_weights(tmp_path / name)
    for name in ("model.h5", "model.weights.json", "weights"):
        with pytest.raises(ValueError, match=r"end in `\.weights\.h5` or `\.keras`"):
            model_of().load_weights(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_arguments_that_do_not_work_here(path):
    with pytest.raises(NotImplementedError, match="max_shard_size"):
        model_of().save_weights(path, max_shard_size=1)
    with pytest.raises(ValueError, match="by_name"):
        model_of().load_weights(path, by_name=True)


def test_a_model_without_weights_yet(path):
    model = keras.Sequential([keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"not built yet.*no weights to save"):
        model.save_weights(path)
    with pytest.raises(ValueError, match=r"not built yet.*no weights to load"):
        model.load_weights(path)


def test_missing_and_broken_files(path):
    model = model_of()
    with pytest.raises(FileNotFoundError, match="no file"):
        model.load_weights(path)
    model.save_weights(path)
    content = path.read_bytes()
    for broken in (b"", b"text", content[: len(content) // 2], content[:-100]):
        path.write_bytes(broken)
        with pytest.raises(OSError, match=r"model\.weights\.h5.*no readable HDF5"):
            model.load_weights(path)


def test_an_existing_file_is_kept_where_the_user_says_no(path, monkeypatch):
    model_of().save_weights(path)
    old = path.read_bytes()
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    model_of().save_weights(path, overwrite=False)
    assert path.read_bytes() == old


def change(path, function):
    with h5py.File(path, "a") as file:
        group = file["layers/dense/vars"]
        del group["0"]
        function(group)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda group: group.create_group("0"), "should be an array"),
        (lambda group: group.__setitem__("0", h5py.SoftLink("/elsewhere")), "link"),
        (lambda group: group.__setitem__("0", h5py.ExternalLink("other.h5", "/x")), "link"),
        (lambda group: group.__setitem__("0", ["text"]), "should hold numbers"),
        (
            lambda group: group.create_dataset("0", (4, 3), "f4", external=[("other", 0, 48)]),
            "other files",
        ),
        (
            lambda group: group.create_dataset("0", (1 << 20, 1 << 12), "f4", chunks=(1024, 64)),
            "claims 17179869184 bytes",
        ),
    ],
    ids=["group", "soft link", "external link", "text", "external data", "bomb"],
)
def test_files_are_read_with_suspicion(function, message, path):
    model = model_of()
    model.save_weights(path)
    change(path, function)
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.load_weights(path)
    assert_unchanged(model, before)


def test_a_group_is_a_dictionary_of_arrays(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = store.Group(file, "a/b")
        assert "a" not in file and len(group) == 0 and list(group.keys()) == []
        group["0"] = np.arange(3)
        group["1"] = 2.0
        assert len(group) == 2 and "1" in group and "2" not in group
        np.testing.assert_array_equal(group["0"], [0, 1, 2])
        del group["1"]
        assert list(group.keys()) == ["0"]
        assert list(file["a/b/vars"]) == ["0"]
