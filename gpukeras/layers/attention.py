"""Attention with one head: dot-product and additive, without projections of their own."""

from gpukeras import ops, random
from gpukeras.layers.layer import Layer
from gpukeras.registry import register

__all__ = ["AdditiveAttention", "Attention"]


@register("layer")
class Attention(Layer):
    """Every query takes the mean of the values, weighted by how well their keys answer it.

        scores = scale · query · keyᵀ                              "dot", as Luong
        scores = weight · Σ tanh(scale · (query + key))            "concat"
        y      = softmax(scores) · value

    Args:
        use_scale: Whether `scale` is a learned number; else it is 1.
        score_mode: "dot" or "concat".
        dropout: Share of the weights that is dropped in training.
        seed: Of the dropout; an integer or None.

    Call arguments:
        inputs: List [query, value] or [query, value, key]; the key is the value where left out.
        mask: List [query mask, value mask] of boolean arrays or None: values that are masked out are
            not attended to, outputs of masked-out queries are 0.
        training: Whether weights are dropped.
        return_attention_scores: Whether softmax(scores) is returned as well.
        use_causal_mask: Whether query i attends only to values up to i.

    Shapes:
        query (batch, queries, dim), value (batch, keys, m), key (batch, keys, dim)
        ->  y (batch, queries, m)

    Source: https://keras.io/api/layers/attention_layers/attention/

    Example:
        >>> x = np.ones((2, 5, 4), "float32")
        >>> Attention()([x, x], use_causal_mask=True).shape
        (2, 5, 4)
    """

    def __init__(self, use_scale=False, score_mode="dot", dropout=0.0, seed=None, **kwargs):
        super().__init__(**kwargs)
        if score_mode not in ("dot", "concat"):
            raise ValueError(
                f"{type(self).__name__} {self.name!r}: score_mode must be 'dot' or 'concat', but got {score_mode!r}."
            )
        self.use_scale = use_scale
        self.score_mode = score_mode
        self.dropout = dropout
        self.seed = seed
        if self.dropout > 0:
            self.seed_generator = random.SeedGenerator(seed=seed)
        self.scale = None
        self.concat_score_weight = None

    def build(self, input_shape):
        """Make the scale and the weight of the scores, where asked for."""
        self._check(input_shape)
        if self.use_scale:
            self.scale = self.add_weight(name="scale", shape=(), initializer="ones")
        if self.score_mode == "concat":
            self.concat_score_weight = self.add_weight(name="concat_score_weight", shape=(), initializer="ones")

    def _calculate_scores(self, query, key):
        if self.score_mode == "dot":
            scores = ops.matmul(query, ops.swapaxes(key, -2, -1))
            return scores if self.scale is None else scores * self.scale
        pairs = ops.expand_dims(query, -2) + ops.expand_dims(key, -3)
        if self.scale is not None:
            pairs = pairs * self.scale
        return ops.sum(ops.tanh(pairs), axis=-1) * self.concat_score_weight

    def _calculate_score_mask(self, scores, v_mask, use_causal_mask):
        if v_mask is not None:
            v_mask = ops.expand_dims(ops.cast(v_mask, "bool"), -2)
        if not use_causal_mask:
            return v_mask
        causal_mask = _causal_mask(*scores.shape[-2:])
        return causal_mask if v_mask is None else ops.logical_and(v_mask, causal_mask)

    def _apply_scores(self, scores, value, scores_mask=None, training=False):
        if scores_mask is not None:
            lowered = scores - (65504.0 if scores.dtype == "float16" else 1e9)
            scores = ops.where(scores_mask, scores, lowered)
        weights = ops.softmax(scores, axis=-1)
        if training and self.dropout > 0:
            weights = random.dropout(weights, self.dropout, seed=self.seed_generator)
        return ops.matmul(weights, value), weights

    def call(
        self,
        inputs,
        mask=None,
        training=False,
        return_attention_scores=False,
        use_causal_mask=False,
    ):
        """The weighted values, and the weights where asked for."""
        self._check(inputs, mask)
        query, value = inputs[0], inputs[1]
        key = inputs[2] if len(inputs) > 2 else value
        q_mask, v_mask = (mask[0], mask[1]) if mask else (None, None)
        scores = self._calculate_scores(query=query, key=key)
        scores_mask = self._calculate_score_mask(scores, v_mask, use_causal_mask)
        y, weights = self._apply_scores(scores, value, scores_mask, training)
        if q_mask is not None:
            y = ops.where(ops.expand_dims(ops.cast(q_mask, "bool"), -1), y, 0.0)
        return (y, weights) if return_attention_scores else y

    def compute_mask(self, inputs, mask=None):
        """The query's."""
        self._check(inputs, mask)
        return None if mask is None else mask[0]

    def compute_output_shape(self, input_shape):
        """The query's shape with the value's last axis."""
        return (*input_shape[0][:-1], input_shape[1][-1])

    def _output_spec(self, arguments, args, kwargs):
        self._check(arguments.first, kwargs.get("mask"))
        if kwargs.get("return_attention_scores"):
            return self.call(*args, **kwargs)
        return super()._output_spec(arguments, args, kwargs)

    def _check(self, inputs, mask=None):
        for what, value in (("inputs", inputs), ("masks", mask)):
            if value is None and what == "masks":
                continue
            if not isinstance(value, (list, tuple)) or len(value) not in (2, 3):
                got = f"{len(value)} of them" if isinstance(value, (list, tuple)) else f"{value!r}"
                raise ValueError(
                    f"{type(self).__name__} {self.name!r} takes a list of {what} [query, value] or "
                    f"[query, value, key], but got {got}."
                )


@register("layer")
class AdditiveAttention(Attention):
    """Attention whose scores add query and key, as Bahdanau's.

        scores = Σ scale · tanh(query + key)
        y      = softmax(scores) · value

    Args:
        use_scale: Whether `scale` is learned; else it is 1.
        dropout: Share of the weights that is dropped in training.
        kwargs: Also `seed`, of the dropout.

    Shapes:
        query (batch, queries, dim), value (batch, keys, m), key (batch, keys, dim)
        ->  y (batch, queries, m)
        scale (dim,)

    The call's arguments are those of `Attention`.

    Source: https://keras.io/api/layers/attention_layers/additive_attention/

    Example:
        >>> x = np.ones((2, 5, 4), "float32")
        >>> AdditiveAttention()([x, x]).shape
        (2, 5, 4)
    """

    _not_in_config = ("score_mode",)

    def __init__(self, use_scale=True, dropout=0.0, **kwargs):
        super().__init__(use_scale=use_scale, dropout=dropout, **kwargs)

    def build(self, input_shape):
        """Make the scale."""
        self._check(input_shape)
        if self.use_scale:
            dim = input_shape[0][-1]
            self.scale = self.add_weight(name="scale", shape=(dim,), initializer="glorot_uniform")

    def _calculate_scores(self, query, key):
        answers = ops.tanh(ops.expand_dims(query, -2) + ops.expand_dims(key, -3))
        return ops.sum(answers if self.scale is None else answers * self.scale, axis=-1)


def _causal_mask(queries, keys):
    """(1, queries, keys): true where the key is not later than the query."""
    rows = ops.expand_dims(ops.arange(queries), -1)
    return ops.expand_dims(ops.greater_equal(rows, ops.arange(keys)), 0)
