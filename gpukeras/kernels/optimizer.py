"""The update rules of all optimizers, on flat arrays and in place.

Each rule takes one-dimensional arrays of equal size: the parameters, their gradients, the slots.
Rules write into parameters and slots only. Learning rate and step count are arrays of shape (), so
that nothing has to be read on the host; what follows from the step count is computed in the dtype
of the parameters, as in Keras (1 - 0.999 is off by 5e-5 in float32, and its numbers show it).

The forms for NumPy go over the arrays in blocks that stay in cache, with the reference's operations
in the reference's order: the results are the same to the last bit, but for sums of squares and
for Adam, which has BLAS multiply and add in one pass.
"""

import numpy as np

from gpukeras.backend import blas, cuda, devices
from gpukeras.kernels import blocks
from gpukeras.kernels.kernel import kernel
from gpukeras.kernels.updates import flat_samples, flat_scalar, sum_of_squares

__all__ = [
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "ftrl",
    "lamb",
    "lion",
    "nadam",
    "rmsprop",
    "sgd",
    "sgd_momentum",
]

_CUDA = cuda.Source("optimizer")


def _rate_and_step(param, learning_rate, step):
    """Both where a CUDA kernel reads them, in the dtypes that it expects."""
    return cuda.scalar(learning_rate, param.dtype), step.astype(np.int32, copy=False)


@kernel
def sgd(param, grad, learning_rate):
    """param ← param - learning_rate · grad."""
    param -= learning_rate * grad


@sgd.cpu
def sgd(param, grad, learning_rate):
    learning_rate = float(learning_rate)

    def update(p, g, s):
        np.multiply(g, learning_rate, s)
        np.subtract(p, s, p)

    blocks.with_scratch(update, 1, param, grad)


@sgd.cuda
def sgd(param, grad, learning_rate):
    _CUDA.elementwise("sgd", param, grad, cuda.scalar(learning_rate, param.dtype), param)


@sgd.samples
def sgd(random, dtype):
    for arrays in flat_samples(random, dtype):
        yield *arrays, flat_scalar(0.1, dtype)


@kernel
def sgd_momentum(param, grad, velocity, learning_rate, momentum, nesterov):
    """velocity ← momentum · velocity - learning_rate · grad;  param ← param + velocity.

    Nesterov's form adds momentum · velocity - learning_rate · grad, with the new velocity, instead.
    """
    step = learning_rate * grad
    velocity *= momentum
    velocity -= step
    param += velocity * momentum - step if nesterov else velocity


@sgd_momentum.cpu
def sgd_momentum(param, grad, velocity, learning_rate, momentum, nesterov):
    learning_rate = float(learning_rate)

    def update(p, g, v, s, t):
        np.multiply(g, learning_rate, s)
        np.multiply(v, momentum, v)
        np.subtract(v, s, v)
        if nesterov:
            np.multiply(v, momentum, t)
            np.subtract(t, s, t)
            np.add(p, t, p)
        else:
            np.add(p, v, p)

    blocks.with_scratch(update, 2, param, grad, velocity)


@sgd_momentum.cuda
def sgd_momentum(param, grad, velocity, learning_rate, momentum, nesterov):
    rate = cuda.scalar(learning_rate, param.dtype)
    _CUDA.elementwise("sgd_momentum", param, grad, rate, momentum, nesterov, velocity, param)


@sgd_momentum.samples
def sgd_momentum(random, dtype):
    for nesterov in (False, True):
        for arrays in flat_samples(random, dtype, "any"):
            yield *arrays, flat_scalar(0.1, dtype), 0.9, nesterov


@kernel
def adagrad(param, grad, accumulator, learning_rate, epsilon):
    """accumulator ← accumulator + grad²;  param ← param - rate · grad / √(accumulator + ε)."""
    xp = devices.array_module(param)
    accumulator += grad * grad
    param -= learning_rate * grad / xp.sqrt(accumulator + epsilon)


@adagrad.cpu
def adagrad(param, grad, accumulator, learning_rate, epsilon):
    learning_rate = float(learning_rate)

    def update(p, g, a, s, t):
        np.multiply(g, g, s)
        np.add(a, s, a)
        np.add(a, epsilon, s)
        np.sqrt(s, s)
        np.multiply(g, learning_rate, t)
        np.divide(t, s, t)
        np.subtract(p, t, p)

    blocks.with_scratch(update, 2, param, grad, accumulator)


