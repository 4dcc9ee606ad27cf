import numpy as np
import pytest

import gpukeras as keras
from gpukeras import ops
from gpukeras.autograd.scope import commit, current, setting, transaction
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor, Variable
from gpukeras.backend import devices, dtypes
from gpukeras.optimizers._flat import Plan
from tests.helpers import assert_close


def gradient(y, sources, tape):
    return tape.gradients([(y, np.ones_like(y.array))], sources)


def test_a_variable_used_twice_gets_the_sum():
    v = Variable(np.array([1.0, 2.0]))
    with Tape() as tape:
        y = v * v + v
    (d,) = gradient(y, [v], tape)
    np.testing.assert_allclose(d, 2 * v.numpy() + 1)


def test_three_uses_do_not_write_into_a_shared_gradient():
    v = Variable(np.array([1.0, 2.0]))
    w = Variable(np.array([5.0, 5.0]))
    with Tape() as tape:
        s = v + w  # both get the same array as gradient
        y = s + v + v
    dv, dw = gradient(y, [v, w], tape)
    np.testing.assert_array_equal(dv, [3, 3])
    np.testing.assert_array_equal(dw, [1, 1])


def test_nothing_is_recorded_outside_of_a_tape_or_without_a_tracked_input():
    v = Variable(np.ones(2))
    frozen = Variable(np.ones(2), trainable=False)
    _ = v * 2.0
    with Tape() as tape:
        _ = frozen * 2.0
        _ = Tensor(np.ones(2)) * 2.0
    assert tape.entries == []


def test_a_source_without_a_path_gets_none():
    v, w = Variable(np.ones(2)), Variable(np.ones(2))
    with Tape() as tape:
        y = v * 2.0
    assert gradient(y, [v, w], tape)[1] is None


def test_intermediate_sources_keep_their_gradients():
    x = Tensor(np.array([2.0]))
    with Tape() as tape:
        tape.watch(x)
        h = x * 3.0
        y = h * h
    dh, dx = gradient(y, [h, x], tape)
    np.testing.assert_allclose(dh, [12.0])
    np.testing.assert_allclose(dx, [36.0])


def test_transaction_restores_variables_on_an_error():
    v = Variable(np.array([1.0]))
    with pytest.raises(ZeroDivisionError), transaction():
        v.assign([2.0])
        v.assign([3.0])
        raise ZeroDivisionError
    assert v.numpy() == [1.0]
    assert current.undo is None


def test_transaction_keeps_what_was_committed():
    v = Variable(np.array([1.0]))
    with pytest.raises(ZeroDivisionError), transaction():
        v.assign([2.0])
        commit()
        raise ZeroDivisionError
    assert v.numpy() == [2.0]
    assert not current.is_committed


def test_nested_transactions_are_one():
    v = Variable(np.array([1.0]))
    with pytest.raises(ZeroDivisionError), transaction():
        with transaction():
            v.assign([2.0])
        raise ZeroDivisionError
    assert v.numpy() == [1.0]


def test_setting_is_restored_after_an_error():
    with pytest.raises(ValueError), setting(training=True):
        assert current.training is True
        raise ValueError
    assert current.training is None


