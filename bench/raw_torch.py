"""The heavy workloads written by hand in PyTorch, the way its users write them: torch.nn and a loop.

Each class holds the model of the same name in `workloads.py`; `weights` takes that model's weights in Keras's order
and layout, so that both do the same arithmetic. Optimizers are fused where PyTorch has a fused form on a CPU (Adam),
and run over lists of tensors elsewhere. Batches are gathered from tensors that were laid out once, before any timing;
images are stored channels last, PyTorch's faster order on a CPU. The losses are summed without reading them;
other metrics are left out.
"""

import types

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bench import workloads

__all__ = ["Attention", "Trainer", "build"]


class Trainer:
    """A model and its loop, with as much of Keras's `fit` and `predict` as the measurements call."""

    def __init__(self, name, tiny=False):
        self.network = _NETWORKS[name](tiny)
        self.x, self.y, self.batch_size = workloads.data(name, tiny)
        self.loss = self.network.loss
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        if self.network.optimizer == "adam":
            self.optimizer = torch.optim.Adam(parameters, lr=1e-3, eps=1e-7, fused=True)
        else:
            # PyTorch divides by sqrt(v) + eps, Keras by sqrt(v + eps): equal work, slightly other losses.
            self.optimizer = torch.optim.RMSprop(parameters, lr=1e-3, alpha=0.9, eps=1e-7, foreach=True)
        shapes = self.network.shapes
        drawn = zip(shapes, workloads.arrays_like(shapes), strict=True)
        self.network.weights([np.zeros(shape, np.float32) if array is None else array for shape, array in drawn])
        self._first = {key: value.clone() for key, value in self.network.state_dict().items()}
        self._laid_out = {}

    def reset(self):
        """Go back to the weights of the start."""
        self.network.load_state_dict(self._first)

    def _tensor(self, array):
        known = self._laid_out.get(id(array))
        if known is None:
            tensor = torch.from_numpy(array)
            if tensor.dtype == torch.int32:
                tensor = tensor.long()
            if tensor.ndim == 4:
                tensor = tensor.permute(0, 3, 1, 2)  # NHWC in memory is what channels last means
            known = self._laid_out[id(array)] = (tensor, array)  # holds the array: its id stays its own
        return known[0]

    def fit(self, x, y, batch_size, epochs=1, shuffle=True, verbose=0, callbacks=()):
        """Train; calls no callback; returns an object whose `history["loss"]` has each epoch's mean loss."""
        x, y = self._tensor(x), self._tensor(y)
        network, loss, optimizer = self.network, self.loss, self.optimizer
        network.train()
        history = []
        for _ in range(epochs):
            order = torch.randperm(len(x)) if shuffle else None
            total = torch.zeros(())
            steps = 0
            for start in range(0, len(x), batch_size):
                batch = slice(start, start + batch_size) if order is None else order[start : start + batch_size]
                optimizer.zero_grad(set_to_none=True)
                value = loss(network(x[batch]), y[batch])
                value.backward()
                optimizer.step()
                total += value.detach()
                steps += 1
            history.append(float(total) / steps)
        return types.SimpleNamespace(history={"loss": history})

    def predict(self, x, batch_size, verbose=0):
        """The outputs as one array."""
        x = self._tensor(x)
        self.network.eval()
        with torch.inference_mode():
            return torch.cat([self.network(x[i : i + batch_size]) for i in range(0, len(x), batch_size)]).numpy()

    def __call__(self, x):
        """The outputs for one batch, as a tensor."""
        self.network.eval()
        with torch.inference_mode():
            return self.network(self._tensor(x))


def build(name, tiny=False):
    """The trainer of a workload."""
    return Trainer(name, tiny)


# --- From Keras's layout ---------------------------------------------------------------------------------------


def _set(parameter, array):
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def _set_linear(layer, kernel, bias):
    _set(layer.weight, kernel.T)
    _set(layer.bias, bias)


def _set_convolution(layer, kernel, bias=None):
    _set(layer.weight, kernel.transpose(3, 2, 0, 1))
    if bias is not None:
        _set(layer.bias, bias)


def _class_loss(y_pred, y):
    """Crossentropy of logits, of whatever leading shape."""
    return functional.cross_entropy(y_pred.reshape(-1, y_pred.shape[-1]), y.reshape(-1))


# --- Networks --------------------------------------------------------------------------------------------------


class MLP(nn.Module):
    optimizer = "adam"
    loss = staticmethod(_class_loss)

    def __init__(self, tiny):
        super().__init__()
        features, units = (12, 16) if tiny else (784, 512)
        self.shapes = [(features, units), (units,), (units, units), (units,), (units, 10), (10,)]
        self.layers = nn.Sequential(
            nn.Linear(features, units),
            nn.ReLU(),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Linear(units, 10),
        )

    def weights(self, arrays):
        for i in range(3):
            _set_linear(self.layers[2 * i], *arrays[2 * i : 2 * i + 2])

    def forward(self, x):
        return self.layers(x)