@adagrad.cuda
def adagrad(param, grad, accumulator, learning_rate, epsilon):
    _CUDA.elementwise("adagrad", param, grad, cuda.scalar(learning_rate, param.dtype), epsilon, accumulator, param)


@adagrad.samples
def adagrad(random, dtype):
    for arrays in flat_samples(random, dtype, "positive"):
        yield *arrays, flat_scalar(0.1, dtype), 1e-7


@kernel
def rmsprop(param, grad, velocity, average, momenta, learning_rate, rho, momentum, epsilon):
    """RMSprop; the centered form where `average` is given, with momentum where `momenta` is.

    velocity ← rho · velocity + (1 - rho) · grad²
    average  ← rho · average + (1 - rho) · grad
    step     = learning_rate · grad / √(velocity - average² + epsilon)
    momenta  ← momentum · momenta + step
    param    ← param - momenta (or step)
    """
    xp = devices.array_module(param)
    velocity *= rho
    velocity += grad * grad * (1 - rho)
    denominator = velocity
    if average is not None:
        average *= rho
        average += grad * (1 - rho)
        denominator = velocity - average * average
    step = learning_rate * grad / xp.sqrt(denominator + epsilon)
    if momenta is not None:
        momenta *= momentum
        momenta += step
        step = momenta
    param -= step


@rmsprop.cpu
def rmsprop(param, grad, velocity, average, momenta, learning_rate, rho, momentum, epsilon):
    learning_rate = float(learning_rate)
    rest = 1 - rho

    def update(p, g, v, a, m, s, t):
        np.multiply(v, rho, v)
        np.multiply(g, g, s)
        np.multiply(s, rest, s)
        np.add(v, s, v)
        if a is None:
            np.add(v, epsilon, s)
        else:
            np.multiply(a, rho, a)
            np.multiply(g, rest, s)
            np.add(a, s, a)
            np.multiply(a, a, s)
            np.subtract(v, s, s)
            np.add(s, epsilon, s)
        np.sqrt(s, s)
        np.multiply(g, learning_rate, t)
        np.divide(t, s, t)
        if m is not None:
            np.multiply(m, momentum, m)
            np.add(m, t, m)
            t = m
        np.subtract(p, t, p)

    blocks.with_scratch(update, 2, param, grad, velocity, average, momenta)


@rmsprop.cuda
def rmsprop(param, grad, velocity, average, momenta, learning_rate, rho, momentum, epsilon):
    settings = cuda.scalar(learning_rate, param.dtype), rho, 1 - rho, momentum, epsilon
    _CUDA.elementwise("rmsprop", param, grad, *settings, velocity, average, momenta, param)


@rmsprop.samples
def rmsprop(random, dtype):
    for average, momenta in ((None, None), ("any", None), (None, "any"), ("any", "any")):
        for param, grad, velocity, mean, m in flat_samples(random, dtype, "positive", average, momenta):
            if mean is not None:  # what the slots may hold: a mean square is no less than a squared mean
                mean *= 0.5
                velocity += mean * mean
            yield param, grad, velocity, mean, m, flat_scalar(0.1, dtype), 0.9, 0.8, 1e-3


@kernel
def adam(param, grad, momenta, velocity, velocity_hat, step, learning_rate, beta_1, beta_2, epsilon):
    """Adam (Kingma and Ba 2014, corrected as in section 2); amsgrad where `velocity_hat` is given.

    momenta  ← momenta + (1 - beta_1) · (grad - momenta)
    velocity ← velocity + (1 - beta_2) · (grad² - velocity)
    alpha    = learning_rate · √(1 - beta_2ᵗ) / (1 - beta_1ᵗ),  t = step + 1
    param    ← param - alpha · momenta / (√velocity + epsilon)
    """
    xp = devices.array_module(param)
    t = (step + 1).astype(param.dtype)
    alpha = learning_rate * xp.sqrt(1 - beta_2**t) / (1 - beta_1**t)
    momenta += (grad - momenta) * (1 - beta_1)
    velocity += (grad * grad - velocity) * (1 - beta_2)
    if velocity_hat is not None:
        velocity = xp.maximum(velocity_hat, velocity, out=velocity_hat)
    param -= momenta * alpha / (xp.sqrt(velocity) + epsilon)


