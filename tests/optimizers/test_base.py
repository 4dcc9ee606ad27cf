"""The optimizer around its rule: flat buffers, subsets, state, errors, and no reads on the host."""

import gc

import numpy as np
import pytest

from gpukeras import optimizers
from gpukeras.autograd.scope import current, transaction
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor, Variable
from gpukeras.backend import devices
from gpukeras.optimizers import schedules
from tests import strict_device
from tests.helpers import assert_close

SHAPES = [(5, 4), (4,), (), (3, 2, 7)]


def make_variables(rng, shapes=SHAPES, dtype="float32"):
    values = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    return [Variable(value, name=f"v{i}") for i, value in enumerate(values)]


def make_grads(rng, variables):
    return [Tensor(devices.to_device(rng.standard_normal(v.shape).astype(v.dtype))) for v in variables]


def state_of(optimizer, variables):
    return [v.numpy() for v in [*variables, *optimizer.variables]]


def assert_unchanged(optimizer, variables, before):
    for values, now in zip(before, state_of(optimizer, variables), strict=True):
        np.testing.assert_array_equal(now, values)


# Flat buffers.


def test_variables_keep_their_values_and_lie_in_one_buffer(rng):
    variables = make_variables(rng)
    values = [v.numpy() for v in variables]
    optimizer = optimizers.Adam()
    optimizer.build(variables)
    assert len({id(v.array.base) for v in variables}) == 1
    for variable, value in zip(variables, values, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert len(optimizer._groups) == 1


def test_arrays_are_never_rebound_after_build(rng, device):
    variables = make_variables(rng)
    optimizer = optimizers.Adam(amsgrad=True, use_ema=True, gradient_accumulation_steps=2)
    optimizer.build(variables)
    arrays = [v.array for v in [*variables, *optimizer.variables]]
    for _ in range(3):
        optimizer.apply(make_grads(rng, variables), variables)
    optimizer.finalize_variable_values(variables)
    optimizer.set_weights([v.numpy() for v in optimizer.variables])
    optimizers.SGD().build(variables)
    for array, variable in zip(arrays, [*variables, *optimizer.variables], strict=True):
        assert array is variable.array


def test_one_kernel_call_updates_all_variables(rng, monkeypatch):
    calls = []
    variables = make_variables(rng)
    optimizer = optimizers.SGD()
    monkeypatch.setattr(optimizers.SGD, "update_arrays", lambda self, *arrays: calls.append(arrays[0].size))
    optimizer.apply(make_grads(rng, variables), variables)
    assert len(calls) == 1
    assert calls[0] >= sum(v.size for v in variables)


def test_two_dtypes_make_two_groups(rng):
    variables = make_variables(rng) + make_variables(rng, dtype="float64")
    one_by_one = [Variable(v.numpy()) for v in variables]
    optimizer = optimizers.Adam(0.1)
    grads = make_grads(rng, variables)
    optimizer.apply(grads, variables)
    assert len(optimizer._groups) == 2
    for variable, other, grad in zip(variables, one_by_one, grads, strict=True):
        optimizers.Adam(0.1).apply([grad], [other])
        assert variable.dtype == other.dtype
        assert_close(variable, other)


def test_a_new_optimizer_on_the_same_variables_finds_them_in_place(rng):
    variables = make_variables(rng)
    first, second = optimizers.SGD(0.1), optimizers.Adam(0.1)
    first.apply(make_grads(rng, variables), variables)
    arrays = [v.array for v in variables]
    second.apply(make_grads(rng, variables), variables)
    assert len(second._groups) == 1
    assert all(a is v.array for a, v in zip(arrays, variables, strict=True))


@pytest.mark.parametrize("chosen", [[0, 1], [1, 3], [3, 1, 0], [2]])
def test_two_optimizers_in_turn_on_overlapping_variables(chosen, rng, device):
    variables = make_variables(rng)
    alone = [Variable(v.numpy()) for v in variables]
    first, second = optimizers.SGD(0.1, momentum=0.9), optimizers.SGD(0.2, momentum=0.5)
    first_alone = [optimizers.SGD(0.1, momentum=0.9) for _ in alone]
    second_alone = [optimizers.SGD(0.2, momentum=0.5) for _ in alone]
    for _ in range(3):
        grads = make_grads(rng, variables)
        first.apply(grads, variables)
        for optimizer, grad, variable in zip(first_alone, grads, alone, strict=True):
            optimizer.apply([grad], [variable])
        second.apply([grads[i] for i in chosen], [variables[i] for i in chosen])
        for i in chosen:
            second_alone[i].apply([grads[i]], [alone[i]])
        for a, b in zip(variables, alone, strict=True):
            assert_close(a, b)


def test_more_variables_than_an_earlier_optimizer_had(rng):
    """Transfer learning: first the head alone, then everything with a new optimizer."""
    base, head = make_variables(rng), make_variables(rng, [(3, 3), (3,)])
    optimizers.Adam().apply(make_grads(rng, head), head)
    gc.collect()
    variables = [*base, *head]
    alone = [Variable(v.numpy()) for v in variables]
    optimizer, optimizer_alone = optimizers.Adam(0.1), optimizers.Adam(0.1)
    for _ in range(2):
        grads = make_grads(rng, variables)
        optimizer.apply(grads, variables)
        optimizer_alone.apply(grads, alone)
    assert len(optimizer._groups) == 2
    for a, b in zip([*variables, *optimizer.variables], [*alone, *optimizer_alone.variables], strict=True):
        assert_close(a, b)


def test_assigned_and_loaded_values_are_what_is_updated(rng):
    variables = make_variables(rng)
    optimizer = optimizers.SGD(1.0)
    optimizer.build(variables)
    variables[0].assign(np.zeros((5, 4)))
    optimizer.apply([np.ones(v.shape, "float32") for v in variables], variables)
    np.testing.assert_array_equal(variables[0].numpy(), -np.ones((5, 4)))


# A step reads nothing on the host.


@pytest.mark.parametrize(
    "name",
    [
        "SGD",
        "Adagrad",
        "RMSprop",
        "Adam",
        "AdamW",
        "Adamax",
        "Nadam",
        "Adadelta",
        "Ftrl",
        "Lion",
        "Lamb",
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2, "use_ema": True, "ema_overwrite_frequency": 2},
        {"clipnorm": 0.5, "weight_decay": 0.1},
        {"global_clipnorm": 0.5},
        {"clipvalue": 0.5, "loss_scale_factor": 4.0},
    ],
    ids=str,
)
def test_no_host_reads_and_the_same_numbers_on_both_devices(name, options, seed):
    strict_device.install()
    results = {}
    for device in ("numpy", "strict"):
        rng = np.random.default_rng(seed)
        with devices.use_device(device):
            variables = make_variables(rng)
            optimizer = getattr(optimizers, name)(0.05, **options)
            for _ in range(4):
                grads = make_grads(rng, variables)
                with strict_device.forbid_host_reads():
                    optimizer.apply(grads, variables)
            results[device] = state_of(optimizer, variables)
    for a, b in zip(*results.values(), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.ExponentialDecay(0.1, 2, 0.5, staircase=True),
        schedules.PiecewiseConstantDecay([1, 2], [0.1, 0.2, 0.3]),
        schedules.PolynomialDecay(0.1, 3, cycle=True),
        schedules.InverseTimeDecay(0.1, 3, 0.5),
        schedules.CosineDecay(0.1, 3, warmup_target=0.2, warmup_steps=2),
        schedules.CosineDecayRestarts(0.1, 2),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_schedules_stay_on_the_device(schedule, rng, device):
    variables = make_variables(rng)
    optimizer = optimizers.Adam(schedule)
    for _ in range(4):
        grads = make_grads(rng, variables)
        with strict_device.forbid_host_reads():
            optimizer.apply(grads, variables)
            rate = optimizer.learning_rate
        assert devices.array_module(rate.array) is devices.default_module()
    assert int(optimizer.iterations) == 4


# Gradients.


def test_gradients_of_a_tape_and_raw_arrays_are_taken(rng, device):
    from gpukeras.ops.linalg import linear

    w, b = Variable(rng.standard_normal((3, 2))), Variable(np.zeros(2))
    x = Tensor(devices.to_device(rng.standard_normal((4, 3))))
    with Tape() as tape:
        y = linear(x, w, b)
    gradients = tape.gradients([(y, devices.to_device(np.ones((4, 2))))], [w, b])
    start = w.numpy()
    optimizers.SGD(0.5).apply(gradients, [w, b])
    assert_close(w, start - 0.5 * devices.to_numpy(x.array).sum(0)[:, None])
    assert_close(b, np.full(2, -2.0))


def test_gradients_are_not_written_into(rng):
    variables = make_variables(rng)
    grads = [rng.standard_normal(v.shape).astype("float32") for v in variables]
    before = [g.copy() for g in grads]
    for grad in grads:
        grad.flags.writeable = False
    optimizers.SGD(clipvalue=0.1, loss_scale_factor=2.0).apply(grads, variables)
    for a, b in zip(grads, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_empty_list_is_no_step():
    optimizer = optimizers.SGD()
    optimizer.apply([], [])
    assert int(optimizer.iterations) == 0


def test_apply_gradients_returns_the_step_count(rng):
    variables = make_variables(rng)
    optimizer = optimizers.SGD()
    count = optimizer.apply_gradients(zip(make_grads(rng, variables), variables, strict=True))
    assert int(count) == 1


# Errors come before anything has changed.


def built(rng, **settings):
    variables = make_variables(rng)
    optimizer = optimizers.Adam(**settings)
    optimizer.apply(make_grads(rng, variables), variables)
    return optimizer, variables


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda g, v: (g[:-1], v), "one-to-one"),
        (
            lambda g, v: ([*g[:-1], g[0]], v),
            r"'v3' has shape \(3, 2, 7\), but its gradient has shape",
        ),
        (lambda g, v: ([None] * 4, v), "No gradients provided"),
        (lambda g, v: (g, [*v[:-1], Variable(np.ones((3, 2, 7)))]), "Unknown variable"),
        (lambda g, v: ([g[0], g[0]], [v[0], v[0]]), "twice"),
        (lambda g, v: (g[:-1], None), "one-to-one"),
    ],
)
def test_bad_gradients_change_nothing(spoil, message, rng):
    optimizer, variables = built(rng)
    before = state_of(optimizer, variables)
    grads, targets = spoil(make_grads(rng, variables), variables)
    with pytest.raises(ValueError, match=message):
        optimizer.apply(grads, targets)
    assert_unchanged(optimizer, variables, before)


