"""`GradientTape`: derivatives in a training loop of one's own."""

from gpukeras.autograd.scope import current
from gpukeras.autograd.symbolic import flatten, map_structure
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor, Variable, convert_to_array
from gpukeras.backend import devices, dtypes

__all__ = ["GradientTape"]


class GradientTape:
    """Records what is computed within its `with` block, and gives first derivatives of it.

    Trainable variables are followed by themselves, other Tensors after `watch`.

    Args:
        persistent: Whether `gradient` may be called more than once.
        watch_accessed_variables: Whether trainable variables are followed by themselves.

    Example:
        >>> x = keras.Variable(3.0)
        >>> with GradientTape() as tape:
        ...     y = x * x
        >>> float(tape.gradient(y, x))
        6.0
    """

    def __init__(self, persistent=False, watch_accessed_variables=True):
        self.persistent = persistent
        self._tape = Tape(watch_accessed_variables)
        self._is_used = False

    def __enter__(self):
        if self._tape in current.tapes:
            raise ValueError("This GradientTape is recording already.")
        self._tape.__enter__()
        return self

    def __exit__(self, *error):
        self._tape.pause()

    def watch(self, tensor):
        """Follow a Tensor, or every Tensor of a nested structure, from here on."""
        for leaf in flatten(tensor):
            if not isinstance(leaf, Tensor):
                raise TypeError(
                    f"GradientTape.watch takes Tensors, but got {type(leaf).__name__}. Make one first with "
                    f"keras.ops.convert_to_tensor(x), and compute with that."
                )
            if not dtypes.is_float(leaf.array.dtype):
                raise ValueError(f"GradientTape.watch needs a float dtype, but got {leaf.array.dtype}.")
            self._tape.watch(leaf)

    def watched_variables(self):
        """The variables that were read while the tape recorded."""
        seen = {}
        for inputs, _, _, needs in self._tape.entries:
            for value, needed in zip(inputs, needs, strict=True):
                if needed and isinstance(value, Variable):
                    seen.setdefault(id(value), value)
        return tuple(seen.values())

    def stop_recording(self):
        """A `with` block within which nothing is recorded."""
        return _Paused(self._tape)

    def reset(self):
        """Forget everything recorded so far."""
        self._tape.entries.clear()
        self._tape.tracked.clear()
        self._tape.kept.clear()
        self._is_used = False

    def gradient(self, target, sources, output_gradients=None, unconnected_gradients="none"):
        """The derivative of the sum of `target` with respect to each of `sources`.

        Args:
            target: Tensor, or a nested structure of them.
            sources: Variables or watched Tensors, one or a nested structure.
            output_gradients: What each target's gradient starts from; ones if None.
            unconnected_gradients: "none" or "zero": what a source gets that the target does not depend on.

        Returns:
            Tensors in the structure of `sources`.

        Raises:
            RuntimeError: for the second call on a tape that is not persistent.
            NotImplementedError: later, where a second derivative is asked for.
        """
        if self._is_used and not self.persistent:
            raise RuntimeError(
                "gradient() was called already and the tape has been freed. Use GradientTape(persistent=True) to "
                "call it several times."
            )
        if unconnected_gradients not in ("none", "zero"):
            raise ValueError(f'unconnected_gradients must be "none" or "zero", but got {unconnected_gradients!r}.')
        is_recording = self._tape in current.tapes
        targets = flatten(target)
        if output_gradients is None:
            seeds = [None] * len(targets)
        else:
            seeds = [output_gradients] if isinstance(target, Tensor) else list(output_gradients)
        flat_sources = flatten(sources)
        for what, values in (("target", targets), ("sources", flat_sources)):
            for value in values:
                if not isinstance(value, Tensor):
                    raise TypeError(f"GradientTape.gradient: {what} must be Tensors, but got {type(value).__name__}.")
        if is_recording and not self.persistent:
            self._tape.pause()
        pairs = []
        for y, seed in zip(targets, seeds, strict=True):
            if seed is None:
                seed = devices.array_module(y.array).ones_like(y.array)
            else:
                seed = convert_to_array(seed, y.array.dtype)
                if seed.shape != y.shape:
                    raise ValueError(f"output_gradients has shape {seed.shape} for a target of shape {y.shape}.")
            pairs.append((y, seed))
        arrays = self._tape.gradients(pairs, flat_sources)
        if not self.persistent:
            self._is_used = True
            self._tape.entries.clear()
        results = {}
        for source, array in zip(flat_sources, arrays, strict=True):
            if array is None and unconnected_gradients == "zero":
                array = devices.array_module(source.array).zeros_like(source.array)
            results[id(source)] = None if array is None else Tensor(array)
        self._refuse_second_order(targets + flat_sources, [g for g in results.values() if g is not None])
        return map_structure(lambda source: results[id(source)], sources)

    @staticmethod
    def _refuse_second_order(inputs, gradients):
        """Let a tape that is still recording fail, rather than give None, when it reaches these gradients."""
        if not gradients:
            return

        def backward(dy, needs):
            raise NotImplementedError(
                "This asks for a derivative of a derivative, but gpukeras has first derivatives only. Write the "
                "first derivative as an expression of keras.ops and differentiate that."
            )

        for tape in current.tapes:
            needs = [id(x) in tape.tracked or (isinstance(x, Variable) and x.trainable) for x in inputs]
            if any(needs):
                tape.record(tuple(inputs), tuple(gradients), backward, tuple(needs))


class _Paused:
    def __init__(self, tape):
        self.tape = tape

    def __enter__(self):
        self.tape.pause()

    def __exit__(self, *error):
        self.tape.__enter__()
