"""Any tokenizer.json (Hugging Face's `tokenizers`), with the tokens and the chat template that its folder names.

Text is ordinary text: it never yields the tokens that the file, or tokenizer_config.json, marks special. A conversation
must give the ids that transformers gives, merges across the border of frame and content included, and yet no content
may forge a frame. So everything is encoded by a second copy of the tokenizer in which every special token has a
spelling that no user can write; only the frame of a conversation is spelled so, and offsets tell which tokens belong to
a content. An added token that is not marked special (say, `<think>`) is one wherever it occurs, as in transformers.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from megaphi.conversation import Conversation, Message, to_plain
from megaphi.errors import InputError
from megaphi.files import read_object
from megaphi.foreign.files import brief
from megaphi.log import logger
from megaphi.tokenizer.byte_letters import byte_letters
from megaphi.tokenizer.byte_tokens import BYTE_TOKEN, with_broken_bytes_replaced
from megaphi.tokenizer.chat_template import ChatTemplate, LocatedText, Span
from megaphi.tokenizer.interface import RenderedConversation, TextDecoder, TrainOn, Utf8Decoder, WindowDecoder
from megaphi.tokenizer.tokenizer_files import (
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    chat_template_source,
    end_tokens,
    named_tokens,
    read_tokenizer,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

_NONCE = secrets.token_hex(8)


class JsonTokenizer:
    """Fulfils `Tokenizer`."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        """`files`: name -> where it lies, at least tokenizer.json; a model's generation_config.json
                and config.json are read too.

        Raises:
            InputError: tokenizer.json cannot be read, or no end token is named.
        """
        self.where = files[TOKENIZER_JSON]
        self.files = dict(files)
        self._named = named_tokens(files)
        self._data = _prepared(read_tokenizer(self.where), self._named)
        self._fast = _open(self._data, where=self.where)
        self.vocabulary_size = 1 + max(self._fast.get_vocab(with_added_tokens=True).values())
        self.special_ids = {token["content"]: token["id"] for token in self._data["added_tokens"] if token["special"]}
        self.text_start = _text_start(self._fast)
        self.end_of_text = self._end_of_text()
        pad = self._named.get("pad_token")
        self.pad = self.special_ids.get(str(pad), self.end_of_text)
        source = chat_template_source(files)
        where = f"the chat template of {self.where.parent}"
        self.template = None if source is None else ChatTemplate(source, self._named, where=where)

    def __repr__(self) -> str:
        return f"JsonTokenizer({str(self.where)!r}, vocabulary_size={self.vocabulary_size})"

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def stop_tokens(self) -> frozenset[int]:
        return self._stop_tokens

    @property
    def message_end(self) -> int:
        """The special token after an answer in the chat format; that of a text if there is none."""
        return self.end_of_text if self._answer_end is None else self._answer_end

    @cached_property
    def _fingerprint(self) -> str:
        model = {name: value for name, value in self._data["model"].items() if value not in (None, False, "")}
        if "merges" in model:  # older files have them as texts
            pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
            model["merges"] = pairs
        parts = [self._data.get(name) for name in ("normalizer", "pre_tokenizer")]
        added = sorted(self._data["added_tokens"], key=lambda token: token["id"])
        meaning = [model, added, *parts, list(self.text_start), self.end_of_text]
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _stop_tokens(self) -> frozenset[int]:
        stops = {self.end_of_text, self.message_end}
        for name in ("generation_config.json", "config.json"):
            if name in self.files:
                stops |= end_tokens(read_object(self.files[name], what="configuration"))
        return frozenset(stops)

    def encode(self, text: str) -> list[int]:
        return self.encode_to_array(text).tolist()

    def encode_to_array(self, text: str) -> NDArray[np.uint32]:
        ids = self._framed.encode(_without_surrogates(text), add_special_tokens=False).ids
        return self._meaning[np.array(ids, dtype=np.int64)].astype(np.uint32)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that each token stands for within a text, joined. An id without a token has none."""
        return b"".join(self._token_bytes(int(token)) for token in ids)

    def decode(self, ids: Iterable[int]) -> str:
        if self._is_byte_level:
            return self.decode_bytes(ids).decode("utf-8", errors="replace")
        known = [int(token) for token in ids]
        if not self._has_byte_tokens:
            return self._fast.decode(known, skip_special_tokens=False)
        spelled = [text for token in known if (text := self._fast.id_to_token(token)) is not None]
        return self._fast.decoder.decode(with_broken_bytes_replaced(spelled))

    def open_decoder(self, after: Sequence[int] = ()) -> TextDecoder:
        return Utf8Decoder(self.decode_bytes) if self._is_byte_level else WindowDecoder(self.decode, after)

    def render(
        self, conversation: Conversation, *, train_on: TrainOn = "assistant", add_generation_prompt: bool = False
    ) -> RenderedConversation:
        """Render as transformers' `apply_chat_template` does; the targets are answers and the special token after each.

        If the template writes no generation prompt, its frame before the answer is trained too: only the model will
        write it.

        Raises:
            InputError: there is no chat template, it refuses the conversation, or it leaves an answer out.
        """
        if self.template is None:
            raise InputError(
                f"{self.where.parent} has a tokenizer but no chat template, so conversations cannot be rendered"
            )
        answers = [place for place, message in enumerate(conversation.messages) if message.role == "assistant"]
        targets = answers[-1:] if train_on == "last" else answers
        located = self.template.locate(conversation, add_generation_prompt=add_generation_prompt)
        for place in targets:
            if located.spans[place] is None and not add_generation_prompt:
                raise InputError(f"{self.template.where} leaves out message {place + 1}, an answer: it has no target")
        text, spans = self._spelled(located.text, located.spans)
        encoding = self._framed.encode(text, add_special_tokens=False)
        ids_T = self._meaning[np.array(encoding.ids, dtype=np.int64)]
        offsets_T2 = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        trained_T = np.zeros(len(ids_T), dtype=np.bool_)
        for place in targets:
            if (span := spans[place]) is not None:
                start = span[0] - self._unasked(conversation, place, located)
                trained_T |= (offsets_T2[:, 1] > start) & (offsets_T2[:, 0] < self._with_end(text, span))
        trained_T[:1] = False  # no token before it could predict it
        return RenderedConversation(ids_T.tolist(), trained_T.tolist())

    def _spelled(self, text: str, spans: Sequence[Span | None]) -> tuple[str, list[Span | None]]:
        """The text with its frame's special tokens in their secret spelling, and the spans of the contents in it."""
        parts: list[str] = []
        moved: list[Span | None] = [None] * len(spans)
        done = length = 0
        in_order = sorted((span, number) for number, span in enumerate(spans) if span is not None)
        for (start, end), number in in_order:
            frame = self._secret(text[done:start])
            content = _without_surrogates(text[start:end])
            parts += [frame, content]
            moved[number] = (length + len(frame), length + len(frame) + len(content))
            length += len(frame) + len(content)
            done = end
        parts.append(self._secret(text[done:]))
        return "".join(parts), moved

    def _secret(self, frame: str) -> str:
        if self._special_pattern is None:
            return frame
        return self._special_pattern.sub(lambda found: _secret_spelling(self.special_ids[found[0]]), frame)

    def _unasked(self, conversation: Conversation, place: int, located: LocatedText) -> int:
        """Length, in the secret spelling, of the frame before an answer that the model has to write by itself."""
        span = located.spans[place]
        if self.template is None or span is None or self.template.asks:
            return 0
        try:
            before = self.template.render(to_plain(conversation)[:place], add_generation_prompt=True)
        except InputError:
            return 0
        if not located.text.startswith(before) or len(before) > span[0]:
            return 0
        return len(self._secret(located.text[len(before) : span[0]]))

    def _with_end(self, text: str, span: Span) -> int:
        """End of a trained span: after the special token that follows, if only white space stands between."""
        following = re.compile(rf"\s*<{_NONCE}-\d+>").match(text, span[1])
        return span[1] if following is None else following.end()

    @cached_property
    def _special_pattern(self) -> re.Pattern[str] | None:
        spellings = sorted(self.special_ids, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, spellings))) if spellings else None

    @cached_property
    def _framed(self) -> FastTokenizer:
        """The tokenizer that encodes: special tokens have their secret spelling only, in the model's vocabulary too.

        (Merges can make a special token out of its letters if it is in the vocabulary.)
        """
        added = [
            {**token, "content": _secret_spelling(token["id"])} if token["special"] else token
            for token in self._data["added_tokens"]
        ]
        secret = {text: _secret_spelling(token) for text, token in self.special_ids.items()}
        model = _respelled(self._data["model"], {text: secret[text] for text in secret if not BYTE_TOKEN.match(text)})
        data = {**self._data, "model": model, "added_tokens": added, "post_processor": None}
        return _open(data, where=self.where)

    @cached_property
    def _meaning(self) -> NDArray[np.int64]:
        """Id in `_framed` -> id. Added tokens have new ids there: their spelling is not in the model's vocabulary."""
        meaning = np.arange(1 + max(self._framed.get_vocab(with_added_tokens=True).values()))
        for token in self._data["added_tokens"]:
            spelling = _secret_spelling(token["id"]) if token["special"] else token["content"]
            meaning[self._framed.token_to_id(spelling)] = token["id"]
        return meaning

    @cached_property
    def _answer_end(self) -> int | None:
        if self.template is None:
            return None
        try:
            talk = Conversation((Message("user", "a"), Message("assistant", "b")))
            rendered = self.render(talk)
        except InputError:
            return None
        last = [token for token, flag in zip(rendered.ids, rendered.trained, strict=True) if flag][-1:]
        if last and last[0] in self.special_ids.values():
            return int(last[0])
        logger.warning("%s ends no answer with a special token: a model would not learn to stop", self.template.where)
        return None

    def _end_of_text(self) -> int:
        name = self._named.get("eos_token")
        if not isinstance(name, str) or name not in self.special_ids:
            said = "names no eos_token" if name is None else f"names the eos_token {brief(name)}, no token of it"
            raise InputError(
                f"{self.where.parent}: {TOKENIZER_CONFIG} {said}: which token ends a text must be known; add it"
            )
        return self.special_ids[name]

    @cached_property
    def _is_byte_level(self) -> bool:
        return (self._data.get("decoder") or {}).get("type") == "ByteLevel"

    @cached_property
    def _has_byte_tokens(self) -> bool:
        return '"ByteFallback"' in json.dumps(self._data.get("decoder"))

    @cached_property
    def _known_bytes(self) -> dict[int, bytes]:
        return {}

    def _token_bytes(self, token: int) -> bytes:
        if token not in self._known_bytes:
            self._known_bytes[token] = self._find_bytes(token)
        return self._known_bytes[token]

    def _find_bytes(self, token: int) -> bytes:
        spelled = self._fast.id_to_token(token) if token >= 0 else None
        if spelled is None:
            return b""
        if self._is_byte_level:
            letters = [self._byte_of.get(letter) for letter in spelled]
            return spelled.encode() if None in letters else bytes(letters)  # pyright: ignore[reportArgumentType]
        if byte := BYTE_TOKEN.fullmatch(spelled):
            return bytes([int(byte[1], 16)])
        if spelled in self.special_ids:
            return spelled.encode()
        before = self._fast.encode("a", add_special_tokens=False).ids
        alone = self._fast.decode(before, skip_special_tokens=False)
        both = self._fast.decode([*before, token], skip_special_tokens=False)
        return both[len(alone) :].encode()

    @cached_property
    def _byte_of(self) -> dict[str, int]:
        return {letter: byte for byte, letter in byte_letters().items()}