@adam.cpu
def adam(param, grad, momenta, velocity, velocity_hat, step, learning_rate, beta_1, beta_2, epsilon):
    t = param.dtype.type(step.item() + 1)  # NumPy's scalars compute like its arrays, in a third of the time
    alpha = learning_rate[()] * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
    rest_1, rest_2 = 1 - beta_1, 1 - beta_2

    def update(p, g, m, v, h, s):
        blas.add_scaled(g, rest_1, m, beta_1)
        np.multiply(g, g, s)
        np.subtract(s, v, s)
        blas.add_scaled(s, rest_2, v)  # like this an infinite average turns into NaN, which a user will see
        if h is not None:
            v = np.maximum(h, v, out=h)
        np.sqrt(v, s)
        np.add(s, epsilon, s)
        np.divide(m, s, s)
        blas.add_scaled(s, -alpha, p)

    blocks.with_scratch(update, 1, param, grad, momenta, velocity, velocity_hat)


@adam.cuda
def adam(param, grad, momenta, velocity, velocity_hat, step, learning_rate, beta_1, beta_2, epsilon):
    settings = *_rate_and_step(param, learning_rate, step), beta_1, 1 - beta_1, beta_2, 1 - beta_2, epsilon
    _CUDA.elementwise("adam", param, grad, *settings, momenta, velocity, velocity_hat, param)


@adam.samples
def adam(random, dtype):
    for hat in (None, "positive"):
        for step in (0, 1000):
            for arrays in flat_samples(random, dtype, "any", "positive", hat):
                yield *arrays, flat_scalar(step, "int32"), flat_scalar(0.1, dtype), 0.9, 0.999, 1e-7


@kernel
def adamax(param, grad, momenta, norm, step, learning_rate, beta_1, beta_2, epsilon):
    """Adamax (Kingma and Ba 2014, section 7).

    momenta ← momenta + (1 - beta_1) · (grad - momenta)
    norm    ← max(beta_2 · norm, |grad|)
    param   ← param - learning_rate / (1 - beta_1ᵗ) · momenta / (norm + epsilon),  t = step + 1
    """
    xp = devices.array_module(param)
    correction = 1 - beta_1 ** (step + 1).astype(param.dtype)
    momenta += (grad - momenta) * (1 - beta_1)
    norm *= beta_2
    xp.maximum(norm, abs(grad), out=norm)
    param -= learning_rate * momenta / (correction * (norm + epsilon))


@adamax.cpu
def adamax(param, grad, momenta, norm, *settings):
    blocks.with_scratch(lambda *arrays: adamax.reference(*arrays, *settings), 0, param, grad, momenta, norm)


@adamax.cuda
def adamax(param, grad, momenta, norm, step, learning_rate, beta_1, beta_2, epsilon):
    settings = *_rate_and_step(param, learning_rate, step), beta_1, 1 - beta_1, beta_2, epsilon
    _CUDA.elementwise("adamax", param, grad, *settings, momenta, norm, param)


@adamax.samples
def adamax(random, dtype):
    for arrays in flat_samples(random, dtype, "any", "positive"):
        yield *arrays, flat_scalar(3, "int32"), flat_scalar(0.1, dtype), 0.9, 0.999, 1e-7


@kernel
def nadam(param, grad, momenta, velocity, product, step, learning_rate, beta_1, beta_2, epsilon):
    """Adam with Nesterov's look ahead (Dozat 2015); `product` is u₁ · ... · uₜ, t = step + 1.

    uₜ       = beta_1 · (1 - 0.96ᵗ / 2)
    momenta  ← momenta + (1 - beta_1) · (grad - momenta)
    velocity ← velocity + (1 - beta_2) · (grad² - velocity)
    look     = uₜ₊₁ / (1 - product · uₜ₊₁) · momenta + (1 - uₜ) / (1 - product) · grad
    param    ← param - learning_rate · look / (√(velocity / (1 - beta_2ᵗ)) + epsilon)
    """
    xp = devices.array_module(param)
    t = (step + 1).astype(param.dtype)
    u = beta_1 * (1 - 0.5 * 0.96**t)
    u_next = beta_1 * (1 - 0.5 * 0.96 ** (t + 1))
    momenta += (grad - momenta) * (1 - beta_1)
    velocity += (grad * grad - velocity) * (1 - beta_2)
    look = momenta * (u_next / (1 - product * u_next)) + grad * ((1 - u) / (1 - product))
    param -= look * learning_rate / (xp.sqrt(velocity / (1 - beta_2**t)) + epsilon)


