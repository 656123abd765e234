r"""Output of `megaphi inspect conversations`: the first conversations or pairs token by token, then counts of all.

In colour, what is trained is green (a rejected side red), what is context is dim, and special tokens are underlined.
Without colour, trained spans stand in ⟦ ⟧. Every message has a line of its own; a line break within one is shown as ↵
and a break, a `<|` that belongs to no special token as `<\|`, the name of a think token that is text as `<\think>`, and
control characters are escaped, because a terminal would obey them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING

from megaphi.cli.tokenizer_option import add_tokenizer, place_of_tokenizer
from megaphi.config import user_path

if TYPE_CHECKING:
    from megaphi.tokenizer.interface import Tokenizer

GREEN, RED, DIM, UNDERLINED, PLAIN = ("\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[4m", "\x1b[0m")
INK_OF_SIDE = {"prompt": None, "chosen": GREEN, "rejected": RED}
NO_LIMIT = 1 << 62


def add_conversation_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", type=user_path, metavar="FILE", help=".jsonl, .json (also compressed) or .parquet; or a folder"
    )
    parser.add_argument("--pairs", action="store_true", help="the file holds preference pairs")
    parser.add_argument("--number", type=int, default=3, metavar="N", help="how many to print (default 3)")
    parser.add_argument("--vocabulary", type=int, metavar="V", help="vocabulary size (default: the whole of Phi-4's)")
    add_tokenizer(parser)
    parser.add_argument("--train-on", choices=("assistant", "last"), default="assistant", help="which answers to train")
    parser.add_argument(
        "--bad-records", choices=("error", "skip"), default="error", help="records that cannot be used (default: error)"
    )
    parser.add_argument("--sequence-length", type=int, default=NO_LIMIT, metavar="S", help="leave longer ones out")
    parser.add_argument(
        "--colour", action=argparse.BooleanOptionalAction, default=None, help="default: on a terminal only"
    )


def show_conversations(arguments: argparse.Namespace) -> int:
    from megaphi.tokenizer.open_tokenizer import open_path

    path, vocabulary = place_of_tokenizer(arguments.tokenizer, vocabulary=arguments.vocabulary)
    tokenizer = open_path(path, vocabulary=vocabulary)
    colour = sys.stdout.isatty() if arguments.colour is None else arguments.colour
    show = _show_pairs if arguments.pairs else _show_conversations
    for line in show(arguments, tokenizer, colour=colour):
        print(line, file=getattr(sys.stdout, "raw", sys.stdout))  # with our own colours, and `_visible` already
    return 0


def _show_conversations(arguments: argparse.Namespace, tokenizer: Tokenizer, *, colour: bool) -> Iterator[str]:
    from megaphi.data.packed.conversations import stream_conversations
    from megaphi.data.text.training_records import SkipReport

    report = SkipReport()
    samples = stream_conversations(
        [arguments.path],
        tokenizer,
        train_on=arguments.train_on,
        sequence_length=arguments.sequence_length,
        too_long="skip",
        bad_records=arguments.bad_records,
        report=report,
    )
    tokens = trained = 0
    for number, sample in enumerate(samples):
        ids, flags = (list(values) for values in (sample.rendered.ids, sample.rendered.trained))
        tokens, trained = tokens + len(ids), trained + sum(flags)
        if number < arguments.number:
            yield f"{sample.where}: {len(ids):,} tokens, {sum(flags):,} trained"
            yield from _messages(ids, [GREEN if flag else None for flag in flags], tokenizer, colour=colour)
            yield ""
    yield from report.lines()
    yield f"{tokens:,} tokens, {trained:,} of them trained ({trained / tokens:.1%})"


def _show_pairs(arguments: argparse.Namespace, tokenizer: Tokenizer, *, colour: bool) -> Iterator[str]:
    from megaphi.data.packed.preference_pairs import stream_pairs
    from megaphi.data.text.training_records import SkipReport

    report = SkipReport()
    pairs = stream_pairs(
        [arguments.path],
        tokenizer,
        sequence_length=arguments.sequence_length,
        append_eos=False,
        max_completion_tokens=None,
        too_long="skip",
        bad_records=arguments.bad_records,
        report=report,
    )
    tokens = dict.fromkeys(INK_OF_SIDE, 0)
    for number, (where, pair) in enumerate(pairs):
        for side, ink in INK_OF_SIDE.items():
            ids = getattr(pair, side).tolist()
            tokens[side] += len(ids)
            if number < arguments.number:
                yield f"{where}: {side}, {len(ids):,} tokens"
                yield from _messages(ids, [ink] * len(ids), tokenizer, colour=colour)
        if number < arguments.number:
            yield ""
    yield from report.lines()
    yield ", ".join(f"{count:,} tokens {side}" for side, count in tokens.items())


def _messages(ids: Sequence[int], inks: Sequence[str | None], tokenizer: Tokenizer, *, colour: bool) -> Iterator[str]:
    """The tokens as text, a line for every message; `inks` holds a colour for what is trained, None for context."""
    ends = (place + 1 for place, token in enumerate(ids) if token == tokenizer.message_end)
    for start, end in pairwise(dict.fromkeys([0, *ends, len(ids)])):
        yield "".join(
            _span([token for token, _ in span], ink, tokenizer, colour=colour)
            for ink, span in groupby(zip(ids[start:end], inks[start:end], strict=True), key=itemgetter(1))
        )


def _span(ids: Sequence[int], ink: str | None, tokenizer: Tokenizer, *, colour: bool) -> str:
    text = ""
    specials = frozenset(tokenizer.special_ids.values())
    for is_special, run in groupby(ids, key=specials.__contains__):
        shown = tokenizer.decode(run)
        shown = shown if is_special else _visible(shown, tokenizer.special_ids)
        text += f"{ink or DIM}{UNDERLINED if is_special else ''}{shown}{PLAIN}" if colour else shown
    return f"⟦{text}⟧" if ink and not colour else text


def _visible(text: str, special: Iterable[str]) -> str:
    """Ordinary text with nothing in it that a terminal obeys, or that could be taken for a special token."""
    characters = (
        character if character.isprintable() or character in "\n\t" else character.encode("unicode_escape").decode()
        for character in text
    )
    shown = "".join(characters).replace("\n", "↵\n").replace("<|", "<\\|")
    for name in special:
        if not name.startswith("<|"):
            shown = shown.replace(name, f"{name[0]}\\{name[1:]}")
    return shown
