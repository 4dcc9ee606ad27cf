"""The steps of `bench.gpu_models` in PyTorch and JAX, the way their users write them.

The MLP, the convnet and the LSTM in PyTorch are `bench.raw_torch`'s and start from the weights that every engine starts
from; the others start from weights of their own: the work is the same, the losses are not compared.
"""

import contextlib
import os

import numpy as np

from bench import workloads
from bench.gpu_models import GPT_SIZES, RESNET_SIZES

__all__ = ["JAX_MODELS", "import_jax", "jax_step", "torch_step"]


# --- PyTorch --------------------------------------------------------------------------------------------------


def torch_step(torch, name, size, workload, policy, is_compiled, device="cuda"):
    """A training step of a model on a batch that lies on the GPU, as a function of nothing that returns the loss.

    Args:
        is_compiled: Whether the network is compiled with CUDA graphs ("reduce-overhead").
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    network, loss, rate = _network(torch, name, size)
    network = network.to(device)
    x, y = _on_device(torch, workload.x, device), _on_device(torch, workload.y, device)
    parameters = [p for p in network.parameters() if p.requires_grad]
    if name == "convnet":
        optimizer = torch.optim.RMSprop(parameters, lr=rate, alpha=0.9, eps=1e-7, foreach=True)
    else:
        optimizer = torch.optim.Adam(parameters, lr=rate, eps=1e-7, fused=True)
    run = torch.compile(network, mode="reduce-overhead") if is_compiled else network
    is_mixed = policy == "mixed_bfloat16"

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=is_mixed):
            value = loss(run(x), y)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def _on_device(torch, array, device):
    array = array[0] if isinstance(array, list) else array  # PyTorch's GPT makes its positions itself
    tensor = torch.from_numpy(array).to(device)
    if tensor.dtype == torch.int32:
        return tensor.long()
    # NHWC in memory is what channels last means.
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def _network(torch, name, size):
    """The module, its loss, and the learning rate."""
    if name in ("resnet18", "gpt2"):
        make = _torch_modules(torch)[name]
        network, loss = make(size), _class_loss(torch)
        return (network.to(memory_format=torch.channels_last) if name == "resnet18" else network), loss, 1e-3
    from bench import raw_torch

    network = {"mlp": raw_torch.MLP, "convnet": raw_torch.Convnet, "lstm": raw_torch.LSTM}[name](size == "tiny")
    shapes = network.shapes
    drawn = zip(shapes, workloads.arrays_like(shapes), strict=True)
    network.weights([np.zeros(shape, np.float32) if array is None else array for shape, array in drawn])
    return network, network.loss, 1e-3


def _class_loss(torch):
    def loss(y_pred, y):
        return torch.nn.functional.cross_entropy(y_pred.reshape(-1, y_pred.shape[-1]), y.reshape(-1))

    return loss


def _torch_modules(torch):
    """ResNet-18 and GPT-2 as modules, made where PyTorch is there."""
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self, n, m, strides):
            super().__init__()
            self.first = nn.Conv2d(n, m, 3, strides, padding=1, bias=False)
            self.second = nn.Conv2d(m, m, 3, padding=1, bias=False)
            self.norm1, self.norm2 = nn.BatchNorm2d(m, eps=1e-3), nn.BatchNorm2d(m, eps=1e-3)
            self.shortcut = nn.Identity()
            if strides != 1:
                self.shortcut = nn.Sequential(nn.Conv2d(n, m, 1, strides, bias=False), nn.BatchNorm2d(m, eps=1e-3))

        def forward(self, x):
            y = functional.relu(self.norm1(self.first(x)))
            return functional.relu(self.norm2(self.second(y)) + self.shortcut(x))

    def resnet18(size):
        f = RESNET_SIZES[size].filters
        modules = [nn.Conv2d(3, f, 3, padding=1, bias=False), nn.BatchNorm2d(f, eps=1e-3), nn.ReLU()]
        before = f
        for i in range(4):
            modules += [Block(before, f << i, 1 if i == 0 else 2), Block(f << i, f << i, 1)]
            before = f << i
        return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))

    class Attention(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.heads = heads

        def forward(self, x):
            batch, tokens, width = x.shape
            q, k, v = self.inward(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            x = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.outward(x.transpose(1, 2).reshape(batch, tokens, width))

    class GPT(nn.Module):
        def __init__(self, size):
            super().__init__()
            _, depth, width, heads, tokens, words = GPT_SIZES[size]
            self.words, self.places = nn.Embedding(words, width), nn.Embedding(tokens, width)
            self.attentions = nn.ModuleList([Attention(width, heads) for _ in range(depth)])
            self.ups = nn.ModuleList([nn.Linear(width, 4 * width) for _ in range(depth)])
            self.downs = nn.ModuleList([nn.Linear(4 * width, width) for _ in range(depth)])
            self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2 * depth + 1)])
            self.dense = nn.Linear(width, words, bias=False)

        def forward(self, x):
            x = self.words(x) + self.places.weight
            for i, attention in enumerate(self.attentions):
                x = x + attention(self.norms[2 * i](x))
                x = x + self.downs[i](functional.gelu(self.ups[i](self.norms[2 * i + 1](x))))
            return self.dense(self.norms[-1](x))

    return {"resnet18": resnet18, "gpt2": GPT}


# --- JAX ------------------------------------------------------------------------------------------------------


def import_jax():
    """JAX where it is installed and sees a GPU, else None."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # it would else take most of the memory
    with contextlib.suppress(Exception):  # a broken installation is none
        import jax

        if jax.default_backend() == "gpu":
            return jax
    return None


