"""The weights of a model in HDF5, in the layout of Keras's ``.weights.h5`` files.

    layers/dense/vars/0            first variable of the first Dense in `model.layers`
    layers/dense_1/vars/0          of the second: names come from classes, not from layer names
    optimizer/vars/2               third variable of `model.optimizer`
    encoder/block/container/...    attributes, and lists within lists, of layers of the user's own

Beyond Keras, the states of random seeds are kept, so that a training goes on with the same dropout
masks.
"""

import contextlib
import io
import warnings

from gpukeras.autograd.scope import transaction
from gpukeras.layers.layer import Layer
from gpukeras.optimizers import Optimizer
from gpukeras.random import SeedGenerator
from gpukeras.saving import atomic, store
from gpukeras.saving.tree import walk

__all__ = ["load_weights", "read_weights", "save_weights", "weights_image"]


# --- Writing --------------------------------------------------------------------------------------


def save_weights(model, filepath, overwrite=True, max_shard_size=None, objects_to_skip=None):
    """Write the weights of a model, and of its optimizer, into a ``.weights.h5`` file.

    Args:
        model: A built model or layer.
        filepath: String or path that ends in ``.weights.h5``.
        overwrite: Whether an existing file is replaced; else the user is asked.
        max_shard_size: Not supported.
        objects_to_skip: Layers and others that are left out.

    Raises:
        ValueError: for another ending, and where the model is not built.
        OSError: where the file cannot be written; what was there before is untouched.
    """
    if max_shard_size is not None:
        raise NotImplementedError("save_weights: max_shard_size is not supported. Leave it out: one file is written.")
    if not str(filepath).endswith(".weights.h5"):
        raise ValueError(
            f"The filename must end in `.weights.h5`, but got {str(filepath)!r}. "
            f"Use model.save('name.keras') for the model as a whole."
        )
    _check_built(model, "save")
    if not atomic.may_write(filepath, overwrite):
        return
    image = weights_image(model, objects_to_skip)
    with atomic.replacing(filepath) as file:
        store.write_in_pieces(file, image)


def weights_image(model, skipped=None):
    """The bytes of the HDF5 file of a model's weights, as a memoryview."""
    import h5py

    # In memory first: HDF5 does not survive an error of the disk while it writes.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for path, item in walk(model, skipped or ()):
            if isinstance(item, SeedGenerator):
                store.Group(file, path)["0"] = item.state
            elif hasattr(item, "save_own_variables"):
                name = getattr(item, "name", None)
                item.save_own_variables(store.Group(file, path, name if isinstance(name, str) else None))
    return memoryview(buffer.getvalue())  # shares its bytes; getbuffer() would pin the buffer itself


# --- Reading --------------------------------------------------------------------------------------


def load_weights(model, filepath, skip_mismatch=False, objects_to_skip=None, by_name=None):
    """Read a model's weights from a file that `save_weights` or `save_model` wrote, or Keras.

    All shapes are compared before the first weight changes: a file that does not fit leaves the
    model as it was.

    Args:
        model: A built model or layer, of the structure of the saved one.
        filepath: String or path that ends in ``.weights.h5`` or ``.keras``.
        skip_mismatch: Whether layers that do not fit keep their weights, with a warning.
        objects_to_skip: Layers and others that are left as they are.
        by_name: Not supported; it is for old files of Keras 2.

    Raises:
        ValueError: where model and file do not fit, with the paths of layers, and both shapes.
        OSError: where the file cannot be read.
    """
    path = str(filepath)
    if by_name is not None:
        raise ValueError(
            "load_weights: by_name is for the `.h5` files of Keras 2, which are not supported. "
            "In `.weights.h5` files layers are found by their place in the model."
        )
    if not path.endswith((".weights.h5", ".keras")):
        raise ValueError(
            f"load_weights reads files that end in `.weights.h5` or `.keras`, but got {path!r}. "
            f"Files of Keras 2 and sharded weights (`.weights.json`) are not supported: load them "
            f"in Keras and save a `.weights.h5`."
        )
    _check_built(model, "load")
    with store.open_weights(path) as file:
        read_weights(model, file, path, skip_mismatch, objects_to_skip)