@nadam.cpu
def nadam(param, grad, momenta, velocity, *settings):
    blocks.with_scratch(lambda *arrays: nadam.reference(*arrays, *settings), 0, param, grad, momenta, velocity)


@nadam.cuda
def nadam(param, grad, momenta, velocity, product, step, learning_rate, beta_1, beta_2, epsilon):
    scalars = *_rate_and_step(param, learning_rate, step), cuda.scalar(product, param.dtype)
    settings = beta_1, 1 - beta_1, beta_2, 1 - beta_2, epsilon
    _CUDA.elementwise("nadam", param, grad, *scalars, *settings, momenta, velocity, param)


@nadam.samples
def nadam(random, dtype):
    for arrays in flat_samples(random, dtype, "any", "positive"):
        scalars = flat_scalar(0.2, dtype), flat_scalar(2, "int32"), flat_scalar(0.1, dtype)
        yield *arrays, *scalars, 0.9, 0.999, 1e-7


@kernel
def adadelta(param, grad, grad_squares, delta_squares, learning_rate, rho, epsilon):
    """Adadelta (Zeiler 2012): steps in the unit of the parameters.

    grad_squares  ← rho · grad_squares + (1 - rho) · grad²
    delta         = -√(delta_squares + epsilon) / √(grad_squares + epsilon) · grad
    delta_squares ← rho · delta_squares + (1 - rho) · delta²
    param         ← param + learning_rate · delta
    """
    xp = devices.array_module(param)
    grad_squares *= rho
    grad_squares += grad * grad * (1 - rho)
    delta = xp.sqrt(delta_squares + epsilon) * grad / xp.sqrt(grad_squares + epsilon)
    delta_squares *= rho
    delta_squares += delta * delta * (1 - rho)
    param -= learning_rate * delta


@adadelta.cpu
def adadelta(param, grad, grad_squares, delta_squares, *settings):
    blocks.with_scratch(
        lambda *arrays: adadelta.reference(*arrays, *settings), 0, param, grad, grad_squares, delta_squares
    )


@adadelta.cuda
def adadelta(param, grad, grad_squares, delta_squares, learning_rate, rho, epsilon):
    settings = cuda.scalar(learning_rate, param.dtype), rho, 1 - rho, epsilon
    _CUDA.elementwise("adadelta", param, grad, *settings, grad_squares, delta_squares, param)


@adadelta.samples
def adadelta(random, dtype):
    for arrays in flat_samples(random, dtype, "positive", "positive"):
        yield *arrays, flat_scalar(0.1, dtype), 0.95, 1e-7


@kernel
def ftrl(param, grad, accumulator, linear, learning_rate, power, l1, l2, l2_shrinkage, beta):
    """Follow the regularized leader (McMahan et al. 2013, with shrinkage l2 in the gradient).

    new         = accumulator + grad²
    linear      ← linear + grad + 2 · l2_shrinkage · param
                  - (new^-power - accumulator^-power) / learning_rate · param
    quadratic   = new^-power / learning_rate + 2 · l2 + beta / learning_rate
    param       ← (clip(linear, -l1, l1) - linear) / quadratic
    accumulator ← new
    """
    xp = devices.array_module(param)
    before = accumulator**-power
    accumulator += grad * grad
    after = accumulator**-power
    linear += grad + param * (2 * l2_shrinkage) - (after - before) / learning_rate * param
    quadratic = after / learning_rate + 2 * (l2 + beta / (2 * learning_rate))
    param[...] = (xp.clip(linear, -l1, l1) - linear) / quadratic


@ftrl.cpu
def ftrl(param, grad, accumulator, linear, *settings):
    blocks.with_scratch(lambda *arrays: ftrl.reference(*arrays, *settings), 0, param, grad, accumulator, linear)


