"""Files of strangers are opened only if they are what they should be; links and keys of others are not taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from megaphi.config import user_path
from megaphi.engine.retention import Saving, prune
from megaphi.engine.run_lock import LOCK, take
from megaphi.errors import InputError
from megaphi.files import replace_folder
from megaphi.foreign.files import brief, damage_named, is_plain_name, open_regular, read_line, read_small, read_text
from megaphi.foreign.key_file import read_key
from megaphi.json_log import JsonLog


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match="expected a file"):
            open_regular(path)
    with pytest.raises(InputError, match="is no path"):
        open_regular("a\0b")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nothing")


def test_a_small_file_is_small(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    assert read_small(tmp_path / "file", largest=100) == b"x" * 100
    with pytest.raises(InputError, match="has 100 bytes, expected at most 99"):
        read_small(tmp_path / "file", largest=99)


def test_a_text_is_of_utf8_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbfna\xc3\xafve\r\n")
    assert read_text(path) == "naïve\r\n"
    with pytest.raises(InputError, match="has 11 bytes, expected at most 9"):
        read_text(path, largest=9)
    path.write_bytes(b"a\n\xff")
    with pytest.raises(InputError, match=r"text: not UTF-8 text, convert it first \(line 2\)"):
        read_text(path)
    path.unlink()
    with pytest.raises(InputError, match="there is no file"):
        read_text(path)
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole, which no disk has to hold
    with pytest.raises(InputError, match=r"has 1,099,511,627,776 bytes, expected at most"):
        read_text(path)


def test_a_pipe_in_the_place_of_a_log_or_a_lock_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("journal.jsonl", LOCK):
        os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="a pipe or a device, expected a file"):
        JsonLog(tmp_path / "journal.jsonl", lambda _: None, what="a line")
    with pytest.raises(InputError, match="a pipe or a device, expected a file"):
        take(tmp_path)


@pytest.mark.parametrize("content", [b"\xff", b"a\nb", b"a\0", b"\x1b[2J", b"x" * 5_000])
def test_a_line_is_one_line_of_text(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b" good\n")
    assert read_line(tmp_path / "file") == "good"
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match="file"):
        read_line(tmp_path / "file")


def test_names() -> None:
    assert is_plain_name("model-00001-of-00002.safetensors")
    for name in ("", ".", "..", "a/b", "/etc", "a\0", "a\n", "\x1b[2J", "\ud800", "x" * 300, 3, None, ["a"]):
        assert not is_plain_name(name), name


def test_damage_is_one_message() -> None:
    for error in (
        KeyError("a"),
        TypeError("b"),
        RecursionError("c"),
        OverflowError("d"),
        UnicodeDecodeError("utf-8", b"", 0, 1, "e"),
    ):
        with (
            pytest.raises(InputError, match="file is corrupted or truncated: not a model"),
            damage_named("file", what="a model"),
        ):
            raise error
    with pytest.raises(InputError, match=r"^as it is$"), damage_named("file", what="a model"):
        raise InputError("as it is")


def test_brief_takes_no_longer_for_a_bomb() -> None:
    bomb: list[object] = [1]
    for _ in range(100):
        bomb = [bomb, bomb]
    assert len(brief(bomb)) < 1_000
    assert len(brief("x" * 10**7)) < 100
    assert len(brief(10**4_000)) < 100


def test_links_among_checkpoints_are_removed_and_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "step_00000001").symlink_to(elsewhere)
    (folder / "step_00000002").symlink_to("nowhere")
    (folder / ".step_00000003.x.deleted").symlink_to(elsewhere)
    (folder / ".step_00000004.x.partial").write_text("a file")
    (folder / "step_00000005").mkdir()
    prune(folder, Saving(keep_last=1), newest=5)
    assert [path.name for path in folder.iterdir()] == ["step_00000005"]
    assert (elsewhere / "kept").exists()


def test_a_link_in_the_place_of_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    for target in ("nowhere", "."):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "file").touch()
        (tmp_path / "step_00000001").symlink_to(target)
        replace_folder(tmp_path / "new", tmp_path / "step_00000001")
        assert (tmp_path / "step_00000001" / "file").exists()
        replace_folder(tmp_path / "step_00000001", tmp_path / "old")


@pytest.mark.parametrize("mode", [0o602, 0o604, 0o620, 0o644, 0o666])
def test_a_key_that_others_may_read_or_write_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("secret\n")
    path.chmod(0o640)
    assert read_key(str(path), option="--key") == "secret"
    path.chmod(mode)
    with pytest.raises(InputError, match=r"--key .*others than its owner may read or write it: chmod 600"):
        read_key(str(path), option="--key")


def test_a_key_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.write_text("secret\n")
    path.chmod(0o600)
    if os.geteuid() == 0:  # whose files anyone may believe
        os.chown(path, 1234, -1)
    monkeypatch.setattr("megaphi.foreign.key_file.os.geteuid", lambda: 4321)
    with pytest.raises(InputError, match=r"it belongs to user .*, who can change it: make a copy of your own"):
        read_key(str(path), option="--key")


@pytest.mark.parametrize("content", [b"", b"a b", b"a\nb", b"\xff", b"\xc3\xa9", b"a\x1b[2J", b"x" * 5_000, b"a\0"])
def test_a_key_file_holds_one_key(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(InputError, match="--key ") as found:
        read_key(str(path), option="--key")
    assert "\x1b" not in str(found.value)


@pytest.mark.parametrize("name", ["a\nmegaphi: all is well", "a\x1b[2J", "a\r", "a\t", "a\u2028b", "a\0b", "\u202eb"])
def test_a_path_is_one_line(name: str) -> None:
    with pytest.raises(InputError, match="holds a control character: rename it") as found:
        user_path(name)
    assert name not in str(found.value)
    assert user_path("naïve 東京 \udcff") == "naïve 東京 \udcff"


def test_a_path_is_one_that_a_file_may_have() -> None:
    for path in ("a/" + "b" * 256, "é" * 128, "a/" * 2_500, "\ud800"):
        with pytest.raises(InputError, match=r"the path .* (longer than that of any file|a character that no name)"):
            user_path(path)
    url = "https://bucket/a.bin?signature=" + "b" * 300
    assert user_path(url) == url
    assert user_path("a" * 255 + "/" + "b" * 255)
