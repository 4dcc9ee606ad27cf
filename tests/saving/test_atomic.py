"""Files are replaced as a whole: after a kill, a full disk or an error the old one is there."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gpukeras.saving import atomic

ROOT = Path(__file__).parents[2]


def names(folder):
    return sorted(os.listdir(folder))


def test_the_new_file_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"old")
    with atomic.replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["model.keras"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic.replacing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.keras"]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_full_disk_is_told_with_the_path(name, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "model.keras"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, name, fail)
    with pytest.raises(OSError, match=r"No space left on device.*model\.keras.*untouched") as caught:
        with atomic.replacing(path) as file:
            file.write(b"new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.keras"]


def test_after_a_failed_write_the_first_error_is_told():
    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    sink = atomic._Sink(Full())
    with pytest.raises(OSError, match="No space"):
        sink.write(b"abc")
    assert sink.write(b"abc") == 3


def test_folders_that_are_missing_or_in_the_way(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere.*Create it"):
        with atomic.replacing(tmp_path / "nowhere" / "model.keras"):
            pass
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        with atomic.replacing(tmp_path / "folder.keras"):
            pass
    assert names(tmp_path) == ["folder.keras"]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_permissions_are_those_of_open_or_of_the_old_file(tmp_path):
    with open(tmp_path / "plain", "w"):
        pass
    path = tmp_path / "model.keras"
    with atomic.replacing(path):
        pass
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    path.chmod(0o640)
    with atomic.replacing(path):
        pass
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(os.name == "nt", reason="links of POSIX")
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "model.keras"
    target.write_bytes(b"old")
    link = tmp_path / "link.keras"
    link.symlink_to(target)
    with atomic.replacing(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    path = tmp_path / "model.keras"
    litter = tmp_path / ".model.keras.0123abcd.partial"
    other = tmp_path / ".other.keras.0123abcd.partial"
    litter.write_bytes(b"half")
    other.write_bytes(b"half")
    with atomic.replacing(path) as first:
        first.write(b"first")
        assert not litter.exists()
        with atomic.replacing(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == [other.name, "model.keras"]


KILLED = """
import os, signal, sys
from gpukeras.saving import atomic
stage, path = sys.argv[1:]
def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)
if stage != "write":
    setattr(os, stage, die)
with atomic.replacing(path) as file:
    file.write(b"new" * 1000)
    if stage == "write":
        die()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("stage", ["write", "fsync", "replace"])
def test_killed_at_any_moment_the_old_file_is_there(stage, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"old")
    code = subprocess.run([sys.executable, "-c", KILLED, stage, str(path)], cwd=ROOT).returncode
    assert code == -9
    assert path.read_bytes() == b"old"
    assert len(names(tmp_path)) == 2
    with atomic.replacing(path) as file:
        file.write(b"newer")
    assert path.read_bytes() == b"newer"
    assert names(tmp_path) == ["model.keras"]


@pytest.mark.parametrize(("answer", "may"), [("y", True), ("n", False)])
def test_without_overwrite_the_user_is_asked(answer, may, tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    assert atomic.may_write(path, overwrite=False)
    path.write_bytes(b"old")
    assert atomic.may_write(path, overwrite=True)
    answers = iter(["what?", answer])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    assert atomic.may_write(path, overwrite=False) is may


def test_with_nobody_to_ask_nothing_is_overwritten(tmp_path, monkeypatch):
    def nobody(prompt):
        raise EOFError

    path = tmp_path / "model.keras"
    path.write_bytes(b"old")
    monkeypatch.setattr("builtins.input", nobody)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        atomic.may_write(path, overwrite=False)
