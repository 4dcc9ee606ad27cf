"""Ten steps of every optimizer, its configs, names and files, against the installed Keras."""

import numpy as np
import pytest

from gpukeras import optimizers
from gpukeras.autograd.tensor import Variable
from gpukeras.configurable import serialize
from gpukeras.optimizers import schedules
from tests.helpers import assert_close
from tests.oracle import jnp
from tests.oracle import keras as oracle_keras

pytestmark = pytest.mark.oracle

SHAPES = {"dense/kernel": (5, 4), "dense/bias": (4,), "scale": (), "conv/kernel": (3, 2, 7)}

RULES = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("Adagrad", {}),
    ("Adagrad", {"initial_accumulator_value": 0.5, "epsilon": 1e-3}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.8}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"centered": True, "momentum": 0.8, "rho": 0.8}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True}),
    ("Adam", {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}),
    ("AdamW", {}),
    ("AdamW", {"weight_decay": 0.3, "amsgrad": True}),
    ("Adamax", {}),
    ("Nadam", {}),
    ("Adadelta", {"learning_rate": 1.0}),
    ("Ftrl", {}),
    (
        "Ftrl",
        {
            "learning_rate_power": -0.7,
            "l1_regularization_strength": 0.01,
            "l2_regularization_strength": 0.02,
            "l2_shrinkage_regularization_strength": 0.03,
            "beta": 0.1,
        },
    ),
    ("Lion", {}),
    ("Lamb", {}),
]

OPTIONS = [
    {"weight_decay": 0.1},
    {"clipnorm": 0.7},
    {"clipvalue": 0.3},
    {"global_clipnorm": 0.9},
    {"use_ema": True, "ema_momentum": 0.9},
    {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3},
    {"loss_scale_factor": 8.0},
    {"gradient_accumulation_steps": 3},
    {"gradient_accumulation_steps": 2, "global_clipnorm": 0.9, "weight_decay": 0.1},
    {"gradient_accumulation_steps": 2, "use_ema": True, "ema_overwrite_frequency": 2},
]

SCHEDULES = [
    ("ExponentialDecay", (0.1, 4, 0.5), {}),
    ("ExponentialDecay", (0.1, 4, 0.5), {"staircase": True}),
    ("PiecewiseConstantDecay", ([3, 5, 8], [0.1, 0.05, 0.2, 0.01]), {}),
    ("PolynomialDecay", (0.1, 7), {}),
    ("PolynomialDecay", (0.1, 7, 0.01), {"power": 2.0, "cycle": True}),
    ("InverseTimeDecay", (0.1, 4, 0.5), {}),
    ("InverseTimeDecay", (0.1, 4, 0.5), {"staircase": True}),
    ("CosineDecay", (0.1, 8), {"alpha": 0.1}),
    ("CosineDecay", (0.01, 8), {"warmup_target": 0.1, "warmup_steps": 4}),
    ("CosineDecayRestarts", (0.1, 5), {}),
    ("CosineDecayRestarts", (0.1, 5), {"t_mul": 1.0, "m_mul": 0.9, "alpha": 0.1}),
    ("CosineDecayRestarts", (0.1, 5), {"t_mul": 3.0, "m_mul": 0.5}),
]


def named(values, name):
    """A variable of ours and one of Keras's, with a path as a layer would give it."""
    ours = Variable(values, name=name.rsplit("/")[-1])
    ours.path = name
    theirs = oracle_keras.Variable(values, name=name.rsplit("/")[-1])
    theirs._path = name
    return ours, theirs


def pairs(rng):
    made = [named(rng.standard_normal(s).astype("float32"), n) for n, s in SHAPES.items()]
    return [ours for ours, _ in made], [theirs for _, theirs in made]


def train(optimizer, oracle, rng, steps=10):
    """The same gradients into both; variables and slots are compared after each step."""
    ours, theirs = pairs(rng)
    for step in range(steps):
        grads = [rng.standard_normal(v.shape).astype("float32") for v in ours]
        optimizer.apply(grads, ours)
        oracle.apply([jnp.asarray(g) for g in grads], theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a, b.numpy(), err_msg=f"{a.path} after step {step}")
        for a, b in zip(optimizer.variables, oracle.variables, strict=True):
            assert_close(a, b.numpy(), err_msg=f"{a.path} after step {step}")
    assert int(optimizer.iterations) == int(oracle.iterations)
    return ours, theirs


@pytest.mark.parametrize(("name", "settings"), RULES)
def test_ten_steps(name, settings, rng):
    settings = {"learning_rate": 0.05, **settings}
    train(
        getattr(optimizers, name)(**settings),
        getattr(oracle_keras.optimizers, name)(**settings),
        rng,
    )


