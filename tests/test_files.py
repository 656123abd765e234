"""Output files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import shutil

import pytest

from megaphi.errors import InputError
from megaphi.files import read_json, replace_folder, sha256_of, whole_file, whole_folder, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with whole_file(target) as file:
        file.write(b"half")
        assert not target.exists()
        file.write(b" and half")
    assert target.read_bytes() == b"half and half"
    assert names(target.parent) == ["file.txt"]
    assert target.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    def interrupted():
        with whole_file(tmp_path / "file") as file:
            file.write(b"new")
            raise KeyboardInterrupt

    write_text(tmp_path / "file", "old")
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space left on the device"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "the file system is read-only"),
    ],
)
def test_what_the_user_can_mend_is_said(tmp_path, number, message):
    with pytest.raises(InputError, match=rf"cannot write .*file: {message}"), whole_file(tmp_path / "file"):
        raise OSError(number, os.strerror(number))
    assert names(tmp_path) == []
    with pytest.raises(OSError, match="Input/output error"), whole_file(tmp_path / "file"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_paths_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(InputError, match=r"there is a file where a folder should be|a part of this path is a file"):
        write_text(tmp_path / "file" / "x", "text")
    with pytest.raises(InputError, match="there is a folder of this name"):
        write_text(tmp_path / "folder", "text")
    assert names(tmp_path) == ["file", "folder"]


def test_a_folder_appears_when_it_is_whole(tmp_path):
    with whole_folder(tmp_path / "made") as folder:
        (folder / "a").touch()
        assert not (tmp_path / "made").exists()
    assert names(tmp_path / "made") == ["a"]
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "failed") as folder:
        (folder / "a").write_text(str(1 // 0))
    assert names(tmp_path) == ["made"]
    with pytest.raises(InputError, match="made exists already"), whole_folder(tmp_path / "made"):
        raise AssertionError("not reached")


@pytest.mark.parametrize("appears", ["folder", "file"])
def test_what_appears_at_the_target_meanwhile_stays(tmp_path, appears):
    target = tmp_path / "made"

    def write() -> None:
        with whole_folder(target) as folder:
            (folder / "a").touch()
            if appears == "folder":
                target.mkdir()
                (target / "theirs").touch()
            else:
                target.write_text("theirs")

    with pytest.raises(InputError, match="made appeared while it was being written: nothing of it was changed"):
        write()
    assert names(tmp_path) == ["made"]
    assert names(target) == ["theirs"] if appears == "folder" else target.read_text() == "theirs"


def _hold_open(target, ready, end):
    with whole_folder(target) as folder:
        (folder / "theirs").touch()
        ready.set()
        end.wait(60)


def test_two_processes_with_one_target(tmp_path):
    """The second is told so at once, and what it finds of the first stays; a killed one's remains go."""
    target, context = tmp_path / "made", multiprocessing.get_context("fork")
    ready, end = context.Event(), context.Event()
    other = context.Process(target=_hold_open, args=(target, ready, end))
    other.start()
    assert ready.wait(60)
    with pytest.raises(InputError, match=r"another process is writing .*made now"), whole_folder(target):
        raise AssertionError("not reached")
    end.set()
    other.join(60)
    assert names(target) == ["theirs"]
    shutil.rmtree(target)

    ready, end = context.Event(), context.Event()
    other = context.Process(target=_hold_open, args=(target, ready, end))
    other.start()
    assert ready.wait(60)
    other.kill()
    other.join(60)
    assert [name.endswith(".partial") for name in names(tmp_path)] == [True]
    with whole_folder(target) as folder:
        (folder / "ours").touch()
    assert names(tmp_path) == ["made"]
    assert names(target) == ["ours"]


def test_a_folder_of_anybody_else_is_left_alone(tmp_path):
    (tmp_path / ".made.of_somebody.partial").mkdir()
    (tmp_path / ".made.of_somebody.partial" / "work").touch()
    with whole_folder(tmp_path / "made"):
        pass
    assert names(tmp_path / ".made.of_somebody.partial") == ["work"]


def test_replacing_takes_the_place_of_an_older_folder(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"from_{name}").touch()
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert names(tmp_path) == ["old"]
    assert names(tmp_path / "old") == ["from_new"]


def test_json_there_and_back_and_its_errors(tmp_path):
    write_json(tmp_path / "a.json", {"ä": [1, None]})
    assert read_json(tmp_path / "a.json", what="thing") == {"ä": [1, None]}
    with pytest.raises(InputError, match=r"thing not found: .*b\.json"):
        read_json(tmp_path / "b.json", what="thing")
    for broken in (b"{", b"\xff"):
        (tmp_path / "b.json").write_bytes(broken)
        with pytest.raises(InputError, match=r"thing .*b\.json is not valid JSON"):
            read_json(tmp_path / "b.json", what="thing")


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"x" * 100_000).hexdigest()
