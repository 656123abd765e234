"""Whatever a terminal obeys is shown instead, on every way out: the two streams and the log."""

from __future__ import annotations

import io
import logging
import unicodedata
from contextlib import redirect_stdout

from megaphi.foreign.visible_text import VisibleStream, one_message, print_text, visible
from megaphi.log import keep_rank_log, logger, set_up_logging

HOSTILE = "a\x1b[2J\x9b31m\r\x07\u202eb"
SHOWN = "a\\x1b[2J\\x9b31m\\r\\x07\\u202eb"


def test_no_control_of_unicode_is_left_but_line_ends_and_tabs() -> None:
    controls = {chr(code) for code in range(0x3000) if unicodedata.category(chr(code)) == "Cc"}
    left = {character for character in controls if visible(character) == character}
    assert left == set("\n\t\v\f")
    assert visible(HOSTILE) == SHOWN
    assert visible("naïve 東京 🙂 \u0939\u093f\u200d\r\n") == "naïve 東京 🙂 \u0939\u093f\u200d\r\n"


def test_further_lines_cannot_pass_for_messages() -> None:
    assert one_message("a\nmegaphi: b") == "a\n  megaphi: b"


def test_a_stream_shows_what_is_printed() -> None:
    raw = io.StringIO()
    stream = VisibleStream(raw)
    print(HOSTILE, file=stream)
    stream.writelines([HOSTILE])
    assert raw.getvalue() == f"{SHOWN}\n{SHOWN}"
    assert not stream.isatty()


def test_no_value_that_is_printed_begins_a_line() -> None:
    raw = io.StringIO()
    stream = VisibleStream(raw)
    print("name  a\nmegaphi: b\n\nc\n  d", "e", sep="\n", end="\n\n", file=stream)
    assert raw.getvalue() == "name  a\n  megaphi: b\n\n  c\n  d\ne\n\n"


def test_the_lines_of_a_text_are_its_own() -> None:
    raw = io.StringIO()
    with redirect_stdout(VisibleStream(raw)):
        print_text("a\nb\x1b", end="")
        print_text("c")
    assert raw.getvalue() == "a\nb\\x1bc\n"


def test_the_log_shows_what_it_is_given(tmp_path, capsys) -> None:
    before = list(logger.handlers), logger.level, logger.propagate
    try:
        set_up_logging()
        keep_rank_log(tmp_path / "log", rank=0, take_native_output=False)
        logger.warning("the folder %s", HOSTILE + "\n12:00:00 all is well")
    finally:
        logger.handlers[:], level, logger.propagate = before
        logger.setLevel(level)
    for text in (capsys.readouterr().err, (tmp_path / "log").read_text()):
        assert f"the folder {SHOWN}\n  12:00:00 all is well" in text
    assert logging.getLogger("megaphi") is logger