def _prepared(data: dict[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """The file's content with every named token among its special ones, and without truncation and padding."""
    vocabulary = data["model"].get("vocab")
    names = {text for value in named.values() for text in (value if isinstance(value, list) else [value])}
    added = [{**token, "special": token.get("special") or token["content"] in names} for token in data["added_tokens"]]
    known = {token["content"] for token in added}
    for name in sorted(names - known):
        if isinstance(vocabulary, dict) and name in vocabulary:
            plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            added.append({"id": vocabulary[name], "content": name, **plain, "special": True})
    return {**data, "added_tokens": added, "truncation": None, "padding": None}


def _respelled(model: Mapping[str, Any], spelling: Mapping[str, str]) -> dict[str, Any]:
    """A model in which some tokens have another spelling, and no merge makes them."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):  # pieces and their scores
        return {**model, "vocab": [[spelling.get(piece, piece), score] for piece, score in vocabulary]}
    respelled = {**model, "vocab": {spelling.get(text, text): token for text, token in (vocabulary or {}).items()}}
    if "merges" in model:
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        respelled["merges"] = [pair for pair in pairs if not {"".join(pair), *pair} & spelling.keys()]
    if model.get("unk_token") in spelling:
        respelled["unk_token"] = spelling[model["unk_token"]]
    return respelled


def _open(data: Mapping[str, Any], *, where: Path) -> FastTokenizer:
    from tokenizers import Tokenizer as FastTokenizer

    try:
        return FastTokenizer.from_str(json.dumps(data))
    except Exception as error:  # the library raises no narrower type
        raise InputError(f"{where} is not a tokenizer.json that can be read: {error}") from None


def _text_start(fast: FastTokenizer) -> tuple[int, ...]:
    """The tokens that the file's post-processor prepends to a text; those it appends are for models of another kind."""
    encoding = fast.encode("a", add_special_tokens=True)
    first = encoding.special_tokens_mask.index(0) if 0 in encoding.special_tokens_mask else 0
    return tuple(encoding.ids[:first])


def _secret_spelling(token: int) -> str:
    return f"<{_NONCE}-{token}>"


def _without_surrogates(text: str) -> str:
    """A lone surrogate, which UTF-8 cannot hold, as U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