def test_a_first_call_that_fails_builds_nothing(rng):
    variables = make_variables(rng)
    optimizer = optimizers.Adam()
    with pytest.raises(ValueError, match="has shape"):
        optimizer.apply(make_grads(rng, variables)[::-1], variables)
    assert not optimizer.built
    assert len(optimizer.variables) == 2
    with pytest.raises(TypeError, match="updates Variables, but got a ndarray"):
        optimizer.apply([np.ones(2)], [np.ones(2)])
    with pytest.raises(ValueError, match="must already be built"):
        optimizer.apply(make_grads(rng, variables))


def test_a_failing_schedule_changes_nothing(rng):
    optimizer, variables = built(rng, gradient_accumulation_steps=2)
    before = state_of(optimizer, variables)

    def rate():
        raise ArithmeticError("no rate today")

    optimizer.learning_rate = rate
    del before[len(variables) + 1]  # the learning rate, no longer one of the variables
    with pytest.raises(ArithmeticError):
        optimizer.apply(make_grads(rng, variables), variables)
    assert_unchanged(optimizer, variables, before)


class Failing(optimizers.Optimizer):
    """Momentum, written as Keras's guide has it, that fails at variables named "bad"."""

    def build(self, variables):
        super().build(variables)
        self.momentums = self.add_optimizer_variables(variables, "momentum")

    def update_step(self, gradient, variable, learning_rate):
        m = self.momentums[self._get_variable_index(variable)]
        self.assign(m, m.array * 0.9 + gradient.array)
        self.assign_sub(variable, m.array * learning_rate.array)
        if variable.name == "bad":
            raise ArithmeticError("in the middle")


