"""Batches made one at a time by a program's own class."""

__all__ = ["PyDataset"]


class PyDataset:
    """A data set that makes its batches itself; `fit`, `evaluate` and `predict` take it in place of arrays.

    Define `__len__`, the number of batches, and `__getitem__(index)`, which returns ``(x, y)`` or
    ``(x, y, sample_weight)``. Batches are asked for in order, one at a time.

    Args:
        workers, use_multiprocessing, max_queue_size: Batches are made in the loop's own thread: more than
            one worker raises NotImplementedError.

    Example:
        >>> class Squares(PyDataset):
        ...     def __len__(self):
        ...         return 2
        ...
        ...     def __getitem__(self, index):
        ...         x = np.full((4, 1), float(index))
        ...         return x, x**2
        >>> Squares().num_batches
        2
    """

    def __init__(self, workers=1, use_multiprocessing=False, max_queue_size=10):
        if workers > 1 or use_multiprocessing:
            raise NotImplementedError(
                "PyDataset: workers > 1 and use_multiprocessing=True are not supported; batches are made in the loop's "
                "own thread. Pass workers=1."
            )
        self.workers = workers
        self.use_multiprocessing = use_multiprocessing
        self.max_queue_size = max_queue_size

    def __getitem__(self, index):
        """The batch of a number from 0."""
        raise NotImplementedError(f"{type(self).__name__} defines no __getitem__(self, index).")

    @property
    def num_batches(self):
        """Number of batches in an epoch, None if it is not known."""
        length = getattr(self, "__len__", None)
        return None if length is None else length()

    def on_epoch_begin(self):
        """An epoch starts."""

    def on_epoch_end(self):
        """An epoch has ended: the place to shuffle."""