class TestGradientTape:
    def test_gradients_of_variables_and_inputs(self):
        w = keras.Variable(np.float32([[2.0]]))
        x = ops.convert_to_tensor([[3.0]])
        with keras.GradientTape() as tape:
            tape.watch(x)
            y = ops.matmul(x, w)
        dw, dx = tape.gradient(y, [w, x])
        assert float(dw) == 3.0
        assert float(dx) == 2.0

    def test_structures_and_unconnected(self):
        w, v = keras.Variable(1.0), keras.Variable(1.0)
        with keras.GradientTape(persistent=True) as tape:
            y = w * 2.0
        assert tape.gradient(y, {"w": w, "v": v})["v"] is None
        assert float(tape.gradient(y, {"w": w, "v": v}, unconnected_gradients="zero")["v"]) == 0.0
        assert tape.watched_variables() == (w,)

    def test_used_up_unless_persistent(self):
        w = keras.Variable(1.0)
        with keras.GradientTape() as tape:
            y = w * 2.0
        tape.gradient(y, w)
        with pytest.raises(RuntimeError, match="persistent=True"):
            tape.gradient(y, w)
        with keras.GradientTape(persistent=True) as tape:
            y = w * 2.0
        assert float(tape.gradient(y, w)) == float(tape.gradient(y, w)) == 2.0

    def test_stop_gradient_and_output_gradients(self):
        w = keras.Variable(np.float32([1.0, 2.0]))
        with keras.GradientTape(persistent=True) as tape:
            y = w * ops.stop_gradient(w)
        np.testing.assert_allclose(tape.gradient(y, w), [1.0, 2.0])
        np.testing.assert_allclose(tape.gradient(y, w, output_gradients=[1.0, 10.0]), [1.0, 20.0])

    def test_second_order_fails_with_a_message(self):
        x = ops.convert_to_tensor([2.0])
        with keras.GradientTape() as outer:
            outer.watch(x)
            with keras.GradientTape() as inner:
                inner.watch(x)
                y = x * x * x
            dy = inner.gradient(y, x)
        with pytest.raises(NotImplementedError, match="first derivatives only"):
            outer.gradient(dy, x)

    def test_not_watching_variables(self):
        w = keras.Variable(1.0)
        with keras.GradientTape(watch_accessed_variables=False) as tape:
            y = w * 2.0
        assert tape.gradient(y, w) is None

    def test_stop_recording(self):
        w = keras.Variable(1.0)
        with keras.GradientTape() as tape:
            with tape.stop_recording():
                hidden = w * 5.0
            y = w * 2.0 + hidden
        assert float(tape.gradient(y, w)) == 2.0

    @pytest.mark.parametrize("bad", [np.ones(2), "x", None])
    def test_watch_refuses_what_is_no_tensor(self, bad):
        with keras.GradientTape() as tape, pytest.raises(TypeError, match="convert_to_tensor"):
            tape.watch(bad)

    def test_wrong_output_gradient_shape(self):
        w = keras.Variable(np.ones(2))
        with keras.GradientTape() as tape:
            y = w * 2.0
        with pytest.raises(ValueError, match=r"\(3,\)"):
            tape.gradient(y, w, output_gradients=np.ones(3))