@ftrl.cuda
def ftrl(param, grad, accumulator, linear, learning_rate, *settings):
    rate = cuda.scalar(learning_rate, param.dtype)
    _CUDA.elementwise("ftrl", param, grad, rate, *settings, accumulator, linear, param)


@ftrl.samples
def ftrl(random, dtype):
    for settings in ((-0.5, 0.0, 0.0, 0.0, 0.0), (-0.7, 0.1, 0.2, 0.3, 0.4)):
        for arrays in flat_samples(random, dtype, "positive", "any"):
            yield *arrays, flat_scalar(0.1, dtype), *settings


@kernel
def lion(param, grad, momenta, learning_rate, beta_1, beta_2):
    """Lion (Chen et al. 2023): steps of equal size in every direction.

    param   ← param - learning_rate · sign(beta_1 · momenta + (1 - beta_1) · grad)
    momenta ← beta_2 · momenta + (1 - beta_2) · grad
    """
    xp = devices.array_module(param)
    param -= learning_rate * xp.sign(momenta * beta_1 + grad * (1 - beta_1))
    momenta *= beta_2
    momenta += grad * (1 - beta_2)


@lion.cpu
def lion(param, grad, momenta, *settings):
    blocks.with_scratch(lambda *arrays: lion.reference(*arrays, *settings), 0, param, grad, momenta)


@lion.cuda
def lion(param, grad, momenta, learning_rate, beta_1, beta_2):
    settings = cuda.scalar(learning_rate, param.dtype), beta_1, 1 - beta_1, beta_2, 1 - beta_2
    _CUDA.elementwise("lion", param, grad, *settings, momenta, param)


@lion.samples
def lion(random, dtype):
    for param, grad, momenta in flat_samples(random, dtype, "any"):
        # Away from where the sign changes, also once all are rounded to 16 bits: there, rounding decides on it.
        direction = momenta * 0.9 + grad * 0.1
        momenta += (abs(direction) < 0.05) * (0.2 - 0.4 * (direction < 0)).astype(dtype)
        yield param, grad, momenta, flat_scalar(0.1, dtype), 0.9, 0.99


@kernel
def lamb(param, grad, momenta, velocity, step, learning_rate, beta_1, beta_2, epsilon):
    """Adam for large batches (You et al. 2019). `param` is one variable: its norm sizes the step.

    momenta, velocity   as in Adam
    update = momenta / (1 - beta_1ᵗ) / (√(velocity / (1 - beta_2ᵗ)) + epsilon),  t = step + 1
    param  ← param - learning_rate · ‖param‖ / ‖update‖ · update    (ratio 1 where a norm is 0)
    """
    xp = devices.array_module(param)
    t = (step + 1).astype(param.dtype)
    momenta += (grad - momenta) * (1 - beta_1)
    velocity += (grad * grad - velocity) * (1 - beta_2)
    update = momenta / (1 - beta_1**t) / (xp.sqrt(velocity / (1 - beta_2**t)) + epsilon)
    param_norm, update_norm = xp.sqrt(sum_of_squares(param)), xp.sqrt(sum_of_squares(update))
    has_norms = (param_norm > 0) & (update_norm > 0)
    ratio = xp.where(has_norms, param_norm, 1.0) / xp.where(has_norms, update_norm, 1.0)
    param -= update * (ratio * learning_rate).astype(param.dtype)


@lamb.cuda
def lamb(param, grad, momenta, velocity, step, learning_rate, beta_1, beta_2, epsilon):
    xp, wide = devices.array_module(param), cuda.wide_dtype(param.dtype)
    update, parts = xp.empty_like(param), xp.empty((2, cuda.grid_of(param)), wide)
    rate, step = _rate_and_step(param, learning_rate, step)
    settings = step, beta_1, 1 - beta_1, beta_2, 1 - beta_2, epsilon
    _CUDA.elementwise("lamb_update", param, param, grad, *settings, momenta, velocity, update, parts)
    _CUDA.elementwise("lamb_step", param, update, _CUDA.total(parts, param), rate, param)


@lamb.samples
def lamb(random, dtype):
    for arrays in flat_samples(random, dtype, "any", "positive"):
        yield *arrays, flat_scalar(3, "int32"), flat_scalar(0.1, dtype), 0.9, 0.999, 1e-7