class Convnet(nn.Module):
    optimizer = "rmsprop"
    loss = staticmethod(_class_loss)

    def __init__(self, tiny):
        super().__init__()
        f = 2 if tiny else 32
        sizes = [(1, f), (f, 2 * f), (2 * f, 4 * f)]
        self.shapes = [shape for n, m in sizes for shape in ((3, 3, n, m), (m,))] + [(36 * f, 10), (10,)]
        self.convolutions = nn.ModuleList([nn.Conv2d(n, m, 3) for n, m in sizes])
        self.dense = nn.Linear(36 * f, 10)
        self.to(memory_format=torch.channels_last)

    def weights(self, arrays):
        for i, layer in enumerate(self.convolutions):
            _set_convolution(layer, *arrays[2 * i : 2 * i + 2])
        kernel = arrays[6].reshape(3, 3, -1, 10).transpose(2, 0, 1, 3).reshape(-1, 10)  # channels come first here
        _set_linear(self.dense, kernel, arrays[7])

    def forward(self, x):
        first, second, third = self.convolutions
        x = functional.max_pool2d(functional.relu(first(x)), 2)
        x = functional.max_pool2d(functional.relu(second(x)), 2)
        x = functional.relu(third(x))
        return self.dense(x.flatten(1))


class _Block(nn.Module):
    def __init__(self, n, m, strides):
        super().__init__()
        self.shortcut = None
        if strides != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(n, m, 1, strides, bias=False), _normalization(m))
        self.first = nn.Conv2d(n, m, 3, strides, padding=0 if strides == 2 else 1, bias=False)
        self.second = nn.Conv2d(m, m, 3, padding=1, bias=False)
        self.normalizations = nn.ModuleList([_normalization(m), _normalization(m)])
        self.strides = strides

    def forward(self, x):
        shortcut = x if self.shortcut is None else self.shortcut(x)
        if self.strides == 2:
            x = functional.pad(x, (0, 1, 0, 1))  # "same" with strides pads after the image only
        x = functional.relu(self.normalizations[0](self.first(x)))
        x = self.normalizations[1](self.second(x))
        return functional.relu(x + shortcut)


