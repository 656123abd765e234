"""A byte-level tokenizer made in the test, in the files that transformers writes, with any chat template."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|h|>' + m['role'] + '<|/h|>\n\n' + m['content'] | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|h|>assistant<|/h|>\n\n' }}{% endif %}"
)
SYSTEM_WITHIN_USER = (
    "{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (s if loop.first else '') + m['content'] + ' [/INST]' }}{% else %}"
    "{% generation %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
WITHOUT_SYSTEM = (
    "{% for m in messages %}{% if m['role'] != 'system' %}<|im_start|>{{ m['role'] }}:{{ m['content'] }}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "llama 3": LLAMA3,
    "system within user": SYSTEM_WITHIN_USER,
    "without system": WITHOUT_SYSTEM,
}
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|h|>", "<|/h|>", "<|eot|>"]
CORPUS = [
    "hello there, how are you",
    "bye and thanks, see you\n\n",
    "system user assistant Be brief.",
    "the quick brown fox jumps over the lazy dog while seven wizards mix quartz",
    "def add(left, right):\n    return left + right\n",
    "Straße, naïve café, 東京 and Δx = 3.14159; <|im_end|>",
]

PASSAGES = Path(__file__).parents[1] / "golden" / "passages.txt"


def write_tokenizer(
    folder: Path, *, template: str | None = CHATML, vocabulary: int = 1_000, metaspace: bool = False, bos: bool = False
) -> Any:
    """Train and write a tokenizer; returns transformers' own view of it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if metaspace:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet, special = [], ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet, special = pre_tokenizers.ByteLevel.alphabet(), SPECIAL
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*CORPUS, PASSAGES.read_text()], trainer)
    if bos:
        start = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    if template is not None:
        fast.chat_template = template
    fast.save_pretrained(folder)
    return fast


def write_large_tokenizer(folder: Path, *, vocabulary: int) -> None:
    """Exactly `vocabulary` tokens: bytes, pairs of bytes, words of three letters; last the pairs of English words."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    small = [letter for letter in letters if letter in f"{string.ascii_lowercase}Ġ"]  # and a space
    seldom = [letter for letter in letters if letter not in small]
    pairs = [(left, right) for left in [*seldom, *small] for right in [*seldom, *small]]
    threes = [(left + middle, right) for left in small for middle in small for right in small]
    count = vocabulary - len(letters) - len(SPECIAL)
    merges = [*pairs[-count:], *threes[: max(count - len(pairs), 0)]]
    by_id = sorted(merges, key=lambda merge: set(merge) <= set(small))
    vocabulary_of = {text: number for number, text in enumerate([*letters, *(left + right for left, right in by_id)])}
    added = [
        {"id": len(vocabulary_of) + number, "content": text, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for number, text in enumerate(SPECIAL)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": vocabulary_of, "merges": [list(merge) for merge in merges]}
    content = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": model,
    }
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": CHATML}))
