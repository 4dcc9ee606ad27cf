"""Arrays in HDF5 files, alone or within ``.keras`` archives; files are read with suspicion."""

import contextlib
import io
import math
import os
import zipfile
import zlib

import numpy as np

from gpukeras.backend import dtypes

__all__ = [
    "Group",
    "arrays_at",
    "open_weights",
    "opened_archive",
    "opened_hdf5",
    "read_member",
    "write_in_pieces",
]

WEIGHTS = "model.weights.h5"

# A file may declare a huge array and store nothing of it: beyond this size, at most so many times
# what is stored.
_BOMB_FLOOR = 1 << 30
_BOMB_FACTOR = 1000


class Group:
    """What `save_own_variables` writes into: one object's part of the file.

    Args:
        file: The HDF5 file.
        path: Where the object stands in it.
        name: The object's own name, kept for readers of the file.

    Example:
        >>> import h5py
        >>> with h5py.File("any", "w", driver="core", backing_store=False) as file:
        ...     Group(file, "layers/dense")["0"] = np.ones((4, 3))
        ...     file["layers/dense/vars/0"].shape
        (4, 3)
    """

    def __init__(self, file, path, name=None):
        self._file = file
        self._path = f"{path}/vars" if path else "vars"
        self._group = None
        if name:
            self._made().attrs["name"] = name

    def _made(self):
        if self._group is None:
            self._group = self._file.require_group(self._path)
        return self._group

    def __setitem__(self, key, value):
        value = value.numpy() if hasattr(value, "numpy") else np.asarray(value)
        dataset = self._made().create_dataset(key, data=value)
        if value.dtype.name == "bfloat16":  # unknown to HDF5, which keeps the two bytes as they are
            dataset.attrs["dtype"] = "bfloat16"

    def __getitem__(self, key):
        return self._made()[key][()]

    def __delitem__(self, key):
        del self._made()[key]

    def __contains__(self, key):
        return self._group is not None and key in self._group

    def __len__(self):
        return 0 if self._group is None else len(self._group)

    def keys(self):
        """The names of what was written."""
        return [] if self._group is None else list(self._group.keys())


def write_in_pieces(file, data, size=1 << 24):
    """Write `data`, however large, into `file`, which may take less at a time than it is given."""
    view = memoryview(data)
    while len(view):
        view = view[file.write(view[:size]) or 0 :]


@contextlib.contextmanager
def open_weights(path):
    """The HDF5 file at `path`, or within the ``.keras`` archive there."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path!r}. Check the path; the current folder is {os.getcwd()!r}.")
    if path.endswith(".keras"):
        with opened_archive(path) as archive:
            source = io.BytesIO(read_member(archive, WEIGHTS, path))
    else:
        source = path
    with opened_hdf5(source, path) as file:
        yield file


@contextlib.contextmanager
def opened_hdf5(source, path):
    """The HDF5 file that `source`, a path or a file in memory, holds; `path` is for messages."""
    import h5py

    try:
        file = h5py.File(source, "r")
    except OSError as error:
        raise OSError(
            f"{path!r} holds no readable HDF5 weights: {error}. It was damaged or cut short, or is "
            f"another kind of file; get it again or save it anew."
        ) from error
    with file:
        yield file


@contextlib.contextmanager
def opened_archive(path):
    """The zip archive at `path`."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path!r} is no `.keras` file, which is a zip archive: {error}. It was damaged or cut "
            f"short, or is another kind of file; get it again or save it anew."
        ) from error
    with archive:
        yield archive


def read_member(archive, name, path):
    """The bytes of one member of an archive."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        found = ", ".join(archive.namelist()[:5]) or "nothing"
        raise ValueError(
            f"{path!r} is no model: a `.keras` file holds config.json and {WEIGHTS}, but {name} is "
            f"missing; found {found}. Save the model anew with model.save()."
        ) from None
    if info.file_size > _BOMB_FLOOR and info.file_size > _BOMB_FACTOR * max(info.compress_size, 1):
        raise ValueError(
            f"{path!r}: {name} claims {info.file_size} bytes, but only {info.compress_size} are "
            f"stored. It is not read, since it would fill the memory."
        )
    try:
        return archive.read(info)
    except (
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        zlib.error,
    ) as error:
        raise ValueError(
            f"{path!r}: {name} cannot be read: {error}. The file is damaged; get it again or save it anew."
        ) from error


def arrays_at(file, place, path):
    """The arrays at a place in the file, by key; an empty dictionary where there is nothing."""
    import h5py

    group = file
    for part in f"{place}/vars".strip("/").split("/"):
        group = _child(group, part, path)
        if group is None:
            return {}
        if not isinstance(group, h5py.Group):
            raise ValueError(f"{path!r}: {group.name} should be a group, but is {type(group).__name__}.")
    return {key: _array(_child(group, key, path), path) for key in group}


def _child(group, name, path):
    import h5py

    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{path!r}: {group.name}/{name} is a link to elsewhere, which is not followed.")
    return group[name]


def _array(dataset, path):
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{path!r}: {dataset.name} should be an array, but is {type(dataset).__name__}.")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{path!r}: {dataset.name} takes its values from other files, which are not read.")
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    if declared > _BOMB_FLOOR and declared > _BOMB_FACTOR * dataset.id.get_storage_size():
        raise ValueError(f"{path!r}: {dataset.name} claims {declared} bytes that are not in the file; it is not read.")
    try:
        array = np.asarray(dataset[()])
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"{path!r}: {dataset.name} cannot be read: {error}. The file is damaged; get it again or save it anew."
        ) from error
    if dataset.attrs.get("dtype") == "bfloat16" and array.dtype.itemsize == 2:
        return array.view(dtypes.as_dtype("bfloat16"))
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{path!r}: {dataset.name} should hold numbers, but is of dtype {array.dtype}.")
    return array
