"""Mid-training, from the ledger of pretraining to the exported folder, beyond the length of pretraining.

A model is pretrained on rows of 64 tokens and mid-trained on rows of 256 with another rotary base. Its weights are
large enough that positions matter: with the old base, transformers gives other logits than ours.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture, Source
from megaphi.engine.run_config import RunConfig, check
from megaphi.engine.run_sections import TrainingLength
from megaphi.files import read_json
from megaphi.recipes import load_recipe
from megaphi.stages.pretrain import Pretrain, mixture_of
from tests.engine.layout_runs import TINY, tiny_run
from tests.gloo_world import run_in_world
from tests.stages.mixture_runs import pretrain_here
from tests.stages.stage_runs import with_sections
from tests.stages.test_mixture_changes import VOCABULARY, write_tokens

SHORT, LONG, BASE = 64, 256, 250_000.0
SHAPE = replace(TINY, vocabulary=VOCABULARY, initial_std=0.3)
WRITTEN = 40


def stages(runs: list[RunConfig]) -> list[dict[str, Any]]:
    return [pretrain_here(run) for run in runs]


def ours(folder: str, tokens_BS: np.ndarray, prompt: list[int], count: int) -> dict[str, Any]:
    """The rotary tables, the logits and losses of these rows, and a greedy continuation."""
    from megaphi.engine.inference.forward_only import logits_of, next_token_losses, open_model
    from megaphi.generation.decoding.generate import generate
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.sampling import Sampling

    model = open_model(open_weights(folder))
    found = {"logits": logits_of(model, tokens_BS), "table": model.module.rotary_pos_emb(tokens_BS.shape[1], None)}
    ((answer,),) = generate(InferenceEngine(model, slots=1), [prompt], Sampling(max_tokens=count, temperature=0.0))
    return {**found, "losses": next_token_losses(model, tokens_BS), "written": answer.tokens}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, RunConfig]:
    """Pretraining on two sources; mid-training on those and on documents of at least 300 tokens."""
    folder = tmp_path_factory.mktemp("midtraining")
    for number, (name, tokens) in enumerate({"web": 9_000, "code": 7_000}.items()):
        write_tokens(folder / name, tokens, seed=number)
    write_books(folder / "books")
    recall = tuple(Source(name=name, weight=0.35, paths=(str(folder / name),)) for name in ("web", "code"))
    books = Source(name="books", weight=0.3, paths=(str(folder / "books"),), windows="documents", shortest_document=300)
    before = tiny_run(
        folder=str(folder / "pretraining"),
        training=TrainingLength(steps=8),
        model=SHAPE,
        batch=BatchShape(sequence_length=SHORT, global_batch=8, micro_batch=4),
        task=Pretrain(mixture=Mixture(sources=recall, block_tokens=LONG)),
    )
    after = replace(
        before,
        folder=str(folder / "midtraining"),
        model=replace(SHAPE, rotary_base=BASE),
        batch=BatchShape(sequence_length=LONG, global_batch=2, micro_batch=1),
        task=Pretrain(mixture=Mixture(sources=(*recall, books))),
    )
    return before, with_sections(after, initial_checkpoint=before.folder, continue_sources=True)


def write_books(prefix: Path) -> None:
    """Some documents shorter than the 300 tokens that are asked for, and some longer than a window or two."""
    from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
    from megaphi.tokenizer.phi4 import load_tokenizer

    with IndexedDatasetWriter(prefix, "uint16") as writer:
        for number, length in enumerate([100, 300, 700, 299, 513] * 4):
            writer.add_document([(number + place * place) % VOCABULARY for place in range(length)])
        writer.finish({"tokenizer": load_tokenizer(VOCABULARY).fingerprint, "vocabulary_size": VOCABULARY})


@pytest.fixture(scope="module")
def trained(runs: tuple[RunConfig, RunConfig]) -> dict[str, Any]:
    """Both runs; two that are refused; and what the mid-trained model computes."""
    before, after = runs
    same_length = replace(after, folder=after.folder + "_short", batch=before.batch, task=before.task)
    wider = replace(after, folder=after.folder + "_wider", model=replace(after.model, feed_forward=96))
    steps = run_in_world(stages, [before, after, same_length, wider], processes=1)[0]
    assert [step["message"] for step in steps[:2]] == [None, None]
    tokens_BS = np.random.default_rng(0).integers(VOCABULARY, size=(2, LONG))
    prompt = tokens_BS[0, : 2 * SHORT].tolist()
    found = run_in_world(ours, after.folder, tokens_BS, prompt, WRITTEN, processes=1)[0]
    return {"steps": steps, "tokens": tokens_BS, "prompt": prompt, **found}


def test_recall_goes_on_where_pretraining_stopped(trained: dict[str, Any]) -> None:
    before, after = trained["steps"][:2]
    assert before["message"] is None
    assert after["message"] is None
    stood = {source["name"]: source["now"] for source in before["state"]["ledger"]["sources"]}
    for source in after["state"]["ledger"]["sources"]:
        if source["name"] in stood:
            assert source["at_origin"] == stood[source["name"]]
            assert source["now"]["first_epoch"] == 0
            assert any(line.startswith(f"  source {source['name']} goes on: ") for line in after["log"])
    assert "  source books is new: it begins" in after["log"]
    # 4 x (300 -> 1 window, 700 -> 2, 513 -> 2), none of them padded; 100 and 299 are left out
    said = next(line for line in after["log"] if line.lstrip().startswith("books") and "windows" in line)
    assert "12 documents of 6,052 tokens in 20 windows of 256, 0.0% of it padding" in said
    assert "920 tokens behind whole windows, and 8 documents of other lengths (1,596 tokens)" in said


def test_the_rotary_base_changes_with_the_length_only(trained: dict[str, Any]) -> None:
    _, after, same_length, wider = trained["steps"]
    assert any("rotary" in line and "250000" in line.replace(",", "") for line in after["log"])
    assert "model.rotary_base is 10000.0, the run has 250000.0" in same_length["message"]
    assert "model.feed_forward is 80, the run has 96" in wider["message"]


def test_transformers_computes_the_same_beyond_the_pretraining_length(
    trained: dict[str, Any], runs: tuple[RunConfig, RunConfig], tmp_path: Path
) -> None:
    from transformers import Phi3Config, Phi3ForCausalLM

    exported = to_huggingface(Path(runs[1].folder), tmp_path / "exported")
    config = read_json(exported / "config.json", what="configuration")
    assert (config["max_position_embeddings"], config["original_max_position_embeddings"]) == (LONG, LONG)
    theirs: Any = Phi3Config.from_pretrained(exported)
    assert theirs.rope_parameters["rope_theta"] == BASE
    model: Any = Phi3ForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    tokens = torch.from_numpy(trained["tokens"])
    with torch.no_grad():
        cos, sin = model.model.rotary_emb(torch.zeros(1), torch.arange(LONG)[None])
        logits = model(tokens).logits
        prompt = torch.tensor([trained["prompt"]])
        written = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=WRITTEN, do_sample=False, eos_token_id=None
        )
    half = trained["table"].shape[-1]
    for table, other in zip(trained["table"], (cos[0], sin[0]), strict=True):
        assert torch.allclose(table, other[:, :half], atol=2e-5, rtol=0)
    assert (trained["logits"] - logits).abs().max() < 1e-4 * logits.abs().max()
    log_probabilities = torch.log_softmax(logits[:, :-1].double(), dim=-1)
    expected_BS = -log_probabilities.gather(2, tokens[:, 1:, None])[..., 0]
    np.testing.assert_allclose(trained["losses"], expected_BS, rtol=0, atol=1e-4 * float(logits.abs().max()))
    assert trained["written"] == written[0, len(trained["prompt"]) :].tolist()
    model.config.rope_parameters["rope_theta"] = 10_000.0
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    with torch.no_grad():
        wrong = model(tokens).logits
    assert (trained["logits"] - wrong).abs().max() > 1e-2 * logits.abs().max(), "the test would not see a wrong base"


def test_the_recipe_is_the_papers() -> None:
    run, before, after = (load_recipe(f"phi4_14b_{name}") for name in ("midtrain", "pretrain", "sft"))
    check(run, world_size=512)
    assert run.start.initial_checkpoint == before.folder
    assert after.start.initial_checkpoint == run.folder
    assert run.optimizer.learning_rate == pytest.approx(before.optimizer.learning_rate / 10)
    assert after.model.rotary_base == run.model.rotary_base == 250_000.0
    assert run.batch.sequence_length == after.batch.sequence_length == mixture_of(before).block_tokens == 16_384
    tokens = run.training.steps * run.batch.global_batch * run.batch.sequence_length
    assert 0 <= tokens - 250e9 < run.batch.global_batch * run.batch.sequence_length
    recall, new = (
        [source for source in mixture_of(run).sources if (source.windows == "documents") == long]
        for long in (False, True)
    )
    assert sum(source.weight for source in recall) == pytest.approx(0.7)
    assert sum(source.weight for source in new) == pytest.approx(0.3)
    assert {source.name: source.weight / 0.7 for source in recall} == pytest.approx(
        {source.name: source.weight for source in mixture_of(before).sources}
    )
    assert all(source.paths == other.paths for source, other in zip(recall, mixture_of(before).sources, strict=True))


def test_the_story_mid_trains_the_model_of_the_quickstart_beyond_its_length() -> None:
    before, run, after = (load_recipe(f"quickstart_{name}") for name in ("pretrain", "midtrain", "sft"))
    check(run, world_size=run.layout.model_ranks)
    assert run.start.initial_checkpoint == after.start.initial_checkpoint == before.folder
    assert (before.batch.sequence_length, run.batch.sequence_length) == (256, 2_048)
    assert replace(run.model, rotary_base=before.model.rotary_base) == before.model
    sources, old = mixture_of(run).sources, {source.name: source for source in mixture_of(before).sources}
    assert {source.name: source.weight / 0.7 for source in sources if source.name in old} == pytest.approx(
        {name: source.weight for name, source in old.items()}
    )
    long = [source for source in sources if source.name not in old]
    assert sum(source.weight for source in long) == pytest.approx(0.3)
    for source in long:
        assert (source.windows, source.shortest_document) == ("documents", run.batch.sequence_length)
        assert source.paths == old[source.name.removeprefix("long_")].paths