def test_a_transaction_is_committed_with_the_first_write(rng):
    """From then on a step can only run to its end; before, what fails can be undone."""
    variables = make_variables(rng)
    optimizer = optimizers.Adam()
    with transaction():
        with pytest.raises(ValueError, match="one-to-one"):
            optimizer.apply(make_grads(rng, variables)[1:], variables)
        assert not current.is_committed
        optimizer.apply(make_grads(rng, variables), variables)
        assert current.is_committed


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}], ids=str)
def test_an_update_step_that_fails_is_undone(options, rng):
    variables = make_variables(rng)
    optimizer = Failing(0.1, **options)
    optimizer.apply(make_grads(rng, variables), variables)
    before = state_of(optimizer, variables)
    variables[-1].name = "bad"
    with pytest.raises(ArithmeticError):
        optimizer.apply(make_grads(rng, variables), variables)
    assert_unchanged(optimizer, variables, before)


def test_an_update_step_of_ones_own(rng, device):
    variables = make_variables(rng)
    start = [v.numpy() for v in variables]
    grads = make_grads(rng, variables)
    optimizer = Failing(0.1, name="mine")
    optimizer.apply(grads, variables)
    assert [v.path for v in optimizer.variables[2:]] == [f"mine/v{i}_momentum" for i in range(4)]
    for variable, value, grad in zip(variables, start, grads, strict=True):
        assert_close(variable, value - 0.1 * grad.numpy())


