"""Log-likelihoods, and lm-eval's interface on our engine, against lm-eval's own backend of transformers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from megaphi.conversion.open_weights import open_weights
from megaphi.engine.inference.forward_only import open_model
from megaphi.errors import InputError
from megaphi.evaluation.asking.likelihoods import EndpointScorer, LocalScorer, scorer_of, token_pair
from megaphi.evaluation.asking.lm_eval_model import MegaphiLM, rules_of
from megaphi.evaluation.task import LogLikelihood
from megaphi.generation.client.endpoint import EndpointSampler
from megaphi.generation.client.request_journal import RequestJournal
from megaphi.generation.decoding.inference_engine import InferenceEngine
from megaphi.generation.local_sampler import LocalSampler
from megaphi.parallel.world import stop_world
from megaphi.sampling import Sampling
from megaphi.tokenizer.huggingface import export_tokenizer
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.conversion.random_models import SHAPES, random_folder
from tests.generation.server.served import served

CONTEXT = 64
PAIRS = [
    ("which is it? ", "a"),
    ("which is it?", " a"),
    ("which is it?", " b"),
    ("which is it?", " c and more"),
    ("which is it?", " a"),
    ("", "nothing before it"),
    ("which is it?\n\n", "two lines"),
    ("é ü", " ß"),
    ("which is it? a", "b"),
]


class Models(NamedTuple):
    """One random model in both engines."""

    ours: LocalSampler
    engine: InferenceEngine
    theirs: Any


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, worlds_end_with_their_file: None) -> Iterator[Models]:
    folder = tmp_path_factory.mktemp("likelihoods") / "model"
    random_folder(folder, SHAPES["3 heads per group"], scale=0.4)
    tokenizer = load_tokenizer(352)
    export_tokenizer(tokenizer, folder, model_max_length=CONTEXT)
    engine = InferenceEngine(open_model(open_weights(folder)), slots=3)
    model = AutoModelForCausalLM.from_pretrained(folder)
    theirs: Any = HFLM(
        pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=2, max_length=CONTEXT
    )
    with LocalSampler([engine], tokenizer, name="tiny", identity="tiny") as sampler:
        yield Models(sampler, engine, theirs)
    stop_world()


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    kinds: Any = kind
    return [Instance(kinds, {}, one, number) for number, one in enumerate(arguments)]


def test_scores_are_those_of_lm_eval(models: Models) -> None:
    theirs = models.theirs.loglikelihood(instances("loglikelihood", PAIRS), disable_tqdm=True)
    ours = scorer_of(models.ours).log_likelihoods(PAIRS)
    for one, (total, is_greedy) in zip(ours, theirs, strict=True):
        assert isinstance(one, LogLikelihood)
        assert one.total == pytest.approx(total, abs=2e-5)
        assert one.is_greedy == is_greedy


def test_letters_of_one_question_cost_one_pass(models: Models) -> None:
    question = "one two three four five six seven"
    pairs = [token_pair(question, letter, models.ours.tokenizer) for letter in "ABCD"]
    assert [len(pair.continuation) for pair in pairs] == [1, 1, 1, 1]
    before = models.engine.computed_tokens
    together = LocalScorer(models.ours).score(pairs)
    assert models.engine.computed_tokens - before == len(pairs[0].context)
    alone = [LocalScorer(models.ours).score([pair])[0] for pair in pairs]
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, LogLikelihood)
        assert isinstance(other, LogLikelihood)
        assert one.total == pytest.approx(other.total, abs=1e-5)
        assert one.is_greedy == other.is_greedy


def test_what_cannot_be_scored_has_a_reason(models: Models) -> None:
    long = "x " * 80
    found = scorer_of(models.ours).log_likelihoods([("a", ""), (long, "y"), ("  ", "after blanks only")])
    assert found[0] == "the continuation has no token of its own"
    assert "do not fit into the model's context of 64" in str(found[1])
    assert isinstance(found[2], LogLikelihood)


def test_the_journal_answers_a_second_run(models: Models, tmp_path: Path) -> None:
    first = LocalScorer(models.ours).log_likelihoods(PAIRS)
    with RequestJournal(tmp_path / "journal.jsonl") as journal:
        models.ours.journal = journal
        try:
            assert LocalScorer(models.ours).log_likelihoods(PAIRS) == first
            before = models.engine.computed_tokens
            assert LocalScorer(models.ours).log_likelihoods(PAIRS) == first
            assert models.engine.computed_tokens == before
        finally:
            models.ours.journal = None


def test_rolling_likelihoods_are_those_of_lm_eval(models: Models) -> None:
    texts = [("short",), ("a longer text, of words and more words. " * 9,), ("b" * CONTEXT,)]
    requests = instances("loglikelihood_rolling", texts)
    ours = MegaphiLM(models.ours).loglikelihood_rolling(requests)
    assert ours == pytest.approx(models.theirs.loglikelihood_rolling(requests, disable_tqdm=True), abs=1e-4)


def test_contexts_that_are_too_long_are_cut_as_by_lm_eval_and_counted(models: Models) -> None:
    pairs = [("many words come before " * 9, " the end"), ("fits", " well")]
    model = MegaphiLM(models.ours)
    ours = model.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    theirs = models.theirs.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    assert [total for total, _ in ours] == pytest.approx([total for total, _ in theirs], abs=2e-5)
    assert model.truncated == 1


def test_texts_until_a_stop_are_those_of_lm_eval(models: Models) -> None:
    rules = {"until": ["\n", "e"], "max_gen_toks": 12, "do_sample": False}
    requests = instances("generate_until", [("one", rules), ("two words", rules), ("and then three " * 8, rules)])
    ours = MegaphiLM(models.ours).generate_until(requests)
    theirs = models.theirs.generate_until(requests, disable_tqdm=True)
    plain = [_without_special_tokens(text) for text in ours]
    assert plain == [_without_special_tokens(text) for text in theirs]
    assert any(plain)


def _without_special_tokens(text: str) -> str:
    """As transformers leaves them out; characters whose bytes they part are left out too."""
    return re.sub(r"<\|\w+\|>|[^ -~]", "", text)


def test_a_chat_is_rendered_as_in_training(models: Models) -> None:
    model, chat = MegaphiLM(models.ours), [{"role": "user", "content": "say <|im_end|>"}]
    context = model.apply_chat_template(chat)
    answer = model.generate_until(instances("generate_until", [(context, {"max_gen_toks": 5, "until": []})]))[0]
    assert model._prompt(context).count(models.ours.tokenizer.message_end) == 1
    from megaphi.conversation import from_plain

    assert answer == models.ours.sample([from_plain(chat)], Sampling(max_tokens=5))[0][0].text
    with pytest.raises(InputError, match="gen_prefix is refused"):
        model.apply_chat_template(chat, add_generation_prompt=False)


def test_rules_of_tasks() -> None:
    assert rules_of({}) == Sampling(max_tokens=256)
    assert rules_of({"do_sample": False, "temperature": 0.7, "until": "x"}) == Sampling(max_tokens=256, stop=("x",))
    assert rules_of({"temperature": 0.5, "top_p": 0.9, "max_tokens": 7}) == Sampling(
        max_tokens=7, temperature=0.5, top_p=0.9
    )
    assert rules_of({"num_beams": 1}).max_tokens == 256
    with pytest.raises(InputError, match="num_beams=4 is not understood"):
        rules_of({"num_beams": 4})


def test_a_server_scores_the_same(models: Models) -> None:
    with served(models.engine) as (url, _):
        sampler = EndpointSampler(f"{url}/v1", "tiny", tokenizer=models.ours.tokenizer, concurrency=4)
        found = EndpointScorer(sampler).log_likelihoods(PAIRS)
    expected = LocalScorer(models.ours).log_likelihoods(PAIRS)
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, LogLikelihood)
        assert isinstance(other, LogLikelihood)
        assert one.total == pytest.approx(other.total, abs=1e-5)
        assert (one.tokens, one.is_greedy) == (other.tokens, other.is_greedy)
