"""Conversion of the tokenizer inside a GGUF file to the files that Hugging Face's libraries and ours read.

llama.cpp stores tokens with their types, and merges (byte-level BPE, `gpt2`) or scores (SentencePiece's BPE, `llama`).
Of pre-tokenization it stores only a name (splits.py); merges follow from scores, because the better piece is merged
first. Tokens of type control or unknown are special, user-defined ones are ordinary added tokens, and unused ones,
which pad the embedding, are dropped. A tokenizer that cannot be converted exactly is refused, with the remedy.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from megaphi.conversion.formats.gguf.splits import SPLITS, Split
from megaphi.conversion.formats.side_files import GENERATION_CONFIG
from megaphi.errors import InputError
from megaphi.tokenizer.tokenizer_files import TOKENIZER_CONFIG, TOKENIZER_JSON

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""llama.cpp's types of a token."""
NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",  # llama.cpp's spelling
    "mask_token": "mask_token_id",
}
"""transformers' name of a special token -> the key (after `tokenizer.ggml.`) of its id."""
ALSO_END = ("eot_token_id", "eom_token_id")
_HONOURED = {"model", "pre", "tokens", "token_type", "merges", "scores", "add_bos_token", "add_eos_token"}
_NEUTRAL: Mapping[str, Callable[[Any, str], bool]] = {
    "add_space_prefix": lambda value, kind: kind == "llama" or not value,
    "add_sep_token": lambda value, kind: not value,
    "remove_extra_whitespaces": lambda value, kind: not value,
    "precompiled_charsmap": lambda value, kind: not value,
    "token_type_count": lambda value, kind: True,
    "cls_token_id": lambda value, kind: True,
}
"""Keys after `tokenizer.ggml.`, with the values at which they change no id."""
_INFILLING = ("fim_", "prefix_token_id", "suffix_token_id", "middle_token_id")
"""Prefixes of keys that name tokens for uses that we do not have."""
SPACE = "▁"


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """The tokens of a file by kind; no two have the same text."""

    plain: dict[str, int]
    """Text -> id of the tokens that merges make."""
    added: list[tuple[int, str, bool]]
    """(id, text, is special) of the added tokens, by id."""

    def text_of(self, token: int) -> str:
        return next(text for text, found in [*self.plain.items(), *self._added()] if found == token)

    def of_the_model(self) -> dict[str, int]:
        """As a tokenizer.json has it: added tokens are repeated where the ids have no end without them."""
        largest = max(self.plain.values(), default=-1)
        inner = {text: token for text, token in self._added() if token < largest}
        outer = [token for token, _, _ in self.added if token > largest]
        count = len(self.plain) + len(inner)
        if outer != list(range(count, count + len(outer))):
            inner = dict(self._added())
        return {**self.plain, **inner}

    def _added(self) -> list[tuple[str, int]]:
        return [(text, token) for token, text, _ in self.added]


def tokenizer_files(path: Path, fields: Mapping[str, Any], *, context: int) -> dict[str, Path]:
    """Write the tokenizer of a GGUF file as files; returns name -> path, valid until this process ends.

    Args:
        path: the file, for messages.
        fields: its metadata by name; only those of the tokenizer are used.
        context: the model's longest text in tokens, for programs that warn of longer ones.

    Raises:
        InputError: its kind or its pre-tokenization is not known here.
    """
    own = {name.removeprefix("tokenizer."): value for name, value in fields.items() if name.startswith("tokenizer.")}
    content = _Reading(path, own).files(context)
    folder = Path(tempfile.mkdtemp(prefix=f"{path.name}.", dir=_scratch())) if content else path
    for name, text in content.items():
        (folder / name).write_text(text, encoding="utf-8")
    return {name: folder / name for name in content}


@cache
def _scratch() -> str:
    """This process's folder for tokenizers of GGUF files, which open tokenizers read on demand."""
    folder = tempfile.mkdtemp(prefix="megaphi.")
    options = {"ignore_errors": True}
    Finalize(None, shutil.rmtree, args=(folder,), kwargs=options, exitpriority=0)  # ranks do not run atexit's functions
    return folder


