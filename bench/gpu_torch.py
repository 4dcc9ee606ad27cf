"""The steps of `bench.gpu_models` in PyTorch, the way its users write them; networks take the Keras model's weights.

The MLP, the convnet and the LSTM are `bench.raw_torch`'s.
"""

import contextlib
import itertools

import numpy as np

from bench.gpu_models import GPT_SIZES, RESNET_SIZES, weights_of

__all__ = ["import_torch", "torch_step"]

COMPILED = "max-autotune"  # the mode: Triton's kernels where they are faster, in CUDA graphs


def import_torch():
    """PyTorch where it is installed and sees a GPU, else None."""
    with contextlib.suppress(Exception):  # a broken installation is none
        import torch

        if torch.cuda.is_available():
            return torch
    return None


def torch_step(torch, name, size, workload, policy, is_compiled=False, is_exact=False, device="cuda"):
    """A training step on a batch that lies on the GPU, as a function of nothing that returns the loss.

    Args:
        torch: The module.
        name, size, workload: The model's name and size, and the model with its data; it starts from these weights.
        policy: "float32", or "mixed_bfloat16" for autocast.
        is_compiled: Whether network and loss, forwards and backwards, and the optimizer are compiled.
        is_exact: Whether float32 products are made without TF32.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not is_exact
    torch.backends.cudnn.benchmark = True
    network, loss = _network(torch, name, size, workload.model)
    network = network.to(device)
    x, y = _on_device(torch, workload.x, device), _on_device(torch, workload.y, device)
    parameters = [p for p in network.parameters() if p.requires_grad]
    # Compiled, an optimizer is one CUDA graph if it keeps its step count on the GPU; else Adam is one kernel by itself.
    settings = {"capturable": device != "cpu", "foreach": True} if is_compiled else {}
    if workload.optimizer == "rmsprop":
        # PyTorch divides by sqrt(v) + eps, Keras by sqrt(v + eps), where eps is 1e-7.
        settings = {"foreach": True} | settings
        optimizer = torch.optim.RMSprop(parameters, lr=1e-3, alpha=0.9, eps=1e-7**0.5, **settings)
    else:
        settings = settings or {"fused": True}
        optimizer = torch.optim.Adam(parameters, lr=1e-3, eps=1e-7, **settings)
    is_mixed = policy == "mixed_bfloat16"

    def loss_of_batch(x, y):
        with torch.autocast(device, torch.bfloat16, enabled=is_mixed):
            return loss(network(x), y)

    forward, update = loss_of_batch, optimizer.step
    if is_compiled:
        forward, update = (torch.compile(function, mode=COMPILED) for function in (forward, update))

    def step():
        optimizer.zero_grad(set_to_none=True)
        value = forward(x, y)
        value.backward()
        update()
        return value.detach().clone()  # what CUDA graphs return is overwritten by the next one

    return step


def _on_device(torch, array, device):
    array = array[0] if isinstance(array, list) else array  # PyTorch's GPT makes its positions itself
    tensor = torch.from_numpy(array).to(device)
    if tensor.dtype == torch.int32:
        return tensor.long()
    # NHWC in memory is what channels last means.
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def _network(torch, name, size, model):
    """The module with the model's weights, and its loss."""
    if name in ("resnet18", "gpt2"):
        network = _modules(torch)[name](size)
        _load(torch, network.in_order(), weights_of(model))
        return (network.to(memory_format=torch.channels_last) if name == "resnet18" else network), _class_loss(torch)
    from bench import raw_torch

    network = {"mlp": raw_torch.MLP, "convnet": raw_torch.Convnet, "lstm": raw_torch.LSTM}[name](size == "tiny")
    network.weights([np.array(array) for array in model.get_weights()])
    return network, network.loss


def _class_loss(torch):
    def loss(y_pred, y):
        return torch.nn.functional.cross_entropy(y_pred.reshape(-1, y_pred.shape[-1]), y.reshape(-1))

    return loss