class TestGradientPlaces:
    """An op may write a variable's gradient where the optimizer wants it."""

    def places(self, *variables):
        return {id(v.array): np.full_like(v.array, np.nan) for v in variables}

    def test_the_gradient_is_the_place(self):
        kernel = Variable(np.ones((3, 2), "float32"))
        places = self.places(kernel)
        (place,) = places.values()
        with Tape() as tape:
            y = ops.linear(Tensor(np.ones((4, 3), "float32")), kernel)
        (d,) = tape.gradients([(y, np.ones_like(y.array))], [kernel], places)
        assert d is place
        np.testing.assert_array_equal(d, np.full((3, 2), 4))
        assert current.places is None

    def test_two_uses_add_up(self):
        kernel = Variable(np.ones((2, 2), "float32"))
        x = Tensor(np.float32([[1, 2]]))
        with Tape() as tape:
            y = ops.linear(ops.linear(x, kernel), kernel)
        seeds = [(y, np.ones_like(y.array))]
        (expected,) = tape.gradients(seeds, [kernel])
        (d,) = tape.gradients(seeds, [kernel], self.places(kernel))
        np.testing.assert_array_equal(d, expected)

    def test_another_type_is_not_written_there(self):
        kernel = Variable(np.ones((2, 2), "float32"))
        with Tape() as tape:
            y = ops.linear(Tensor(np.ones((1, 2))), kernel)
        assert y.dtype == "float64"
        (d,) = tape.gradients([(y, np.ones_like(y.array))], [kernel], self.places(kernel))
        np.testing.assert_array_equal(d, np.ones((2, 2)))

    def test_an_optimizer_that_keeps_gradients_gets_its_own(self):
        class Keeping(keras.optimizers.SGD):
            kept = ()

            def apply(self, grads, trainable_variables=None):
                grads = list(grads)
                self.kept = [*self.kept, grads[0]]
                super().apply(grads, trainable_variables)

        optimizer = Keeping(0.1)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
        model.compile(optimizer, "mse")
        model.fit(np.ones((3, 2), "float32"), np.zeros((3, 1), "float32"), epochs=3, verbose=0)
        _, second, third = optimizer.kept
        assert second is not third
        assert not np.array_equal(second, third)

    @pytest.mark.parametrize("settings", [{}, {"global_clipnorm": 0.1}, {"gradient_accumulation_steps": 2}])
    def test_training_is_the_same_without(self, settings, monkeypatch):
        def weights():
            keras.utils.set_random_seed(1)
            shared = keras.layers.Dense(4, activation="relu")
            model = keras.Sequential([keras.Input((4,)), shared, keras.layers.Dense(4), shared])
            model.compile(keras.optimizers.Adam(0.1, **settings), "mse")
            x = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
            model.fit(x, x[::-1], batch_size=4, epochs=2, verbose=0)
            return model.get_weights()

        found = weights()
        monkeypatch.setattr(Plan, "places", lambda self: None)
        for a, b in zip(found, weights(), strict=True):
            np.testing.assert_array_equal(a, b)