def test_an_update_step_that_builds_on_adams(rng):
    class Louder(optimizers.Adam):
        def update_step(self, gradient, variable, learning_rate):
            super().update_step(Tensor(gradient.array * 2), variable, learning_rate)

    variables = make_variables(rng)
    twins = [Variable(v.numpy()) for v in variables]
    grads = make_grads(rng, variables)
    louder, adam = Louder(0.1), optimizers.Adam(0.1)
    for _ in range(2):
        louder.apply(grads, variables)
        adam.apply([Tensor(g.array * 2) for g in grads], twins)
    for a, b in zip(variables, twins, strict=True):
        assert_close(a, b)


def test_no_update_step_is_an_error_before_anything_happens(rng):
    variables = make_variables(rng)
    optimizer = optimizers.Optimizer(0.1)
    before = [v.numpy() for v in variables]
    with pytest.raises(NotImplementedError, match="update_step"):
        optimizer.apply(make_grads(rng, variables), variables)
    for a, b in zip(variables, before, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)


def test_an_update_step_is_undone_with_the_surrounding_transaction(rng):
    variables = make_variables(rng)
    optimizer = Failing(1.0)
    optimizer.build(variables)
    before = state_of(optimizer, variables)[: len(variables)]
    with pytest.raises(ArithmeticError, match="later"), transaction():
        optimizer.apply(make_grads(rng, variables), variables)
        raise ArithmeticError("later")
    for a, b in zip(variables, before, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)


# Constraints.


def test_constraints_hold_after_the_update(rng, device):
    variables = make_variables(rng)
    variables[0].constraint = lambda w: Tensor(w.array.clip(-0.1, 0.1))
    optimizers.SGD(1.0).apply(make_grads(rng, variables), variables)
    assert np.abs(variables[0].numpy()).max() <= np.float32(0.1)
    assert np.abs(variables[3].numpy()).max() > 0.1