def _load(torch, modules, weights):
    """Give modules, by the class of the Keras layer that each stands for, its weights."""
    kinds = {"Conv2d": "Conv2D", "BatchNorm2d": "BatchNormalization", "Linear": "Dense", "Embedding": "Embedding"}
    kinds |= {"LayerNorm": "LayerNormalization", "Attention": "MultiHeadAttention"}
    waiting = {kind: iter(layers) for kind, layers in weights.items()}

    def put(parameter, array):
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))

    with torch.no_grad():
        for module in modules:
            kernel, *others = next(waiting[kinds[type(module).__name__]])
            if type(module).__name__ == "Attention":
                width = len(kernel)
                arrays = [kernel, *others]
                put(module.inward.weight, np.concatenate([a.reshape(width, width).T for a in arrays[0:6:2]]))
                put(module.inward.bias, np.concatenate([a.reshape(width) for a in arrays[1:6:2]]))
                put(module.outward.weight, arrays[6].reshape(width, width).T)
                put(module.outward.bias, arrays[7])
                continue
            if type(module).__name__ in ("Conv2d", "Linear"):
                kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
            put(module.weight, kernel)
            if others:
                put(module.bias, others[0])
    if any(next(layers, None) is not None for layers in waiting.values()):
        raise ValueError("The Keras model has more layers than the PyTorch module.")


def _modules(torch):
    """ResNet-18 and GPT-2 as modules, made where PyTorch is there; ``in_order()`` are theirs as Keras's are made."""
    from bench.raw_torch import Attention

    nn, functional = torch.nn, torch.nn.functional

    def convolution(n, m, size, strides=1):
        return nn.Conv2d(n, m, size, strides, padding=size // 2 if strides == 1 else 0, bias=False)

    class Block(nn.Module):
        def __init__(self, n, m, strides):
            super().__init__()
            self.strides = strides
            self.shortcut = None
            if strides != 1:
                self.shortcut = nn.Sequential(convolution(n, m, 1, strides), nn.BatchNorm2d(m, eps=1e-3))
            self.first, self.norm1 = convolution(n, m, 3, strides), nn.BatchNorm2d(m, eps=1e-3)
            self.second, self.norm2 = convolution(m, m, 3), nn.BatchNorm2d(m, eps=1e-3)

        def forward(self, x):
            shortcut = x if self.shortcut is None else self.shortcut(x)
            if self.strides != 1:
                x = functional.pad(x, (0, 1, 0, 1))  # "same" with strides pads after the image only
            y = functional.relu(self.norm1(self.first(x)))
            return functional.relu(self.norm2(self.second(y)) + shortcut)

        def in_order(self):
            yield from () if self.shortcut is None else self.shortcut
            yield from (self.first, self.norm1, self.second, self.norm2)

    class ResNet18(nn.Module):
        def __init__(self, size):
            super().__init__()
            f = RESNET_SIZES[size].filters
            self.stem, self.norm = convolution(3, f, 3), nn.BatchNorm2d(f, eps=1e-3)
            widths = [f, f, f, 2 * f, 2 * f, 4 * f, 4 * f, 8 * f, 8 * f]
            pairs = itertools.pairwise(widths)
            self.blocks = nn.ModuleList([Block(n, m, 1 if n == m else 2) for n, m in pairs])
            self.dense = nn.Linear(8 * f, 10)

        def forward(self, x):
            x = functional.relu(self.norm(self.stem(x)))
            for block in self.blocks:
                x = block(x)
            return self.dense(x.mean((2, 3)))

        def in_order(self):
            yield from (self.stem, self.norm)
            for block in self.blocks:
                yield from block.in_order()
            yield self.dense

    class GPT2(nn.Module):
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

        def in_order(self):
            yield from (self.words, self.places, *self.norms, *self.attentions)
            for up, down in zip(self.ups, self.downs, strict=True):
                yield from (down, up)  # in the order in which they are made
            yield self.dense

    return {"resnet18": ResNet18, "gpt2": GPT2}