def jax_step(jax, name, workload, policy):
    """A compiled training step, as a function of nothing, and a list with the arrays that it replaces."""
    jnp = jax.numpy
    forward, parameters = JAX_MODELS[name](jax, workload)
    x, y = jnp.asarray(workload.x), jnp.asarray(workload.y)
    is_mixed = policy == "mixed_bfloat16"

    def loss(parameters):
        inputs = x
        if is_mixed:
            parameters = jax.tree.map(lambda p: p.astype(jnp.bfloat16), parameters)
            inputs = x.astype(jnp.bfloat16)
        logits = forward(parameters, inputs).astype(jnp.float32)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)
        return -chosen.mean()

    def update(state):
        count, parameters, momenta, velocities = state
        gradients, t = jax.grad(loss)(parameters), count + 1
        momenta = jax.tree.map(lambda m, g: m + 0.1 * (g - m), momenta, gradients)
        velocities = jax.tree.map(lambda v, g: v + 0.001 * (g * g - v), velocities, gradients)
        rate = 1e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        parameters = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-7), parameters, momenta, velocities)
        return t, parameters, momenta, velocities

    zeros = [jax.tree.map(jnp.zeros_like, parameters) for _ in range(2)]
    state, compiled = [(jnp.zeros((), jnp.float32), parameters, *zeros)], jax.jit(update, donate_argnums=0)

    def step():
        state[0] = compiled(state[0])

    return step, state


def _jax_mlp(jax, workload):
    weights = [jax.numpy.asarray(array) for array in workload.model.get_weights()]

    def forward(weights, x):
        for i in range(0, len(weights) - 2, 2):
            x = jax.nn.relu(x @ weights[i] + weights[i + 1])
        return x @ weights[-2] + weights[-1]

    return forward, weights


def _jax_convnet(jax, workload):
    weights = [jax.numpy.asarray(array) for array in workload.model.get_weights()]

    def pooled(x):
        return jax.lax.reduce_window(x, -jax.numpy.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    def forward(weights, x):
        for i in range(3):
            kernel, bias = weights[2 * i : 2 * i + 2]
            layout = ("NHWC", "HWIO", "NHWC")
            x = jax.nn.relu(jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout) + bias)
            x = pooled(x) if i < 2 else x
        return x.reshape(len(x), -1) @ weights[6] + weights[7]

    return forward, weights


JAX_MODELS = {"mlp": _jax_mlp, "convnet": _jax_convnet}  # both with Adam: of the convnet's RMSprop half the slots
