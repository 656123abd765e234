"""`megaphi evaluate` at work: the model answers everything, then a judge is opened, then all is graded and written."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megaphi.cli.pivotal.sampling_run import (
    PlannedRequests,
    errors_say_what_is_kept,
    journal_at,
    new_folder,
    print_plan,
    tell_isolation,
)
from megaphi.cli.sampler_option import OpenSamplers, SamplerPlace, sampler_place, with_samplers
from megaphi.errors import InputError
from megaphi.evaluation.plan import EvaluationPlan, PlannedTask
from megaphi.evaluation.task import Asked, Choose, Continue, GeneratedTask, Item
from megaphi.json_text import parse_json

if TYPE_CHECKING:
    from megaphi.evaluation.results import Evaluation, TaskResult
    from megaphi.evaluation.run import AnsweredTask
    from megaphi.generation.client.endpoint import EndpointSampler
    from megaphi.generation.client.request_journal import RequestJournal
    from megaphi.generation.local_sampler import LocalSampler
    from megaphi.tokenizer.interface import Tokenizer

Statuses = Mapping[str, Mapping[str, str]]
"""Task to its items' statuses of contamination."""


def dry_run(plan: EvaluationPlan, arguments: argparse.Namespace) -> int:
    """Print what would be asked, with Phi-4's tokens."""
    from megaphi.tokenizer.phi4 import load_tokenizer

    _statuses(plan, arguments.contamination)
    judge = _judge(plan, arguments.judge)
    tokenizer, lines, judged = load_tokenizer(), [], []
    for planned in plan.tasks:
        asked = plan.asked_of(planned, plan.items_of(planned, tokenizer))
        answered = [one for one in asked if isinstance(one, Continue)]
        repeats = [len(one.prompts) or one.repeats for one in answered]
        scored = [one for one in asked if isinstance(one, Choose)]
        counted = zip(answered, repeats, strict=True)
        prompts = sum(count * _tokens(one.prompt, tokenizer) for one, count in counted)
        texts = sum(len(one.continuations) * _tokens(one.context, tokenizer) for one in scored)
        new = sum(one.rules.max_tokens * count for one, count in zip(answered, repeats, strict=True))
        count = sum(repeats) + sum(len(one.continuations) for one in scored)
        lines.append(PlannedRequests(planned.task.name, f"{len(asked):,} items", count, prompts + texts, new))
        if judge is not None:
            judged += _judge_requests(planned, judge, responses=sum(repeats) + len(scored))
    code = print_plan(lines)
    for line in judged:
        print(line)
    _tell_unused(judge, arguments.judge)
    return code


def _judge_requests(planned: PlannedTask, judge: SamplerPlace, *, responses: int) -> list[str]:
    """The requests to the judge; how many there are, and how long, depends on the answers."""
    graded = responses * planned.task.judge_requests(planned.on)
    ledger = responses * planned.judge_requests_of_ledger
    if not graded + ledger:
        return []
    return [
        f"{judge} judges {planned.task.name}: at most {graded:,} requests to grade, and at most {ledger:,} for the "
        "ledger of quirks (what it was asked before stands in the journal)"
    ]


def _tokens(prompt: Any, tokenizer: Tokenizer) -> int:
    from megaphi.generation.text import render_prompt

    return len(render_prompt(prompt, tokenizer))


def evaluate(plan: EvaluationPlan, arguments: argparse.Namespace) -> int:
    """Run the plan and write its results; returns the exit code."""
    new_folder(arguments.output)
    isolation = _isolation(plan, unsafe=arguments.unsafe)
    statuses = _statuses(plan, arguments.contamination)
    model = sampler_place(arguments.model, option="MODEL")
    judge = _judge(plan, arguments.judge)
    places = [model, *([judge] if judge is not None else [])]

    def work(samplers: OpenSamplers) -> int:
        tell_isolation(isolation)
        _tell_unused(judge, arguments.judge)
        return _evaluate(plan, arguments, samplers, model, judge, statuses)

    return with_samplers(arguments, places, work)


def _judge(plan: EvaluationPlan, given: str) -> SamplerPlace | None:
    """The place of --judge; None if there is none, or nothing would ask it: then no model is opened for it."""
    if not given:
        return None
    place = sampler_place(given, option="--judge")
    return place if any(planned.asks_judge for planned in plan.tasks) else None


def _tell_unused(judge: SamplerPlace | None, given: str) -> None:
    if given and judge is None:
        print(f"--judge {given} is not used: no task named here asks a judge")


def _statuses(plan: EvaluationPlan, file: str | None) -> Statuses:
    """Read before any model is opened. Items that fill contexts are made later, and have no status."""
    if file is None:
        return {}
    from megaphi.evaluation.report.contamination import item_statuses

    read = [planned for planned in plan.tasks if not isinstance(planned.task, GeneratedTask)]
    return item_statuses(
        Path(file), {one.task.name: [item.name for item in one.data.items[: plan.limit]] for one in read}
    )


