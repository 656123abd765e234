"""Activations of the 14B model at 16K and 32K tokens, counted by hand tensor by tensor, and what the dry run says.

Tensor 2 x pipeline 4 with sequence parallelism, in bfloat16, a row to a micro-batch, flash attention, as
`phi4_14b_sft` trains. Numbers are of one tensor rank's share of a token in one layer unless they say otherwise.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from megaphi.cli import main
from megaphi.engine.run_config import RunConfig, check
from megaphi.planning.memory import rank_memory
from megaphi.recipes import load_recipe

WIDTH, QUERIES, KEYS, FEED_FORWARD, HEADS, VOCABULARY = 5_120, 5_120, 1_280, 17_920, 40, 100_352
BYTES = 2
RESIDUALS = 4 * WIDTH * BYTES // 2
"""Inputs of both norms and of both column-parallel matrices, shared by sequence parallelism."""
GATE_AND_UP = 2 * FEED_FORWARD * BYTES // 2
SUMS = HEADS * 4 // 2
"""The softmax's sum of every head, in fp32."""
LAYER = {
    # The QKV product, the queries once more (five groups put next to each other), and the result.
    1: RESIDUALS + GATE_AND_UP + (QUERIES + 2 * KEYS + QUERIES + QUERIES) * BYTES // 2 + SUMS,
    # Queries, result, keys and values: of 5 chunks for the 2 that a rank holds; of 9 for 2.
    2: RESIDUALS + GATE_AND_UP + (QUERIES + QUERIES + 2 * KEYS * 5 // 2) * BYTES // 2 + SUMS,
    4: RESIDUALS + GATE_AND_UP + (QUERIES + QUERIES + 2 * KEYS * 9 // 2) * BYTES // 2 + SUMS,
}
"""Bytes by number of context ranks."""
LAYER_INPUT = SENT_ON = WIDTH * BYTES // 2


def sft(*, length: int, context: int, **fields: object) -> RunConfig:
    run = load_recipe("phi4_14b_sft")
    layout = replace(run.layout, context=context)
    run = replace(run, layout=layout, batch=replace(run.batch, sequence_length=length), **fields)
    return check(run, world_size=8 * context)


def activations(run: RunConfig) -> list[int]:
    return [stage.activations for stage in rank_memory(run, [1_960_939_520] * 4)]


def test_bytes_of_a_layer() -> None:
    assert LAYER == {1: 74_320, 2: 73_040, 4: 78_160}


@pytest.mark.parametrize("context", LAYER)
@pytest.mark.parametrize("length", [16_384, 32_768])
def test_the_first_stage_keeps_four_micro_batches_of_ten_layers(length: int, context: int) -> None:
    tokens = length // context
    assert activations(sft(length=length, context=context))[0] == tokens * 4 * (10 * LAYER[context] + SENT_ON)
    # Whole layers again: their inputs, and all of one but its input.
    again = tokens * (4 * (10 * LAYER_INPUT + SENT_ON) + LAYER[context] - LAYER_INPUT)
    assert activations(sft(length=length, context=context, recompute="full"))[0] == again


@pytest.mark.parametrize("context", LAYER)
def test_the_last_stage_has_the_logits_of_2048_tokens_at_once(context: int) -> None:
    """One micro-batch; the final norm's input, the output matrix's input and that input gathered, and logits."""
    tokens = 32_768 // context
    top = tokens * (2 * WIDTH * BYTES // 2 + WIDTH * BYTES) + 2_048 * VOCABULARY * BYTES // 2
    run = sft(length=32_768, context=context)
    assert activations(run)[3] == tokens * 10 * LAYER[context] + top
    whole = replace(run, model=replace(run.model, loss_chunk_tokens=0))
    logits = tokens * VOCABULARY * BYTES // 2
    assert activations(whole)[3] == tokens * (10 * LAYER[context] + 2 * WIDTH * BYTES // 2) + logits


def test_recomputed_attention_spares_the_keys_of_whole_rows() -> None:
    """Kept are its inputs and its result, as on one rank; what a layer computes again is less than its MLP was."""
    first = activations(sft(length=16_384, context=4, recompute="selective"))[0]
    assert first == 4_096 * 4 * (10 * (LAYER[1] - SUMS) + SENT_ON)


@pytest.mark.parametrize(("context", "said"), [(1, "49.04 GB"), (2, "24.10 GB"), (4, "12.89 GB")])
def test_the_dry_run_says_it(context: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "phi4_14b_sft", "--dry-run", f"layout.context={context}"]) == 0
    first = re.search(r"^ +0 +1,960,939,520 .*$", capsys.readouterr().out, re.MULTILINE)
    assert first is not None
    assert said in first[0]
