"""Files that are there as a whole or not at all: written beside their place, then moved onto it."""

import contextlib
import os
import secrets
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be deleted
    fcntl = None

__all__ = ["may_write", "replacing"]

_ENDING = ".partial"


@contextlib.contextmanager
def replacing(path):
    """A file to write into, which takes the place of `path` when the block ends without an error.

    Whenever the process is killed, `path` is the old file or the new one. Unfinished files of
    killed processes are removed by the next one that writes to the same place.

    Args:
        path: Where the file shall stand. Its folder must exist.

    Raises:
        OSError: naming `path`, where the folder is missing or the disk is full; nothing is left
        behind.
    """
    target = Path(os.path.realpath(path))  # a link stays; the file that it points to is replaced
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"Cannot write {str(path)!r}: there is no folder {str(target.parent)!r}. Create it, or choose another path."
        )
    if target.is_dir():
        raise IsADirectoryError(f"Cannot write {str(path)!r}: it is a folder. Give the name of a file.")
    partial = None
    try:
        _remove_stale(target)
        file, partial = _open_partial(target)
        with file:
            sink = _Sink(file)
            yield sink
            file.flush()
            os.fsync(file.fileno())
            if target.exists():
                os.chmod(partial, target.stat().st_mode & 0o777)
            if fcntl is None:
                file.close()
            # Moved while it is still locked: nobody may take it for left behind.
            os.replace(partial, target)
            partial = None
        _sync_folder(target.parent)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"{error.strerror or error}. Writing {str(path)!r} failed; what was there before is untouched",
        ) from error
    finally:
        if partial is not None:
            with contextlib.suppress(OSError):
                os.unlink(partial)


class _Sink:
    """A file that swallows what comes after the first error.

    zipfile writes its directory when it is closed, also after a failed write; the first error is
    the one to tell.
    """

    def __init__(self, file):
        self.file = file
        self.has_failed = False

    def write(self, data):
        if self.has_failed:
            return len(data)
        try:
            return self.file.write(data)
        except BaseException:
            self.has_failed = True
            raise

    def flush(self):
        if not self.has_failed:
            self.file.flush()

    def close(self):
        self.flush()

    def tell(self):
        return self.file.tell()

    def seek(self, offset, whence=0):
        return self.file.seek(offset, whence)

    def seekable(self):
        return True


def _open_partial(target):
    while True:
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_ENDING}")
        # Mode 666 less the umask, as open() makes files. No buffer: large pieces come, and errors
        # at once.
        file = open(partial, "xb", buffering=0, opener=lambda name, flags: os.open(name, flags, 0o666))
        if _lock(file) and _is_same(file, partial):
            return file, partial
        file.close()  # another process took it for left behind, between open and lock


def _lock(file):
    """Whether this process holds the file now; the lock goes when the process ends."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_same(file, path):
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_stale(target):
    """Remove unfinished files for `target` whose writers are gone."""
    for name in os.listdir(target.parent):
        if not (name.startswith(f".{target.name}.") and name.endswith(_ENDING)):
            continue
        with contextlib.suppress(OSError), open(target.with_name(name), "rb") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                file.close()
            os.unlink(target.with_name(name))


def _sync_folder(folder):
    """Let the move itself survive a power cut."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def may_write(path, overwrite):
    """Whether `path` is free or may be replaced; with overwrite=False the user is asked.

    Raises:
        FileExistsError: where there is nobody to ask.
    """
    if overwrite or not os.path.exists(path):
        return True
    try:
        answer = input(f"{str(path)!r} exists already. Overwrite it? [y/n] ").strip().lower()
        while answer not in ("y", "n"):
            answer = input("Answer y or n: ").strip().lower()
    except (EOFError, OSError):
        raise FileExistsError(
            f"{str(path)!r} exists already, overwrite=False, and nobody is there to ask. "
            f"Pass overwrite=True or another path."
        ) from None
    return answer == "y"