@pytest.mark.parametrize("name", ["SGD", "Nadam"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_ten_steps_with_options(name, options, rng):
    optimizer = getattr(optimizers, name)(0.05, **options)
    oracle = getattr(oracle_keras.optimizers, name)(0.05, **options)
    # What Keras accumulates with is slow outside of a compiled step.
    ours, theirs = train(optimizer, oracle, rng, 6 if "gradient_accumulation_steps" in options else 10)
    optimizer.finalize_variable_values(ours)
    oracle.finalize_variable_values(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b.numpy())


@pytest.mark.parametrize(("name", "args", "settings"), SCHEDULES)
def test_ten_steps_with_a_schedule(name, args, settings, rng):
    schedule = getattr(schedules, name)(*args, **settings)
    oracle = getattr(oracle_keras.optimizers.schedules, name)(*args, **settings)
    train(optimizers.SGD(schedule), oracle_keras.optimizers.SGD(oracle), rng)


@pytest.mark.parametrize(("name", "args", "settings"), SCHEDULES)
def test_schedule_values_and_config(name, args, settings):
    ours = getattr(schedules, name)(*args, **settings)
    theirs = getattr(oracle_keras.optimizers.schedules, name)(*args, **settings)
    for step in (0, 1, 2, 3, 5, 8, 9, 10, 14, 15, 19, 20, 34, 35, 64, 1000):
        value = ours(step)
        assert value.shape == ()
        assert value.dtype == "float32"
        assert_close(value, np.asarray(theirs(step)), err_msg=f"step {step}")
    assert ours.get_config() == theirs.get_config()
    assert schedules.serialize(ours) == oracle_keras.optimizers.schedules.serialize(theirs)
    assert schedules.deserialize(schedules.serialize(ours)).get_config() == theirs.get_config()


def both(name, settings):
    settings = {**settings, "name": "optimizer"}
    return getattr(optimizers, name)(**settings), getattr(oracle_keras.optimizers, name)(**settings)


@pytest.mark.parametrize(("name", "settings"), RULES)
def test_config_equals(name, settings):
    ours, theirs = both(name, settings)
    assert ours.get_config() == theirs.get_config()
    assert serialize(ours) == oracle_keras.optimizers.serialize(theirs)
    assert type(ours).from_config(ours.get_config()).get_config() == theirs.get_config()
    assert optimizers.deserialize(oracle_keras.optimizers.serialize(theirs)).get_config() == theirs.get_config()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_config_of_options_equals(options):
    ours, theirs = both("Adam", options)
    assert ours.get_config() == theirs.get_config()


def test_config_with_a_schedule_equals():
    ours = optimizers.Adam(schedules.CosineDecay(0.1, 10), name="a")
    theirs = oracle_keras.optimizers.Adam(oracle_keras.optimizers.schedules.CosineDecay(0.1, 10), name="a")
    assert ours.get_config() == theirs.get_config()
    loaded = optimizers.get(oracle_keras.optimizers.serialize(theirs))
    assert isinstance(loaded._learning_rate, schedules.CosineDecay)
    assert loaded.get_config() == theirs.get_config()


@pytest.mark.parametrize("name", [name for name, settings in RULES if not settings])
@pytest.mark.parametrize("options", [{}, {"use_ema": True, "gradient_accumulation_steps": 2}], ids=str)
def test_variables_are_named_and_ordered_as_in_keras(name, options, rng):
    ours, theirs = both(name, options)
    mine, other = pairs(rng)
    ours.build(mine)
    theirs.build(other)
    for a, b in zip(ours.variables, theirs.variables, strict=True):
        if b.name.startswith("variable"):  # Nadam's product, which Keras numbers through
            assert a.name == "variable"
        else:
            assert (a.name, a.path) == (b.name, b.path)
        assert (a.shape, a.dtype, a.aggregation) == (b.shape, b.dtype, b.aggregation)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("RMSprop", {"centered": True, "momentum": 0.1}), ("Adam", {"amsgrad": True})],
)
def test_more_slots_are_named_and_ordered_as_in_keras(name, settings, rng):
    ours, theirs = both(name, settings)
    mine, other = pairs(rng)
    ours.build(mine)
    theirs.build(other)
    assert [v.path for v in ours.variables] == [v.path for v in theirs.variables]


@pytest.mark.parametrize("name", ["SGD", "Adam", "Nadam", "Ftrl"])
def test_state_crosses_in_both_directions(name, rng):
    ours, theirs = both(name, {})
    train(ours, theirs, rng, steps=3)
    store = {}
    theirs.save_own_variables(store)
    loaded, oracle_loaded = both(name, {})
    mine, other = pairs(rng)
    loaded.build(mine)
    loaded.load_own_variables(store)
    for a, b in zip(loaded.variables, theirs.variables, strict=True):
        assert_close(a, b.numpy())
    store = {}
    ours.save_own_variables(store)
    oracle_loaded.build(other)
    oracle_loaded.load_own_variables(store)
    for a, b in zip(ours.variables, oracle_loaded.variables, strict=True):
        assert_close(a, b.numpy())


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}], ids=str)
def test_missing_gradients_and_subsets(options, rng):
    ours, theirs = both("Adam", options)
    mine, other = pairs(rng)
    for present in ([0, 1, 2, 3], [0, 2], [1, 2, 3]):
        grads = [rng.standard_normal(v.shape).astype("float32") for v in mine]
        some = [g if i in present else None for i, g in enumerate(grads)]
        if len(present) < len(mine):
            with pytest.warns(UserWarning, match="Gradients do not exist"):
                ours.apply(some, mine)
            with pytest.warns(UserWarning, match="Gradients do not exist"):
                theirs.apply(some, other)
        else:
            ours.apply(some, mine)
            theirs.apply(some, other)
        # the same as a subset of the variables, in another order
        order = present[::-1]
        ours.apply([grads[i] for i in order], [mine[i] for i in order])
        theirs.apply([grads[i] for i in order], [other[i] for i in order])
        for a, b in zip([*mine, *ours.variables], [*other, *theirs.variables], strict=True):
            assert_close(a, b.numpy())