def _check_built(model, verb):
    if not model.built:
        raise ValueError(
            f"{type(model).__name__} {model.name!r} is not built yet, so there are no weights to "
            f"{verb}. Call it on data, or model.build(input_shape), first."
        )


def read_weights(model, file, path, skip_mismatch=False, skipped=None):
    """Set the variables of `model` from an open HDF5 file, all of them or, after an error, none."""
    plans, faults = [], []
    has_own_loader = False
    for place, item in walk(model, skipped or ()):
        if isinstance(item, SeedGenerator):
            arrays = store.arrays_at(file, place, path)
            if "0" in arrays and arrays["0"].shape == item.state.shape:  # Keras does not write them
                plans.append((place, item, arrays))
        elif hasattr(item, "load_own_variables"):
            arrays = store.arrays_at(file, place, path)
            fault = _fault(item, arrays)
            if isinstance(item, Optimizer) and _is_fresh(item, arrays):
                continue
            if fault is None:
                plans.append((place, item, arrays))
                has_own_loader |= _expected(item) is None
            else:
                faults.append(f"{place or 'the model itself'} ({_title(item)}): {fault}")
    if faults and not skip_mismatch:
        raise ValueError(_report(model, path, faults) + " No weight was changed.")
    # Own loaders may still fail in the middle: for their sake old values are kept meanwhile.
    with transaction() if has_own_loader and not skip_mismatch else contextlib.nullcontext():
        for place, item, arrays in plans:
            try:
                _set(item, arrays)
            except Warning:  # turned into an error by the user's filters
                raise
            except Exception as error:
                if not skip_mismatch:
                    raise ValueError(
                        f"{path!r}: {place or 'the model itself'} ({_title(item)}) could not be loaded: {error}"
                    ) from error
                faults.append(f"{place or 'the model itself'} ({_title(item)}): {error}")
    if faults:
        warnings.warn(_report(model, path, faults) + " They keep the weights they had.", stacklevel=4)


def _set(item, arrays):
    if isinstance(item, SeedGenerator):
        item.state.assign(arrays["0"])
    else:
        item.load_own_variables(arrays)


def _expected(item):
    """The variables that an object loads one by one; None where its class has its own loader."""
    loader = type(item).load_own_variables
    if loader is Layer.load_own_variables:
        return item._own_variables
    if loader is Optimizer.load_own_variables:
        return item.variables
    return None


def _fault(item, arrays):
    """Why `arrays` do not fit `item`, or None."""
    variables = _expected(item)
    if variables is None:
        return None
    if len(variables) != len(arrays):
        if isinstance(item, Optimizer):  # it warns and starts afresh, as in Keras
            return None
        shapes = ", ".join(f"{v.name} {v.shape}" for v in variables)
        found = ", ".join(str(array.shape) for array in arrays.values())
        return f"expected {len(variables)} variables ({shapes or 'none'}), found {len(arrays)} ({found or 'none'})"
    for i, variable in enumerate(variables):
        array = arrays.get(str(i))
        if array is None:
            return f"expected the variables 0 to {len(variables) - 1}, found {', '.join(arrays)}"
        if array.shape != variable.shape:
            return f"expected {variable.name} of shape {variable.shape}, found {array.shape}"
    return None


def _is_fresh(optimizer, arrays):
    """Whether the saved optimizer had not taken a step yet, while this one is ready to."""
    return 0 < len(arrays) < len(optimizer.variables) and all(a.ndim == 0 for a in arrays.values())


def _title(item):
    return f"{type(item).__name__} {item.name!r}" if hasattr(item, "name") else type(item).__name__


def _report(model, path, faults):
    more = f"; and {len(faults) - 10} more" if len(faults) > 10 else ""
    return (
        f"{path!r} does not fit the model {model.name!r}. {len(faults)} of its objects could not "
        f"be loaded: {'; '.join(faults[:10])}{more}. Build the model as it was when it was saved, "
        f"or pass skip_mismatch=True to load the rest."
    )