class TestMixedPrecision:
    """Variables of an optimizer are cast together, once a step, and get their gradients unrounded."""

    BFLOAT16 = dtypes.as_dtype("bfloat16")

    def placed(self, *shapes, autocast=True):
        variables = [Variable(np.ones(shape, "float32"), autocast=autocast) for shape in shapes]
        optimizer = keras.optimizers.SGD(1.0)
        optimizer.build(variables)
        optimizer.apply([devices.to_device(np.zeros(v.shape, "float32")) for v in variables], variables)
        return optimizer, variables

    def test_copies_are_views_of_one_cast(self, device):
        _, (a, b) = self.placed((3, 2), (4,))
        with Tape():
            copy = a.in_dtype(self.BFLOAT16)
            b.array[...] = 7.0  # too late: all were cast when the first was read
            other = b.in_dtype(self.BFLOAT16)
            assert a.in_dtype(self.BFLOAT16) is copy and copy.dtype == other.dtype == "bfloat16"
            with Tape():
                assert a.in_dtype(self.BFLOAT16) is copy
            np.testing.assert_array_equal(devices.to_numpy(other).astype("float32"), np.ones(4))
        with Tape():
            assert a.in_dtype(self.BFLOAT16) is copy
            np.testing.assert_array_equal(devices.to_numpy(other).astype("float32"), np.full(4, 7))
        assert a.in_dtype(self.BFLOAT16) is not copy  # without a tape nobody says when values are new

    @pytest.mark.parametrize("how", ["assign", "apply", "a failed transaction"])
    def test_what_is_read_after_a_change_is_new(self, device, how):
        optimizer, (a, b) = self.placed((3,), (2,))
        fresh = Variable(np.ones(3))
        with Tape():
            before = devices.to_numpy(a.in_dtype(self.BFLOAT16)).astype("float32")
            current_reading = current.reading
            fresh.assign(np.zeros(3))  # no optimizer's
            assert current.reading is current_reading
            if how == "assign":
                a.assign([3.0, 3.0, 3.0])
            elif how == "apply":
                optimizer.apply([devices.to_device(np.full(3, -2, "float32"))], [a])
            else:
                with pytest.raises(ZeroDivisionError), transaction():
                    a.assign([5.0, 5.0, 5.0])
                    inside = devices.to_numpy(a.in_dtype(self.BFLOAT16)).astype("float32")
                    raise ZeroDivisionError
                np.testing.assert_array_equal(inside, np.full(3, 5))
            after = devices.to_numpy(a.in_dtype(self.BFLOAT16)).astype("float32")
        np.testing.assert_array_equal(before, np.ones(3))
        np.testing.assert_array_equal(after, np.full(3, 1 if how == "a failed transaction" else 3))

    def test_variables_that_do_not_follow_the_policy_are_not_cast(self):
        _, (a,) = self.placed((3,), autocast=False)
        with Tape():
            assert a.in_dtype(self.BFLOAT16) is a.array

    @pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
    def test_gradients_are_written_unrounded_where_the_optimizer_wants_them(self, device, policy):
        keras.config.set_dtype_policy(policy)
        dense = keras.layers.Dense(5)
        project = keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de")
        embed = keras.layers.Embedding(7, 5)
        x = keras.ops.convert_to_tensor(np.arange(6).reshape(2, 3) % 5)

        def outputs():
            return project(dense(embed(x)))

        outputs()
        variables = [*embed.weights, *dense.weights, *project.weights]
        optimizer = keras.optimizers.SGD(0.0)
        optimizer.build(variables)
        zeros = [devices.to_device(np.zeros(v.shape, "float32")) for v in variables]
        optimizer.apply(zeros, variables)
        with Tape() as tape:
            y = outputs()
        places = optimizer.plan_of(variables).places()
        wanted = [places[id(v.array)] for v in variables]
        seed = np.random.default_rng(0).normal(size=y.shape).astype(y.dtype)
        gradients = tape.gradients([(y, devices.to_device(seed))], variables, places)
        assert all(d is place for d, place in zip(gradients, wanted, strict=True))
        found = [devices.to_numpy(d).copy() for d in gradients]
        short = dtypes.as_dtype(policy.removeprefix("mixed_"))
        assert all(not np.array_equal(d, d.astype(short).astype("float32")) for d in found[1::2])
        for d, e in zip(found, tape.gradients([(y, devices.to_device(seed))], variables), strict=True):
            assert_close(d, e, dtype=short.name, scale=4)

    def test_a_variable_that_is_read_in_two_types_has_one_place(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        _, (kernel,) = optimizer, variables = self.placed((2, 2))
        x = np.float32([[1, 2], [3, 5]])
        with Tape() as tape:
            y = ops.linear(Tensor(x), kernel)
            with setting(autocast=self.BFLOAT16):
                z = ops.linear(Tensor(x.astype(self.BFLOAT16)), kernel)
        seeds = [(t, np.ones(t.shape, t.dtype)) for t in (y, z)]
        (d,) = tape.gradients(seeds, variables, optimizer.plan_of(variables).places())
        np.testing.assert_array_equal(d, 2 * np.float32([[4, 4], [7, 7]]))
        assert d.dtype == "float32"

    def test_training_is_the_same_with_copies_of_every_variable(self, device, monkeypatch):
        keras.config.set_dtype_policy("mixed_bfloat16")
        monkeypatch.setattr(Plan, "places", lambda self: None)

        def weights():
            keras.utils.set_random_seed(1)
            shared = keras.layers.Dense(4, activation="relu", kernel_regularizer="l2")
            norm = keras.layers.BatchNormalization()
            model = keras.Sequential([keras.Input((4,)), shared, norm, keras.layers.Dense(4), shared])
            model.compile(keras.optimizers.Adam(0.1), "mse")
            x = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
            model.fit(x, x[::-1], batch_size=4, epochs=3, verbose=0)
            return model.get_weights()

        found = weights()
        in_dtype = Variable.in_dtype

        def alone(self, dtype):
            with setting(reading=None):
                return in_dtype(self, dtype)

        monkeypatch.setattr(Variable, "in_dtype", alone)
        for a, b in zip(found, weights(), strict=True):
            np.testing.assert_array_equal(a, b)
