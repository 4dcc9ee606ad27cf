"""Attention with many heads and projections of its own: MultiHeadAttention, GroupedQueryAttention."""

import string
from typing import Any

from gpukeras import constraints, initializers, ops, regularizers
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.layers.activation import Softmax
from gpukeras.layers.core import positive_integer
from gpukeras.layers.einsum_dense import EinsumDense
from gpukeras.layers.layer import Layer
from gpukeras.layers.regularization import Dropout
from gpukeras.ops.attention import dot_product_attention
from gpukeras.registry import register

__all__ = ["GroupQueryAttention", "GroupedQueryAttention", "MultiHeadAttention"]


class _ProjectedAttention(Layer):
    """What both layers share: projections, masks, and the choice between one op and several."""

    _not_in_config = ("flash_attention",)

    _query_dense: EinsumDense
    _key_dense: EinsumDense
    _value_dense: EinsumDense
    _gate_dense: EinsumDense
    _output_dense: EinsumDense
    _softmax: Softmax
    _dropout_layer: Dropout
    attention_axes: Any

    def _store(
        self,
        dropout,
        use_bias,
        sliding_window,
        flash_attention,
        kernel_initializer,
        bias_initializer,
        kernel_regularizer,
        bias_regularizer,
        activity_regularizer,
        kernel_constraint,
        bias_constraint,
        use_gate,
        seed,
    ):
        if sliding_window is not None:
            positive_integer(self, "sliding_window", sliding_window)
        if flash_attention:
            raise NotImplementedError(
                f"{type(self).__name__} {self.name!r}: flash_attention=True is not supported. Leave it at "
                f"None, which computes the same values."
            )
        self.dropout = dropout
        self.use_bias = use_bias
        self.sliding_window = sliding_window
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        # The projections' outputs are what is penalized, not this layer's.
        self._activity_regularizer = regularizers.get(activity_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.use_gate = use_gate
        self.seed = seed
        self.supports_masking = True

    def get_config(self):
        """The constructor's arguments."""
        config = super().get_config()
        config["activity_regularizer"] = regularizers.serialize(self._activity_regularizer)
        return config

    def _projection(self, name, equation, output_shape, bias_axes, input_shape, activation=None):
        layer = EinsumDense(
            equation,
            output_shape=output_shape,
            bias_axes=bias_axes if self.use_bias else None,
            activation=activation,
            kernel_initializer=_copy(self.kernel_initializer),
            bias_initializer=_copy(self.bias_initializer),
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            activity_regularizer=self._activity_regularizer,
            kernel_constraint=self.kernel_constraint,
            bias_constraint=self.bias_constraint,
            dtype=self.dtype_policy,
            name=name,
        )
        layer.supports_masking = True  # masks are used here, and not lost to a warning
        layer.build(input_shape)
        return layer

    def call(
        self,
        query,
        value,
        key=None,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
    ):
        """The weighted values of all heads, projected; and the weights where asked for."""
        key = value if key is None else key
        masks = query_mask, value_mask, key_mask, attention_mask, self.sliding_window
        # The one op knows causal masks by itself; everything else needs the mask as an array.
        is_only_causal = use_causal_mask and all(mask is None for mask in masks)
        if not is_only_causal:
            attention_mask = self._compute_attention_mask(
                query, value, query_mask, value_mask, key_mask, attention_mask, use_causal_mask
            )
        gate = self._gate_dense(query) if self.use_gate else None
        y, weights = self._compute_attention(
            self._query_dense(query),
            self._key_dense(key),
            self._value_dense(value),
            attention_mask=attention_mask,
            training=training,
            return_attention_scores=return_attention_scores,
            use_causal_mask=is_only_causal,
        )
        y = self._output_dense(y if gate is None else y * gate)
        return (y, weights) if return_attention_scores else y

    def _compute_attention_mask(
        self,
        query,
        value,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        use_causal_mask=False,
    ):
        """All masks in one (batch or 1, queries, keys) or what attention_mask has; None without any."""
        masks = []
        if attention_mask is not None:
            masks.append(ops.cast(attention_mask, "bool"))
        if query_mask is not None:
            masks.append(ops.expand_dims(ops.cast(query_mask, "bool"), -1))
        for mask in (value_mask, key_mask):
            if mask is not None:
                masks.append(ops.expand_dims(ops.cast(mask, "bool"), -2))
        if use_causal_mask:
            masks.append(self._compute_causal_mask(query, value))
        if self.sliding_window is not None:
            masks.append(self._compute_sliding_window_mask(query, value))
        joined = None
        for mask in masks:
            joined = mask if joined is None else ops.logical_and(joined, mask)
        return joined

    def _distances(self, query, value):
        """How many steps every query (first axis of two) is later than every key."""
        queries = query.shape[1]
        keys = queries if value is None else value.shape[1]
        return ops.expand_dims(ops.arange(queries), -1) - ops.arange(keys)

    def _compute_causal_mask(self, query, value=None):
        return ops.expand_dims(ops.greater_equal(self._distances(query, value), 0), 0)

    def _compute_sliding_window_mask(self, query, value=None):
        is_near = ops.less(ops.abs(self._distances(query, value)), self.sliding_window)
        return ops.expand_dims(is_near, 0)

    def _masked_softmax(self, scores, attention_mask, axes):
        if attention_mask is not None:
            attention_mask = _with_axes(attention_mask, len(scores.shape), axes)
        return self._softmax(scores, mask=attention_mask)

    def _compute_attention(self, query, key, value, **settings):
        raise NotImplementedError

    def _scores_shape(self, query_shape, value_shape):
        raise NotImplementedError

    def _output_spec(self, arguments, args, kwargs):
        output = super()._output_spec(arguments, args, kwargs)
        if not arguments.values.get("return_attention_scores"):
            return output
        shape = self._scores_shape(arguments.values["query"].shape, arguments.values["value"].shape)
        return output, KerasTensor(shape, self.compute_dtype)

    def _check_key_shape(self, value_shape, key_shape):
        if tuple(value_shape[1:-1]) != tuple(key_shape[1:-1]):
            raise ValueError(
                f"{type(self).__name__} {self.name!r} needs a key of the value's shape but for the last "
                f"axis, but got {tuple(key_shape)} and {tuple(value_shape)}."
            )


@register("layer")
class MultiHeadAttention(_ProjectedAttention):
    """Attention by several heads, each with projections of its own.

        q, k, v = query · W_q, value-like key · W_k, value · W_v          for each head
        y       = softmax(q · kᵀ / sqrt(key_dim)) · v
        output  = all heads' y · W_o

    Args:
        num_heads: Number of heads.
        key_dim: Size of a head's queries and keys.
        value_dim: Size of a head's values; None for `key_dim`.
        dropout: Share of the weights that is dropped in training.
        use_bias: Whether the projections have a bias.
        output_shape: Sizes of the output's last axes; None for the query's last axis.
        attention_axes: Axes over which attention runs; None for all but batch and features.
        sliding_window: Queries attend only to keys nearer than this; None for all.
        flash_attention: None or False.
        kernel_initializer, bias_initializer: Where the weights start.
        kernel_regularizer, bias_regularizer, activity_regularizer: Penalties of the projections.
        kernel_constraint, bias_constraint: Projections applied after each update.
        use_gate: Whether a gate, the sigmoid of a projection of the query, is multiplied with y.
        seed: Of the dropout; an integer or None.

    Call arguments:
        query, value: Arrays (batch, ..., features).
        key: Array of the value's shape but for the features; None for the value.
        query_mask, value_mask, key_mask: Boolean arrays (batch, ...), false for padding; taken from
            the inputs (say, of an Embedding with mask_zero) where not given.
        attention_mask: Boolean array (batch, queries, keys), false where a query must not look.
        return_attention_scores: Whether the weights (batch, heads, queries, keys) are returned too.
        training: Whether weights are dropped.
        use_causal_mask: Whether query i attends only to keys up to i.

    Shapes:
        query (batch, queries, n), value (batch, keys, m)  ->  output (batch, queries, n)

    Reference: Vaswani et al., "Attention Is All You Need" (2017).

    Source: https://keras.io/api/layers/attention_layers/multi_head_attention/

    Example:
        >>> x = np.ones((2, 5, 8), "float32")
        >>> MultiHeadAttention(num_heads=2, key_dim=4)(x, x, use_causal_mask=True).shape
        (2, 5, 8)
    """

    def __init__(
        self,
        num_heads,
        key_dim,
        value_dim=None,
        dropout=0.0,
        use_bias=True,
        output_shape=None,
        attention_axes=None,
        sliding_window=None,
        flash_attention=None,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        use_gate=False,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = positive_integer(self, "num_heads", num_heads)
        self.key_dim = positive_integer(self, "key_dim", key_dim)
        self.value_dim = key_dim if value_dim is None else positive_integer(self, "value_dim", value_dim)
        output_shape = _sizes(self, "output_shape", output_shape)
        self._output_sizes = tuple(output_shape) if output_shape else None
        self.attention_axes = _sizes(self, "attention_axes", attention_axes)
        self._store(
            *(
                dropout,
                use_bias,
                sliding_window,
                flash_attention,
                kernel_initializer,
                bias_initializer,
            ),
            *(kernel_regularizer, bias_regularizer, activity_regularizer, kernel_constraint),
            *(bias_constraint, use_gate, seed),
        )

    def _constructor_argument(self, name, default):
        if name == "output_shape":
            return self._output_sizes
        return super()._constructor_argument(name, default)

    # Public here and not in GroupedQueryAttention, as in Keras: files name sublayers by their first public attribute.
    @property
    def query_dense(self):
        """The projection of the queries."""
        return self._query_dense

    @property
    def key_dense(self):
        """The projection of the keys."""
        return self._key_dense

    @property
    def value_dense(self):
        """The projection of the values."""
        return self._value_dense

    @property
    def output_dense(self):
        """The projection of all heads' outputs."""
        return self._output_dense

    def build(self, query_shape, value_shape, key_shape=None):
        """Make the projections."""
        key_shape = value_shape if key_shape is None else key_shape
        self._check_key_shape(value_shape, key_shape)
        self._query_dense = self._heads("query", query_shape, self.key_dim)
        self._key_dense = self._heads("key", key_shape, self.key_dim)
        if self.use_gate:
            self._gate_dense = self._heads("gate", query_shape, self.value_dim, "sigmoid")
        self._value_dense = self._heads("value", value_shape, self.value_dim)

        rank = len(query_shape) + 1  # with an axis for the heads
        if self.attention_axes is None:
            self.attention_axes = tuple(range(1, rank - 2))
        else:
            self.attention_axes = tuple(a if a >= 0 else rank - 1 + a for a in self.attention_axes)
        self._dot_product_equation, self._combine_equation, scores_rank = _attention_equations(
            rank, self.attention_axes
        )
        axes = tuple(range(scores_rank - len(self.attention_axes), scores_rank))
        self._softmax = Softmax(axis=axes, dtype=self.dtype_policy)
        self._dropout_layer = Dropout(rate=self.dropout, dtype=self.dtype_policy, seed=self.seed)

        sizes = self._output_sizes or (query_shape[-1],)
        free = string.ascii_lowercase[: len(query_shape) - 1]
        bound = string.ascii_lowercase[len(free) : len(free) + 2]
        out = string.ascii_lowercase[len(free) + 2 : len(free) + 2 + len(sizes)]
        self._output_dense = self._projection(
            "attention_output",
            f"{free}{bound},{bound}{out}->{free}{out}",
            (*[None] * (len(free) - 1), *sizes),
            out,
            (*query_shape[:-1], self.num_heads, self.value_dim),
        )

    def _heads(self, name, input_shape, dim, activation=None):
        """The projection of an input (batch, ..., features) to (batch, ..., heads, dim)."""
        letters = string.ascii_lowercase
        count = len(input_shape) - 1
        free, features, heads = letters[:count], letters[count], letters[count + 1 : count + 3]
        equation = f"{free}{features},{features}{heads}->{free}{heads}"
        sizes = (*[None] * (count - 1), self.num_heads, dim)
        return self._projection(name, equation, sizes, heads, input_shape, activation)

    def _compute_attention(
        self,
        query,
        key,
        value,
        attention_mask=None,
        training=None,
        return_attention_scores=False,
        use_causal_mask=False,
    ):
        scale = self.key_dim**-0.5
        if not (self.dropout > 0 or return_attention_scores or len(query.shape) != 4):
            if attention_mask is not None:
                attention_mask = _with_axes(attention_mask, 4, 1)
            y = dot_product_attention(query, key, value, mask=attention_mask, scale=scale, is_causal=use_causal_mask)
            return y, None
        if use_causal_mask:
            attention_mask = self._compute_causal_mask(query, value)
        scores = ops.einsum(self._dot_product_equation, key, query * scale)
        weights = self._masked_softmax(scores, attention_mask, len(self.attention_axes))
        dropped = self._dropout_layer(weights, training=training) if self.dropout > 0 else weights
        return ops.einsum(self._combine_equation, dropped, value), weights

    def compute_output_shape(self, query_shape, value_shape, key_shape=None):
        """The query's shape, with `output_shape` for its last axis."""
        self._check_key_shape(value_shape, value_shape if key_shape is None else key_shape)
        return (*query_shape[:-1], *(self._output_sizes or query_shape[-1:]))

    def _scores_shape(self, query_shape, value_shape):
        axes = self.attention_axes
        others = (query_shape[i] for i in range(len(query_shape) - 1) if i not in axes)
        queries, keys = (query_shape[i] for i in axes), (value_shape[i] for i in axes)
        return *others, self.num_heads, *queries, *keys


@register("layer", "GroupQueryAttention")
class GroupedQueryAttention(_ProjectedAttention):
    """Attention by several query heads, groups of which share a head of keys and values.

        q, k, v = query · W_q, key · W_k, value · W_v     num_query_heads of q, fewer of k and v
        y       = softmax(q · kᵀ / sqrt(head_dim)) · v
        output  = all heads' y · W_o

    Args:
        head_dim: Size of a head's queries, keys and values.
        num_query_heads: Number of heads of queries.
        num_key_value_heads: Number of heads of keys and values, which divides `num_query_heads`.
        dropout: Share of the weights that is dropped in training.
        use_bias: Whether the projections have a bias.
        sliding_window: Queries attend only to keys nearer than this; None for all.
        flash_attention: None or False.
        kernel_initializer, bias_initializer: Where the weights start.
        kernel_regularizer, bias_regularizer, activity_regularizer: Penalties of the projections.
        kernel_constraint, bias_constraint: Projections applied after each update.
        use_gate: Whether a gate, the sigmoid of a projection of the query, is multiplied with y.
        seed: Of the dropout; an integer or None.

    Shapes:
        query (batch, queries, n), value (batch, keys, n)  ->  output (batch, queries, n)

    The call's arguments are those of `MultiHeadAttention`.

    Reference: Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models" (2023).

    Source: https://keras.io/api/layers/attention_layers/group_query_attention/

    Example:
        >>> x = np.ones((2, 5, 8), "float32")
        >>> layer = GroupedQueryAttention(head_dim=4, num_query_heads=4, num_key_value_heads=2)
        >>> layer(x, x).shape
        (2, 5, 8)
    """

    _keras_name = "GroupQueryAttention"

    def __init__(
        self,
        head_dim,
        num_query_heads,
        num_key_value_heads,
        dropout=0.0,
        use_bias=True,
        sliding_window=None,
        flash_attention=None,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        use_gate=False,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.head_dim = positive_integer(self, "head_dim", head_dim)
        self.num_query_heads = positive_integer(self, "num_query_heads", num_query_heads)
        self.num_key_value_heads = positive_integer(self, "num_key_value_heads", num_key_value_heads)
        if num_query_heads % num_key_value_heads:
            raise ValueError(
                f"GroupedQueryAttention {self.name!r}: num_key_value_heads must divide num_query_heads, but "
                f"got {num_key_value_heads} and {num_query_heads}."
            )
        self._store(
            *(
                dropout,
                use_bias,
                sliding_window,
                flash_attention,
                kernel_initializer,
                bias_initializer,
            ),
            *(kernel_regularizer, bias_regularizer, activity_regularizer, kernel_constraint),
            *(bias_constraint, use_gate, seed),
        )

    def build(self, query_shape, value_shape, key_shape=None):
        """Make the projections."""
        key_shape = value_shape if key_shape is None else key_shape
        of_query = None, self.num_query_heads, self.head_dim
        of_value = None, self.num_key_value_heads, self.head_dim
        to_query, to_value = "bqm,muh->bquh", "bkm,mvh->bkvh"
        self._query_dense = self._projection("query", to_query, of_query, "uh", query_shape)
        self._key_dense = self._projection("key", to_value, of_value, "vh", key_shape)
        if self.use_gate:
            self._gate_dense = self._projection("gate", to_query, of_query, "uh", query_shape, "sigmoid")
        self._value_dense = self._projection("value", to_value, of_value, "vh", value_shape)
        self._softmax = Softmax(axis=-1, dtype=self.dtype_policy)
        self._dropout_layer = Dropout(rate=self.dropout, dtype=self.dtype_policy, seed=self.seed)
        self._output_dense = self._projection(
            "attention_output",
            "bquh,uhm->bqm",
            (None, query_shape[-1]),
            "m",
            (*query_shape[:-1], self.num_query_heads, self.head_dim),
        )

    def _compute_attention(
        self,
        query,
        key,
        value,
        attention_mask=None,
        training=None,
        return_attention_scores=False,
        use_causal_mask=False,
    ):
        scale = self.head_dim**-0.5
        if not (self.dropout > 0 or return_attention_scores):
            if attention_mask is not None:
                attention_mask = _with_axes(attention_mask, 4, 1)
            y = dot_product_attention(query, key, value, mask=attention_mask, scale=scale, is_causal=use_causal_mask)
            return y, None
        if use_causal_mask:
            attention_mask = self._compute_causal_mask(query, value)
        share = self.num_query_heads // self.num_key_value_heads
        key, value = ops.repeat(key, share, axis=2), ops.repeat(value, share, axis=2)
        scores = ops.einsum("bquh,bkuh->buqk", query * scale, key)
        weights = self._masked_softmax(scores, attention_mask, 1)
        dropped = self._dropout_layer(weights, training=training) if self.dropout > 0 else weights
        return ops.einsum("buqk,bkuh->bquh", dropped, value), weights

    def compute_output_shape(self, query_shape, value_shape, key_shape=None):
        """The query's shape."""
        self._check_key_shape(value_shape, value_shape if key_shape is None else key_shape)
        if query_shape[-1] != value_shape[-1]:
            raise ValueError(
                f"GroupedQueryAttention {self.name!r} needs query and value with the same last axis, but "
                f"got {tuple(query_shape)} and {tuple(value_shape)}."
            )
        return query_shape

    def _scores_shape(self, query_shape, value_shape):
        return query_shape[0], self.num_query_heads, query_shape[1], value_shape[1]


GroupQueryAttention = GroupedQueryAttention


def _copy(initializer) -> Any:
    """An initializer of the same settings, with a seed of its own where none was given."""
    if hasattr(initializer, "get_config"):
        return type(initializer).from_config(initializer.get_config())
    return initializer


def _sizes(layer, name, value):
    """A whole number as a tuple of one; a list or None as it is."""
    if value is None or isinstance(value, (list, tuple)):
        return value
    if isinstance(value, int):
        return (value,)
    raise ValueError(
        f"{type(layer).__name__} {layer.name!r}: {name} must be a whole number or a list of them, but got {value!r}."
    )


def _with_axes(mask, ndim, attention_axes):
    """The mask with axes of size 1 for the heads (and what is left out before the attention axes)."""
    for _ in range(ndim - len(mask.shape)):
        mask = ops.expand_dims(mask, -2 * attention_axes - 1)
    return mask


def _attention_equations(rank, axes):
    """Einstein sums of scores and outputs for queries, keys and values (batch..., heads, dim).

    For rank 4 and axes (1,) these are ``"aecd,abcd->acbe"`` and ``"acbe,aecd->abcd"``.
    """
    target = string.ascii_lowercase[:rank]
    batch = [i for i in range(rank - 1) if i not in axes]
    spare = iter(string.ascii_lowercase[rank:])
    source = "".join(c if i in batch or i == rank - 1 else next(spare) for i, c in enumerate(target))
    product = "".join([target[i] for i in batch] + [target[i] for i in axes] + [source[i] for i in axes])
    return f"{source},{target}->{product}", f"{product},{source}->{target}", len(product)