def test_a_constraint_that_changes_the_shape_changes_nothing(rng):
    variables = make_variables(rng)
    before = [v.numpy() for v in variables]
    variables[0].constraint = lambda w: Tensor(w.array[:1])
    with pytest.raises(ValueError, match="constraint of variable 'v0'"):
        optimizers.SGD(1.0).apply(make_grads(rng, variables), variables)
    for a, b in zip(variables, before, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)


# Settings.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clipnorm": 1.0, "clipvalue": 1.0}, "Only one of"),
        ({"gradient_accumulation_steps": 1}, "integer >= 2"),
        ({"use_ema": True, "ema_momentum": 1.5}, r"range \[0, 1\]"),
        ({"use_ema": True, "ema_overwrite_frequency": 0.5}, "ema_overwrite_frequency"),
        ({"use_ema": True, "ema_overwrite_frequency": -1}, "ema_overwrite_frequency"),
        ({"learning_rate": 1}, "should be float"),
        ({"learning_rate": None}, "should be float"),
        ({"lr": 0.1}, "not recognized"),
    ],
    ids=str,
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        optimizers.Adam(**settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimizers.SGD(momentum=1), "momentum"),
        (lambda: optimizers.SGD(momentum=1.5), "momentum"),
        (lambda: optimizers.AdamW(weight_decay=None), "weight_decay"),
        (lambda: optimizers.Lion(beta_1=0.0), "beta_1"),
        (lambda: optimizers.Ftrl(initial_accumulator_value=-1.0), "initial_accumulator_value"),
        (lambda: optimizers.Ftrl(learning_rate_power=1.0), "learning_rate_power"),
        (lambda: optimizers.Ftrl(l1_regularization_strength=-1.0), "l1_regularization_strength"),
        (lambda: optimizers.Ftrl(l2_regularization_strength=-1.0), "l2_regularization_strength"),
    ],
)
def test_bad_settings_of_rules(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_decay_is_no_longer_supported():
    with pytest.warns(UserWarning, match="decay"):
        optimizers.SGD(decay=0.1)


def test_learning_rate_is_set_in_place(rng):
    optimizer = optimizers.SGD(0.5)
    array = optimizer.learning_rate.array
    optimizer.learning_rate = 0.25
    assert float(optimizer.learning_rate) == 0.25
    assert optimizer.learning_rate.array is array
    w = Variable(np.ones(2))
    optimizer.apply([np.ones(2)], [w])
    assert_close(w, np.full(2, 0.75))


def test_learning_rate_by_schedule_or_function():
    optimizer = optimizers.SGD(0.5)
    optimizer.learning_rate = schedules.ExponentialDecay(0.5, 1, 0.5)
    assert len(optimizer.variables) == 1
    w = Variable(np.zeros(1))
    for _ in range(2):
        optimizer.apply([np.ones(1)], [w])
    assert_close(w, np.array([-0.75]))
    assert float(optimizer.learning_rate) == 0.125
    with pytest.raises(TypeError, match="not settable"):
        optimizer.learning_rate = 0.1
    optimizer.learning_rate = lambda: 2.0
    optimizer.apply([np.ones(1)], [w])
    assert_close(w, np.array([-2.75]))


def test_names_are_counted():
    first, second = optimizers.RMSprop(), optimizers.RMSprop()
    assert first.name.startswith("rm_sprop")
    assert first.name != second.name
    assert optimizers.Adam(name="mine").variables[0].path == "mine/iteration"


def test_attributes_before_the_constructor_are_an_error():
    class Hasty(optimizers.SGD):
        def __init__(self):
            self.x = 1
            super().__init__()

    with pytest.raises(RuntimeError, match="forgot to call"):
        Hasty()


def test_variables_set_as_attributes_belong_to_the_optimizer():
    class Counting(optimizers.SGD):
        def build(self, variables):
            super().build(variables)
            self.count = self.add_variable((), dtype="int32", name="count")
            self.extra = Variable(1.0, name="extra")
            self.noise = self.add_variable((2,), initializer=1.5, name="noise")

    optimizer = Counting(name="c")
    optimizer.build([Variable(np.ones(2))])
    assert [v.path for v in optimizer.variables[2:]] == ["c/count", "extra", "c/noise"]
    assert optimizer.count.dtype == "int32"
    assert_close(optimizer.noise, np.full(2, 1.5, "float32"))


def test_get():
    assert type(optimizers.get("ADAM")) is optimizers.Adam
    assert type(optimizers.get("rmsprop")) is optimizers.RMSprop
    optimizer = optimizers.SGD()
    assert optimizers.get(optimizer) is optimizer
    assert optimizers.get(None) is None
    with pytest.raises(ValueError, match="'adam'"):
        optimizers.get("adamm")
    with pytest.raises(ValueError, match="Could not interpret"):
        optimizers.get(len)
    with pytest.raises(TypeError):
        optimizers.get(3)


# State.


@pytest.mark.parametrize("name", ["SGD", "Adam", "Nadam", "RMSprop"])
def test_saved_state_goes_on_bit_for_bit(name, rng):
    variables = make_variables(rng)
    optimizer = getattr(optimizers, name)(0.05)
    for _ in range(3):
        optimizer.apply(make_grads(rng, variables), variables)
    store = {}
    optimizer.save_own_variables(store)
    copies = [Variable(v.numpy()) for v in variables]
    loaded = type(optimizer).from_config(optimizer.get_config())
    loaded.build(copies)
    loaded.load_own_variables(store)
    for _ in range(3):
        grads = make_grads(rng, variables)
        optimizer.apply(grads, variables)
        loaded.apply(grads, copies)
    for a, b in zip(state_of(optimizer, variables), state_of(loaded, copies), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_store_of_another_size_is_skipped_with_a_warning(rng):
    optimizer, variables = built(rng)
    before = state_of(optimizer, variables)
    with pytest.warns(UserWarning, match="Skipping variable loading"):
        optimizer.load_own_variables({"0": np.int32(7)})
    assert_unchanged(optimizer, variables, before)


def test_bad_weights_change_nothing(rng):
    optimizer, variables = built(rng)
    before = state_of(optimizer, variables)
    weights = [v.numpy() + 1 for v in optimizer.variables]
    with pytest.raises(ValueError, match="but got 3 weights"):
        optimizer.set_weights(weights[:3])
    with pytest.raises(ValueError, match="not compatible"):
        optimizer.set_weights([*weights[:-1], weights[2]])
    with pytest.raises(ValueError, match="not yet been built"):
        optimizers.Adam().set_weights(weights)
    assert_unchanged(optimizer, variables, before)
    optimizer.set_weights(weights)
    for variable, weight in zip(optimizer.variables, weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), weight)


def test_finalizing_with_other_variables_is_an_error(rng):
    optimizer, variables = built(rng, use_ema=True)
    with pytest.raises(ValueError, match="does not match"):
        optimizer.finalize_variable_values(variables[:2])


def test_scale_loss():
    assert optimizers.SGD().scale_loss(3.0) == 3.0
    assert optimizers.SGD(loss_scale_factor=4.0).scale_loss(3.0) == 12.0


def test_what_is_not_supported_says_so(rng):
    optimizer, variables = built(rng)
    with pytest.raises(NotImplementedError, match="apply"):
        optimizer.stateless_apply([], [], [])
    with pytest.raises(NotImplementedError, match="layout"):
        optimizer.add_variable((2,), layout=1)


def test_a_variable_of_another_device_is_an_error(rng):
    strict_device.install()
    variables = make_variables(rng)
    with devices.use_device("strict"), pytest.raises(ValueError, match="same device"):
        optimizers.SGD().build(variables)