def _evaluate(
    plan: EvaluationPlan,
    arguments: argparse.Namespace,
    samplers: OpenSamplers,
    model: SamplerPlace,
    judge: SamplerPlace | None,
    statuses: Statuses,
) -> int:
    from megaphi.evaluation.report import write_report
    from megaphi.evaluation.result_files import write_evaluation
    from megaphi.files import whole_folder

    output = Path(arguments.output)
    place = Path(arguments.journal or output.with_name(f"{output.name}.journal.jsonl"))
    with journal_at(place) as journal, whole_folder(output) as folder:
        with errors_say_what_is_kept(journal):
            answered, identity = _ask(plan, samplers, model, journal)
            results = _grade(plan, answered, samplers, judge, journal, unsafe=arguments.unsafe)
        evaluation = _evaluation(plan, arguments, identity, results, judge=arguments.judge if judge else "")
        write_evaluation(folder, evaluation)
        write_report(folder, evaluation, statuses=statuses)
    lines = (output / "report.md").read_text().splitlines()
    print(*takewhile(bool, dropwhile(lambda line: not line.startswith("|"), lines)), sep="\n")
    print(f"{output / 'report.md'} says more, and {output / 'page.html'} shows every item")
    return 0


def _ask(
    plan: EvaluationPlan, samplers: OpenSamplers, model: SamplerPlace, journal: RequestJournal
) -> tuple[list[AnsweredTask], dict[str, Any]]:
    """The model's responses to all tasks, and its identity."""
    from megaphi.evaluation.asking.responses import responses_of
    from megaphi.evaluation.run import AnsweredTask
    from megaphi.log import progress_bar

    sampler = samplers.open(model, journal=journal)
    found = []
    for planned in plan.tasks:
        items = plan.items_of(planned, sampler.tokenizer)
        asked = plan.asked_of(planned, items)
        with progress_bar(total=_requests(asked), unit="answer", label=planned.task.name) as bar:
            sampler.on_end = bar.update
            responses = responses_of(items, asked, sampler, seed=plan.seed)
        found.append(
            AnsweredTask(
                task=planned.task,
                on=planned.on,
                files=planned.files,
                items_in_files=_items_in_files(planned, items),
                responses=responses,
            )
        )
    _refuse_silence(model, found)
    return found, {**_identity(sampler, model), **_position(model)}


def _refuse_silence(model: SamplerPlace, answered: Sequence[AnsweredTask]) -> None:
    """Some prompts may be refused, and are counted; a model that refuses all of them was not evaluated."""
    responses = [response for one in answered for response in one.responses]
    if all(response.refused for response in responses):
        raise InputError(f"{model} answered none of {len(responses):,} prompts. The first: {responses[0].refused}")


def _identity(sampler: LocalSampler | EndpointSampler, model: SamplerPlace) -> dict[str, Any]:
    """Facts that tell the model from all others."""
    if model.is_endpoint:
        return {"server": model.url, "model": model.model}
    facts = parse_json(getattr(sampler, "identity", "{}"))
    named = {"weights": facts.pop("starting weights"), "tokenizer": facts.pop("tokenizer")}
    return {**named, "facts": facts}


def _items_in_files(planned: PlannedTask, items: Sequence[Item]) -> int:
    return len(planned.data.items) or len(items)


def _requests(asked: Sequence[Asked]) -> int:
    return sum(len(one.continuations) if isinstance(one, Choose) else len(one.prompts) or one.repeats for one in asked)


def _position(model: SamplerPlace) -> dict[str, int]:
    """Step and trained tokens of a checkpoint of ours, which plots over checkpoints need."""
    from megaphi.checkpoint.format import CheckpointReader
    from megaphi.conversion.open_weights import open_weights

    reader = None if model.is_endpoint else open_weights(model.path)
    if not isinstance(reader, CheckpointReader):
        return {}
    tokens = reader.state.get("tokens")
    return {"step": reader.manifest.step, **({"tokens": tokens} if isinstance(tokens, int) else {})}


def _grade(
    plan: EvaluationPlan,
    answered: Sequence[AnsweredTask],
    samplers: OpenSamplers,
    judge: SamplerPlace | None,
    journal: RequestJournal,
    *,
    unsafe: bool,
) -> dict[str, TaskResult]:
    from megaphi.evaluation.asking.responses import SamplerJudge
    from megaphi.evaluation.run import result_of
    from megaphi.evaluation.task import GradingTools
    from megaphi.grading.grader import Grader
    from megaphi.log import progress_bar

    found = {}
    with Grader(unsafe=unsafe) as grader, progress_bar(total=len(answered), unit="task", label="grading") as bar:
        asked = None if judge is None else SamplerJudge(samplers.open(judge, journal=journal))
        tools = GradingTools(grader=grader, judge=asked, seed=plan.seed)
        for one in answered:
            found[one.task.name] = result_of(one, tools)
            bar.update()
    return found


def _evaluation(
    plan: EvaluationPlan,
    arguments: argparse.Namespace,
    identity: dict[str, Any],
    results: dict[str, TaskResult],
    *,
    judge: str,
) -> Evaluation:
    from megaphi import __version__
    from megaphi.checkpoint.versions import short_commit
    from megaphi.evaluation.results import Evaluation

    commit = short_commit()
    return Evaluation(
        model=arguments.model,
        identity=identity,
        protocol=plan.protocol,
        judge=judge,
        seed=plan.seed,
        version=f"{__version__} {commit}".strip(),
        tasks=results,
        settings={"words": list(arguments.words)},
    )


def _isolation(plan: EvaluationPlan, *, unsafe: bool) -> str | None:
    """Kind of isolation that programs of the model will run in; None without programs. Raises InputError."""
    from megaphi.evaluation.tasks.programs.passes import ProgramTask
    from megaphi.grading.code_sandbox.isolation import find_isolation

    runs_programs = any(isinstance(planned.task, ProgramTask) for planned in plan.tasks)
    return find_isolation(unsafe=unsafe).kind if runs_programs else None