class _Reading:
    """One file's tokenizer."""

    def __init__(self, path: Path, fields: Mapping[str, Any]) -> None:
        self._path = path
        self._chat = {name: value for name, value in fields.items() if name.startswith("chat_template")}
        self._own = {name.removeprefix("ggml."): value for name, value in fields.items() if name.startswith("ggml.")}
        self._kind = self._own.get("model")

    def files(self, context: int) -> dict[str, str]:
        """Name -> content of the files; none if the file has no tokenizer."""
        if self._kind in (None, "none", "no_vocab"):
            return {}
        if self._kind not in ("gpt2", "llama"):
            self._refuse(
                f"tokenizer.ggml.model={self._kind!r} is none of gpt2 (byte-level BPE) and llama (SentencePiece)"
            )
        self._check_keys()
        vocabulary = self._vocabulary()
        named = {name: vocabulary.text_of(self._own[key]) for name, key in NAMED.items() if key in self._own}
        if "eos_token" not in named:
            self._refuse("tokenizer.ggml.eos_token_id is missing: which token ends a text must be known")
        fast = self._byte_level(vocabulary) if self._kind == "gpt2" else self._sentencepiece(vocabulary, named)
        self._add_tokens(fast, vocabulary)
        self._frame_texts(fast, named)
        configuration = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **named,
            "model_max_length": context,
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
            **self._chat_templates(),
        }
        return {
            TOKENIZER_JSON: fast.to_str(),
            TOKENIZER_CONFIG: json.dumps(configuration, ensure_ascii=False, indent=2),
            **self._generation_config(),
        }

    def _refuse(self, reason: str) -> NoReturn:
        raise InputError(
            f"the tokenizer in {self._path} cannot be read exactly: {reason}. Import the model without it, megaphi"
            " convert to-checkpoint --no-tokenizer, or with --tokenizer FOLDER too, its tokenizer.json from elsewhere"
        )

    def _check_keys(self) -> None:
        for name, value in self._own.items():
            known = name in {*_HONOURED, *NAMED.values(), *ALSO_END} or name.startswith(_INFILLING)
            if not known and not (name in _NEUTRAL and _NEUTRAL[name](value, str(self._kind))):
                self._refuse(f"tokenizer.ggml.{name}={value!r} is not supported")

    def _vocabulary(self) -> _Vocabulary:
        texts, types = self._own.get("tokens") or [], self._own.get("token_type") or []
        if not texts or len(texts) != len(types):
            self._refuse(f"it has {len(texts):,} tokens and the types of {len(types):,}")
        ids = {self._own[key] for key in (*NAMED.values(), *ALSO_END) if key in self._own}
        if wrong := [token for token in ids if not 0 <= token < len(texts)]:
            self._refuse(f"it names the special token {wrong[0]}, and has {len(texts):,}")
        plain: dict[str, int] = {}
        added: list[tuple[int, str, bool]] = []
        for token, (text, kind) in enumerate(zip(texts, types, strict=True)):
            if kind in (NORMAL, BYTE):
                plain[text] = token
            elif kind in (CONTROL, UNKNOWN, USER_DEFINED) or token in ids:
                added.append((token, text, kind != USER_DEFINED))
            elif kind != UNUSED:
                self._refuse(f"token {token} ({text!r}) has the type {kind}")
        spellings = {*plain, *(text for _, text, _ in added)}
        if len(spellings) < sum(kind in (NORMAL, BYTE) for kind in types) + len(added) or "" in spellings:
            self._refuse("two of its tokens have the same text, or one has none")
        return _Vocabulary(plain, added)

    def _byte_level(self, vocabulary: _Vocabulary) -> FastTokenizer:
        from tokenizers import Tokenizer, decoders, models, normalizers

        name = self._own.get("pre")
        if not isinstance(name, str) or name not in SPLITS:
            self._refuse(f"tokenizer.ggml.pre={name!r}, the pre-tokenizer, is not one of {', '.join(SPLITS)}")
        split, texts = SPLITS[name], vocabulary.of_the_model()
        merges = [self._pair(merge, texts) for merge in self._own.get("merges") or []]
        fast = Tokenizer(models.BPE(texts, merges, ignore_merges=split.whole_pieces))
        fast.normalizer = normalizers.NFC() if split.composed else None
        fast.pre_tokenizer = split.pre_tokenizer()
        fast.decoder = decoders.ByteLevel()
        return fast

    def _pair(self, merge: str, texts: Mapping[str, int]) -> tuple[str, str]:
        left, _, right = merge.partition(" ")
        if not {left, right, left + right} <= texts.keys():
            self._refuse(f"the merge {merge!r} is not of its tokens")
        return left, right

    def _sentencepiece(self, vocabulary: _Vocabulary, named: Mapping[str, str]) -> FastTokenizer:
        from tokenizers import Tokenizer, decoders, models, normalizers

        has_prefix = bool(self._own.get("add_space_prefix", True))
        model = models.BPE(
            vocabulary.of_the_model(),
            self._merges(vocabulary.plain),
            unk_token=named.get("unk_token"),
            fuse_unk=True,
            byte_fallback=True,
        )
        fast = Tokenizer(model)
        before = [normalizers.Prepend(SPACE)] if has_prefix else []
        fast.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", SPACE)])
        after = [decoders.Strip(" ", 1, 0)] if has_prefix else []
        fast.decoder = decoders.Sequence(
            [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
        )
        return fast

    def _merges(self, plain: Mapping[str, int]) -> list[tuple[str, str]]:
        """Every way to make a piece of two others, the best piece first; of one piece the longest left part first."""
        scores, types = self._own.get("scores") or [], self._own["token_type"]
        if len(scores) != len(types):
            self._refuse(f"it has {len(types):,} tokens and scores of {len(scores):,}")
        pieces = {text for text, token in plain.items() if types[token] == NORMAL}
        found: list[tuple[float, list[tuple[str, str]]]] = []
        for text in pieces:
            cuts = [(text[:place], text[place:]) for place in range(len(text) - 1, 0, -1)]
            if pairs := [pair for pair in cuts if pieces.issuperset(pair)]:
                found.append((scores[plain[text]], pairs))
        if len({score for score, _ in found}) < len(found):
            self._refuse("several pieces have one score, so that it does not say which is merged first")
        return [pair for _, pairs in sorted(found, reverse=True) for pair in pairs]

    def _add_tokens(self, fast: FastTokenizer, vocabulary: _Vocabulary) -> None:
        from tokenizers import AddedToken

        for token, text, special in vocabulary.added:
            one = AddedToken(text, normalized=False, special=special)
            fast.add_special_tokens([one]) if special else fast.add_tokens([one])
            if fast.token_to_id(text) != token:
                self._refuse(f"the added token {token} ({text!r}) does not keep its id")

    def _frame_texts(self, fast: FastTokenizer, named: Mapping[str, str]) -> None:
        """Return the texts that frame every encoded text, in front and at the end."""
        from tokenizers import processors

        split = SPLITS[self._own["pre"]] if self._kind == "gpt2" else Split(begins=True)
        begins, ends = self._own.get("add_bos_token", split.begins), self._own.get("add_eos_token", False)
        if begins and "bos_token" not in named:
            self._refuse("a text begins with the token tokenizer.ggml.bos_token_id, which is missing")
        around = ([named["bos_token"]] if begins else [], [named["eos_token"]] if ends else [])
        if begins or ends:
            single = [*around[0], "$A", *around[1]]
            pair = [*single, *(f"{piece}:1" for piece in [*around[0], "$B", *around[1]])]
            specials = {text: fast.token_to_id(text) for text in (*around[0], *around[1])}
            fast.post_processor = processors.TemplateProcessing(
                single=single, pair=pair, special_tokens=list(specials.items())
            )
        elif self._kind == "gpt2":
            fast.post_processor = processors.ByteLevel(trim_offsets=False)

    def _chat_templates(self) -> dict[str, Any]:
        """As tokenizer_config.json has one, or several with names."""
        default = self._chat.get("chat_template")
        others = {name.removeprefix("chat_template."): text for name, text in self._chat.items() if "." in name}
        if not others:
            return {} if default is None else {"chat_template": default}
        every = {**({} if default is None else {"default": default}), **others}
        return {"chat_template": [{"name": name, "template": text} for name, text in every.items()]}

    def _generation_config(self) -> dict[str, str]:
        """Return the generation_config.json that lists the end tokens, if there is more than one."""
        ends: Sequence[int] = sorted({self._own[key] for key in ("eos_token_id", *ALSO_END) if key in self._own})
        if len(ends) < 2:
            return {}
        fields = {"eos_token_id": ends}
        for name, key in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
            if key in self._own:
                fields[name] = self._own[key]
        return {GENERATION_CONFIG: json.dumps(fields, indent=2)}