@pytest.mark.parametrize("settings", [{"var_list": [0]}, {"var_names": ["bias", "scale"]}], ids=str)
def test_exclusion_from_weight_decay(settings, rng):
    ours, theirs = both("AdamW", {"weight_decay": 0.5})
    mine, other = pairs(rng)
    for optimizer, variables in ((ours, mine), (theirs, other)):
        chosen = {k: [variables[i] for i in v] if k == "var_list" else v for k, v in settings.items()}
        optimizer.exclude_from_weight_decay(**chosen)
    for _ in range(3):
        grads = [rng.standard_normal(v.shape).astype("float32") for v in mine]
        ours.apply(grads, mine)
        theirs.apply(grads, other)
    for a, b in zip(mine, other, strict=True):
        assert_close(a, b.numpy())


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}], ids=str)
def test_variables_overwritten_by_their_gradients(options, rng):
    ours, theirs = both("Adam", options)
    mine, other = pairs(rng)
    mine[1].overwrite_with_gradient = other[1].overwrite_with_gradient = True
    for _ in range(4):
        grads = [rng.standard_normal(v.shape).astype("float32") for v in mine]
        ours.apply(grads, mine)
        theirs.apply([jnp.asarray(g) for g in grads], other)
        for a, b in zip([*mine, *ours.variables], [*other, *theirs.variables], strict=True):
            assert_close(a, b.numpy())


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_infinite_gradients_with_global_clipnorm(bad, rng):
    ours, theirs = both("SGD", {"global_clipnorm": 1.0})
    mine, other = pairs(rng)
    start = [v.numpy() for v in mine]
    for step in range(2):
        grads = [rng.standard_normal(v.shape).astype("float32") for v in mine]
        if step == 0:
            grads[0][0, 0] = bad
        ours.apply(grads, mine)
        theirs.apply(grads, other)
        for a, b, values in zip(mine, other, start, strict=True):
            assert_close(a, b.numpy())
            a.assign(values)  # as a user would who loads weights after an overflow
            b.assign(values)


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
def test_float16_variables(name, rng):
    ours, theirs = both(name, {"learning_rate": 0.05})
    values = rng.standard_normal((3, 4)).astype("float16")
    mine, other = Variable(values), oracle_keras.Variable(values, dtype="float16")
    for _ in range(3):
        grad = rng.standard_normal((3, 4)).astype("float16")
        ours.apply([grad], [mine])
        theirs.apply([jnp.asarray(grad)], [other])
    assert mine.dtype == "float16"
    assert_close(mine, other.numpy())


def test_loss_scale_optimizer(rng):
    ours = optimizers.LossScaleOptimizer(optimizers.Adam(0.05, name="a"), 8.0, 2, name="optimizer")
    inner = oracle_keras.optimizers.Adam(0.05, name="a")
    theirs = oracle_keras.optimizers.LossScaleOptimizer(inner, 8.0, 2, name="optimizer")
    assert ours.get_config() == theirs.get_config()
    assert serialize(ours) == oracle_keras.optimizers.serialize(theirs)
    loaded = optimizers.deserialize(oracle_keras.optimizers.serialize(theirs))
    assert loaded.get_config() == ours.get_config()
    mine, other = pairs(rng)
    assert ours.scale_loss(3.0) == theirs.scale_loss(3.0)
    theirs.build(other)
    values, state = [v.value for v in other], [v.value for v in theirs.variables]
    for step in range(8):
        grads = [rng.standard_normal(v.shape).astype("float32") for v in mine]
        if step in (0, 5):
            grads[1][2] = np.inf if step else np.nan
        ours.apply(grads, mine)
        # On JAX, Keras can decide whether to step in its functional form alone.
        values, state = theirs.stateless_apply(state, [jnp.asarray(g) for g in grads], values)
        for a, b in zip([*mine, *ours.variables], [*values, *state], strict=True):
            assert_close(a, np.asarray(b), err_msg=f"{a.path} after step {step}")
    assert [v.path for v in ours.variables] == [v.path for v in theirs.variables]
