"""SmolLM2-135M-Instruct, a real model, in the engine: from its GGUF file, through a checkpoint, and out again.

`transformers` reads the same file with code of its own and is what everything is compared with: logits on real text,
greedy continuations token by token, the exported folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megaphi.checkpoint.model_tokenizer import tokenizer_of as tokenizer_of_model
from megaphi.conversation import Conversation, Message
from megaphi.conversion.formats.gguf.gguf_file import decoded
from megaphi.conversion.formats.gguf.weights import GgufWeights
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.errors import InputError
from megaphi.model.weights import weights_of
from megaphi.parallel.layout import ParallelLayout
from tests.conversion.formats.gguf.gguf_tokenizers import byte_level_ids
from tests.conversion.parity_runs import compare_logits, greedy
from tests.gloo_world import run_in_world
from tests.smollm2_model import TENSOR_3, gguf_file, in_transformers, three_rank_checkpoint, tokenizer_of

PASSAGES = Path(__file__).parents[1] / "golden" / "passages.txt"
PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n",
    "Water boils at a temperature of",
    "Once upon a time, a small",
)
ATOL = 1e-4
"""Logits reach 40."""


@pytest.fixture(scope="module")
def gguf() -> Path:
    return gguf_file()


@pytest.fixture(scope="module")
def theirs(gguf: Path) -> Any:
    return in_transformers(gguf)


@pytest.fixture(scope="module")
def tokenizer(gguf: Path) -> Any:
    return tokenizer_of(gguf)


@pytest.fixture(scope="module")
def passages(tokenizer: Any) -> np.ndarray:
    """Four passages of 128 tokens, prose with figures and commands; a text of its own, that nobody has to edit."""
    return np.array(tokenizer(PASSAGES.read_text())["input_ids"][: 4 * 128]).reshape(4, 128)


@pytest.fixture(scope="module")
def expected_logits(theirs: Any, passages: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return theirs(torch.from_numpy(passages)).logits.numpy()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_rank_checkpoint(tmp_path_factory)


@pytest.mark.parametrize("layout", [ParallelLayout(), TENSOR_3], ids=["1", "TP3"])
def test_logits_on_real_text(
    gguf: Path,
    checkpoint: Path,
    passages: np.ndarray,
    expected_logits: np.ndarray,
    layout: ParallelLayout,
    tmp_path: Path,
) -> None:
    """One process reads the GGUF file itself, three ranks the checkpoint made of it; each compares what it has."""
    source = gguf if layout.tensor == 1 else checkpoint
    np.save(tmp_path / "expected.npy", expected_logits)
    expected = str(tmp_path / "expected.npy")
    run_in_world(compare_logits, str(source), layout, passages, expected, ATOL, processes=layout.tensor)


def their_choices(theirs: Any, prompt: list[int], answer: list[int]) -> list[int]:
    """transformers' greedy choice after the prompt and each beginning of `answer`, in one pass over all of them.

    Where all are the answer's own tokens, its greedy continuation is the answer: each was chosen after the ones before.
    """
    with torch.no_grad():
        logits_BTV = theirs(torch.tensor([prompt + answer[:-1]]), logits_to_keep=len(answer)).logits
    return logits_BTV[0].argmax(dim=-1).tolist()


@pytest.mark.parametrize(("layout", "tokens"), [(ParallelLayout(), 64), (TENSOR_3, 16)], ids=["1", "TP3"])
def test_greedy_continuations(
    theirs: Any, tokenizer: Any, checkpoint: Path, layout: ParallelLayout, tokens: int
) -> None:
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    ranks = run_in_world(greedy, str(checkpoint), layout, prompts, tokens, processes=layout.tensor)
    assert all(rank == ranks[0] for rank in ranks)
    assert [len(answer) for answer in ranks[0]] == [tokens] * len(PROMPTS)
    for prompt, answer in zip(prompts, ranks[0], strict=True):
        assert answer == their_choices(theirs, prompt, answer)


def test_the_exported_folder_is_the_same_function(
    checkpoint: Path, passages: np.ndarray, expected_logits: np.ndarray, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    folder = to_huggingface(checkpoint, tmp_path / "out", tokenizer=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        found = model(torch.from_numpy(passages)).logits.numpy()
    np.testing.assert_allclose(found, expected_logits, rtol=0, atol=ATOL)


def test_any_rows_are_those_of_the_whole(gguf: Path) -> None:
    """Blocks that begin and end within a head, where rows are put in another order."""
    reader = GgufWeights(gguf)
    for name in ("decoder.layers.7.self_attention.linear_qkv.weight", "decoder.layers.0.mlp.linear_fc1.weight"):
        rows = next(weight.rows for weight in weights_of(reader.architecture) if weight.name == name)
        whole = reader.rows(name, 0, rows)
        for start, end in ((0, 1), (5, 70), (63, 65), (rows - 33, rows), (100, 500)):
            assert torch.equal(reader.rows(name, start, end), whole[start:end])
    norm = reader.rows("decoder.final_layernorm.weight", 0, 576)
    assert torch.equal(reader.rows("decoder.final_layernorm.weight", 100, 200), norm[100:200])


def test_the_tokenizer_inside_is_that_of_llama_cpp(gguf: Path) -> None:
    """Its merges over a text of ours, by llama.cpp's own rules; the chat format is the file's."""
    reader = GgufWeights(gguf)
    found = tokenizer_of_model(reader)
    assert found is not None
    fields = {name: decoded(value) for name, value in reader._tokenizer.items()}
    text = PASSAGES.read_text()
    for words in (text, "In 2026: 12345.678 don't\n\n\tStraße, 東京, नमस्ते <|im_start|>"):
        assert found.encode(words) == byte_level_ids(fields, words)
    rendered = found.render(Conversation((Message("user", "a"),)), add_generation_prompt=True)
    assert found.decode(rendered.ids).endswith("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n")
    assert (found.vocabulary_size, found.stop_tokens) == (49_152, {2})


def damaged(gguf: Path, folder: Path, change: Any) -> Path:
    content = bytearray(gguf.read_bytes())
    path = folder / "damaged.gguf"
    path.write_bytes(change(content))
    return path


def replaced(old: bytes, new: bytes) -> Any:
    """The first `old` becomes `new`, of the same length."""
    assert len(old) == len(new)
    return lambda content: content.replace(old, new, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1000], r"is truncated|corrupted or truncated"),
        (lambda content: content[:50_000_000], r"is truncated|corrupted or truncated"),
        (lambda content: content[:100_000], "corrupted or truncated"),
        (lambda content: content[:30], "corrupted or truncated"),
        (replaced(b"blk.3.attn_q.weight", b"blk.3.attn_x.weight"), r"missing \['blk\.3\.attn_q.*unknown \['blk\.3"),
        (replaced(b"llama.embedding_length", b"llama.embedding_lxngth"), r"llama\.embedding_lxngth=576: not supported"),
    ],
    ids=["last bytes", "tensors", "metadata", "header", "a tensor's name", "a field's name"],
)  # fmt: skip
def test_damage_is_one_message(gguf: Path, tmp_path: Path, change: Any, message: str) -> None:
    path = damaged(gguf, tmp_path, change)
    with pytest.raises(InputError, match=message) as caught:
        GgufWeights(path)
    assert str(path) in str(caught.value)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "other.gguf", "gpt2")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"other\.gguf holds a model of the architecture 'gpt2'"):
        GgufWeights(tmp_path / "other.gguf")