def _normalization(channels):
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Residual(nn.Module):
    optimizer = "adam"
    loss = staticmethod(_class_loss)

    def __init__(self, tiny):
        super().__init__()
        f = 4 if tiny else 32
        self.stem = nn.Conv2d(3, f, 3, padding=1, bias=False)
        self.normalization = _normalization(f)
        self.blocks = nn.ModuleList([_Block(f, f, 1), _Block(f, 2 * f, 2), _Block(2 * f, 4 * f, 2)])
        self.dense = nn.Linear(4 * f, 10)
        self.to(memory_format=torch.channels_last)
        self.shapes = [tuple(shape) for layer in self._in_order() for shape in _keras_shapes(layer)]

    def _in_order(self):
        """Layers as the Keras model lists them: breadth first from the outputs, then turned round."""
        layers = [self.stem, self.normalization]
        for block in self.blocks:
            if block.shortcut is None:
                layers += [block.first, block.normalizations[0], block.second, block.normalizations[1]]
            else:
                layers += [block.first, block.normalizations[0], block.second, block.shortcut[0]]
                layers += [block.normalizations[1], block.shortcut[1]]
        return [*layers, self.dense]

    def weights(self, arrays):
        arrays = iter(arrays)
        for layer in self._in_order():
            if isinstance(layer, nn.Conv2d):
                _set_convolution(layer, next(arrays))
            elif isinstance(layer, nn.Linear):
                _set_linear(layer, next(arrays), next(arrays))
            else:
                for _ in range(4):
                    next(arrays)  # scale, offset, mean and variance start as PyTorch's do

    def forward(self, x):
        x = functional.relu(self.normalization(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.dense(x.mean((2, 3)))


def _keras_shapes(layer):
    if isinstance(layer, nn.Conv2d):
        m, n, height, width = layer.weight.shape
        return [(height, width, n, m)]
    if isinstance(layer, nn.Linear):
        return [layer.weight.shape[::-1], layer.bias.shape]
    return [layer.weight.shape] * 4


class LSTM(nn.Module):
    optimizer = "adam"

    def __init__(self, tiny):
        super().__init__()
        words, units = (50, 8) if tiny else (10_000, 128)
        self.shapes = [(words, units), (units, 4 * units), (units, 4 * units), (4 * units,), (units, 1), (1,)]
        self.embedding = nn.Embedding(words, units)
        self.lstm = nn.LSTM(units, units, batch_first=True)
        self.dense = nn.Linear(units, 1)

    @staticmethod
    def loss(y_pred, y):
        return functional.binary_cross_entropy_with_logits(y_pred, y)

    def weights(self, arrays):
        embedding, kernel, recurrent_kernel, bias, *dense = arrays
        units = len(recurrent_kernel)
        bias[units : 2 * units] = 1  # Keras's forget gates start open
        _set(self.embedding.weight, embedding)
        _set(self.lstm.weight_ih_l0, kernel.T)
        _set(self.lstm.weight_hh_l0, recurrent_kernel.T)
        _set(self.lstm.bias_ih_l0, bias)
        _set(self.lstm.bias_hh_l0, np.zeros_like(bias))
        self.lstm.bias_hh_l0.requires_grad = False  # Keras has one bias
        _set_linear(self.dense, *dense)

    def forward(self, x):
        _, (h, _) = self.lstm(self.embedding(x))
        return self.dense(h[0])


class GRU(nn.Module):
    optimizer = "rmsprop"

    def __init__(self, tiny):
        super().__init__()
        features, units = (3, 4) if tiny else (14, 32)
        one = [(features, 3 * units), (units, 3 * units), (2, 3 * units)]
        self.shapes = [*one, *one, (2 * units, 1), (1,)]
        self.gru = nn.GRU(features, units, batch_first=True, bidirectional=True)
        self.dense = nn.Linear(2 * units, 1)

    @staticmethod
    def loss(y_pred, y):
        return functional.mse_loss(y_pred, y)

    def weights(self, arrays):
        for direction, one in (("", arrays[:3]), ("_reverse", arrays[3:6])):
            kernel, recurrent_kernel, bias = one
            units = len(recurrent_kernel)
            gates = np.r_[units : 2 * units, :units, 2 * units : 3 * units]  # update, reset -> reset, update
            _set(getattr(self.gru, f"weight_ih_l0{direction}"), kernel[:, gates].T)
            _set(getattr(self.gru, f"weight_hh_l0{direction}"), recurrent_kernel[:, gates].T)
            _set(getattr(self.gru, f"bias_ih_l0{direction}"), bias[0, gates])
            _set(getattr(self.gru, f"bias_hh_l0{direction}"), bias[1, gates])
        _set_linear(self.dense, *arrays[6:])

    def forward(self, x):
        _, h = self.gru(x)
        return self.dense(torch.cat((h[0], h[1]), 1))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.inward = nn.Linear(width, 3 * width)  # query, key and value in one product
        self.outward = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x):
        batch, tokens, width = x.shape
        q, k, v = self.inward(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.outward(x.transpose(1, 2).reshape(batch, tokens, width))


class Transformer(nn.Module):
    optimizer = "adam"
    loss = staticmethod(_class_loss)

    def __init__(self, tiny):
        super().__init__()
        width, heads, words = (8, 2, 20) if tiny else (128, 4, 256)
        self.embedding = nn.Embedding(words, width)
        self.blocks = nn.ModuleList()
        size = width // heads
        self.shapes = [(words, width)]
        for _ in range(2):
            self.blocks.append(
                nn.ModuleDict(
                    {
                        "norm1": nn.LayerNorm(width, eps=1e-3),
                        "attention": Attention(width, heads),
                        "norm2": nn.LayerNorm(width, eps=1e-3),
                        "up": nn.Linear(width, 4 * width),
                        "down": nn.Linear(4 * width, width),
                    }
                )
            )
            self.shapes += [(width,)] * 2 + [(width, heads, size), (heads, size)] * 3 + [(heads, size, width), (width,)]
            self.shapes += [(width,)] * 2 + [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
        self.dense = nn.Linear(width, words)
        self.shapes += [(width, words), (words,)]

    def weights(self, arrays):
        _set(self.embedding.weight, arrays[0])
        for block, start in zip(self.blocks, (1, 17), strict=True):
            part = arrays[start + 2 : start + 10]  # the first two are a normalization's
            width = part[0].shape[0]
            kernels = [array.reshape(width, width) for array in part[0:6:2]]
            biases = [array.reshape(width) for array in part[1:6:2]]
            _set_linear(block["attention"].inward, np.concatenate(kernels, 1), np.concatenate(biases))
            _set_linear(block["attention"].outward, part[6].reshape(width, width), part[7])
            up, up_bias, down, down_bias = arrays[start + 12 : start + 16]
            _set_linear(block["up"], up, up_bias)
            _set_linear(block["down"], down, down_bias)
        _set_linear(self.dense, *arrays[33:])

    def forward(self, x):
        x = self.embedding(x)
        for block in self.blocks:
            x = x + block["attention"](block["norm1"](x))
            x = x + block["down"](functional.gelu(block["up"](block["norm2"](x))))
        return self.dense(x)


_NETWORKS = {
    "mlp": MLP,
    "convnet": Convnet,
    "residual": Residual,
    "lstm": LSTM,
    "gru": GRU,
    "transformer": Transformer,
}
