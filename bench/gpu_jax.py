"""The steps of `bench.gpu_models` in JAX, the way its users write them by hand: pure functions under `jax.jit`.

Each network is a function ``(weights, x) -> logits`` and takes the weights of the Keras model, so that the arithmetic
is the same; moving statistics of batch normalization, which no loss depends on, are left out.
"""

import contextlib
import os

from bench.gpu_models import weights_of

__all__ = ["JAX_MODELS", "import_jax", "jax_step"]


def import_jax():
    """JAX where it is installed and sees a GPU, else None."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # it would else take most of the memory
    with contextlib.suppress(Exception):  # a broken installation is none
        import jax

        if jax.default_backend() == "gpu":
            return jax
    return None


def jax_step(jax, name, workload, policy, is_exact=False):
    """A compiled training step on a batch that stays, as a function of nothing that returns the loss.

    Args:
        jax: The module.
        name, workload: The model's name, and the model with its data; it starts from these weights.
        policy: "float32", or "mixed_bfloat16" for weights and activations in 16 bits beside weights in 32.
        is_exact: Whether float32 products are made without TF32.
    """
    jnp = jax.numpy
    forward = JAX_MODELS[name](jax)
    parameters = jax.tree.map(jnp.asarray, weights_of(workload.model))
    x, y = (jnp.asarray(array[0] if isinstance(array, list) else array) for array in (workload.x, workload.y))
    is_mixed = policy == "mixed_bfloat16"

    def loss(parameters, x, y):
        if is_mixed:
            parameters = jax.tree.map(lambda p: p.astype(jnp.bfloat16), parameters)
            x = x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x
        logits = forward(parameters, x).astype(jnp.float32)
        if name == "lstm":
            return (jax.nn.softplus(logits) - y * logits).mean()
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], -1).mean()

    start, update = (_rmsprop if workload.optimizer == "rmsprop" else _adam)(jax)

    def step(state, x, y):
        value, gradients = jax.value_and_grad(loss)(state[0], x, y)
        return value, update(state, gradients)

    compiled, state = jax.jit(step, donate_argnums=0), [start(parameters)]
    precision = "highest" if is_exact else "default"

    def run():
        with jax.default_matmul_precision(precision):
            value, state[0] = compiled(state[0], x, y)
        return value

    return run


# --- Optimizers, as Keras has them -----------------------------------------------------------------------------


def _adam(jax):
    jnp, tree_map = jax.numpy, jax.tree.map

    def start(parameters):
        return parameters, *(tree_map(jnp.zeros_like, parameters) for _ in range(2)), jnp.zeros((), jnp.float32)

    def update(state, gradients):
        parameters, momenta, velocities, count = state
        t = count + 1
        momenta = tree_map(lambda m, g: m + 0.1 * (g - m), momenta, gradients)
        velocities = tree_map(lambda v, g: v + 0.001 * (g * g - v), velocities, gradients)
        rate = 1e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        parameters = tree_map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-7), parameters, momenta, velocities)
        return parameters, momenta, velocities, t

    return start, update


def _rmsprop(jax):
    jnp, tree_map = jax.numpy, jax.tree.map

    def start(parameters):
        return parameters, tree_map(jnp.zeros_like, parameters)

    def update(state, gradients):
        parameters, velocities = state
        velocities = tree_map(lambda v, g: v + 0.1 * (g * g - v), velocities, gradients)
        parameters = tree_map(lambda p, g, v: p - 1e-3 * g / jnp.sqrt(v + 1e-7), parameters, gradients, velocities)
        return parameters, velocities

    return start, update


# --- Networks --------------------------------------------------------------------------------------------------


def _mlp(jax):
    def forward(weights, x):
        *hidden, last = weights["Dense"]
        for kernel, bias in hidden:
            x = jax.nn.relu(x @ kernel + bias)
        return x @ last[0] + last[1]

    return forward


def _convolution(jax, x, kernel, strides=1, padding="SAME"):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (strides, strides), padding, dimension_numbers=layout)


def _convnet(jax):
    def pooled(x):
        return jax.lax.reduce_window(x, -jax.numpy.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    def forward(weights, x):
        for i, (kernel, bias) in enumerate(weights["Conv2D"]):
            x = jax.nn.relu(_convolution(jax, x, kernel, padding="VALID") + bias)
            x = pooled(x) if i < 2 else x
        ((kernel, bias),) = weights["Dense"]
        return x.reshape(len(x), -1) @ kernel + bias

    return forward


def _resnet18(jax):
    def normalized(x, scale, offset):
        wide = x.astype(jax.numpy.float32)
        mean, variance = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
        y = (wide - mean) * jax.lax.rsqrt(variance + 1e-3) * scale + offset
        return y.astype(x.dtype)

    def forward(weights, x):
        kernels, norms = iter(weights["Conv2D"]), iter(weights["BatchNormalization"])

        def convolved(x, strides=1):
            (kernel,), (scale, offset) = next(kernels), next(norms)
            return normalized(_convolution(jax, x, kernel, strides), scale, offset)

        def block(x, strides):
            shortcut = x if strides == 1 else convolved(x, strides)
            return jax.nn.relu(convolved(jax.nn.relu(convolved(x, strides))) + shortcut)

        x = jax.nn.relu(convolved(x))
        for i in range(4):
            x = block(block(x, 1 if i == 0 else 2), 1)
        ((kernel, bias),) = weights["Dense"]
        return x.mean((1, 2)) @ kernel + bias

    return forward


def _lstm(jax):
    def forward(weights, x):
        ((embeddings,),) = weights["Embedding"]
        ((kernel, recurrent_kernel, bias),) = weights["LSTM"]
        z = embeddings[x.T] @ kernel + bias  # for all steps at once
        zeros = jax.numpy.zeros((len(x), len(recurrent_kernel)), z.dtype)

        def step(state, z):
            h, c = state
            i, f, g, o = jax.numpy.split(z + h @ recurrent_kernel, 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jax.numpy.tanh(g)
            return (jax.nn.sigmoid(o) * jax.numpy.tanh(c), c), None

        (h, _), _ = jax.lax.scan(step, (zeros, zeros), z)
        ((kernel, bias),) = weights["Dense"]
        return h @ kernel + bias

    return forward


def _gpt2(jax):
    def normalized(x, scale, offset):
        wide = x.astype(jax.numpy.float32)
        mean, variance = wide.mean(-1, keepdims=True), wide.var(-1, keepdims=True)
        return ((wide - mean) * jax.lax.rsqrt(variance + 1e-5) * scale + offset).astype(x.dtype)

    def forward(weights, x):
        (words,), (places,) = weights["Embedding"]
        norms, dense = iter(weights["LayerNormalization"]), iter(weights["Dense"])
        x = words[x] + places
        is_fused = x.dtype == jax.numpy.bfloat16 and jax.default_backend() == "gpu"
        for q, q_bias, k, k_bias, v, v_bias, out, out_bias in weights["MultiHeadAttention"]:
            h = normalized(x, *next(norms))
            q, k, v = (
                jax.numpy.einsum("btw,whs->bths", h, kernel) + bias
                for kernel, bias in ((q, q_bias), (k, k_bias), (v, v_bias))
            )
            settings = {"is_causal": True, "implementation": "cudnn" if is_fused else "xla"}
            y = jax.nn.dot_product_attention(q, k, v, **settings)
            x = x + jax.numpy.einsum("bths,hsw->btw", y, out) + out_bias
            h = normalized(x, *next(norms))
            (down, down_bias), (up, up_bias) = next(dense), next(dense)  # in the order in which they are made
            x = x + jax.nn.gelu(h @ up + up_bias, approximate=False) @ down + down_bias
        (kernel,) = next(dense)
        return normalized(x, *next(norms)) @ kernel

    return forward


JAX_MODELS = {"mlp": _mlp, "convnet": _convnet, "lstm": _lstm, "resnet18": _resnet18, "gpt2": _gpt2}
