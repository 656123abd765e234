"""Files of `megaphi pivotal hallucination`: records for two stages, every question's counts, a report."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from megaphi.foreign.markdown_cell import in_cell
from megaphi.pivotal.preference.hallucination import (
    FIRST_TOKENS,
    HallucinationRun,
    HallucinationSettings,
    dpo_records,
    sft_records,
)
from megaphi.pivotal.preference.record_files import write_records, write_report
from megaphi.tokenizer.interface import Tokenizer

Records = list[dict[str, Any]]


def write_hallucination(
    folder: Path, run: HallucinationRun, settings: HallucinationSettings, tokenizer: Tokenizer
) -> None:
    """Fill `folder`."""
    sft, dpo = sft_records(run, settings.confidence), dpo_records(run, tokenizer)
    write_records(folder / "sft.jsonl", sft)
    write_records(folder / "dpo.jsonl", dpo)
    write_records(
        folder / "questions.jsonl",
        [
            {
                "question": item.prompt.name,
                "usually": item.usually(settings.confidence),
                **{verdict: item.count(verdict) for verdict in ("right", "wrong", "refused", "unclear")},
                "low": item.share_right(settings.confidence).low,
                "high": item.share_right(settings.confidence).high,
            }
            for item in run.questions
        ],
    )
    write_records(folder / "left_out.jsonl", run.left_out.records())
    write_report(folder / "report.md", _hallucination_lines(run, settings, sft, dpo, tokenizer))


def _hallucination_lines(
    run: HallucinationRun, settings: HallucinationSettings, sft: Records, dpo: Records, tokenizer: Tokenizer
) -> list[str]:
    usually = Counter(item.usually(settings.confidence) for item in run.questions)
    verdicts = Counter(verdict for item in run.questions for _, verdict in item.answers)
    decided = f"by {in_cell(settings.checker)}" if settings.checker else "by their keys"
    return [
        "# Hallucination data",
        "",
        f"{len(run.questions):,} questions, {settings.samples} answers each by {in_cell(settings.model)}, decided "
        f"{decided}: " + ", ".join(f"{verdicts[name]:,} {name}" for name in ("right", "wrong", "refused", "unclear")),
        "",
        f"- Usually right or wrong means more or less than half with {settings.confidence:g} confidence (Wilson): "
        f"{usually['right']:,} questions right, {usually['wrong']:,} wrong, {usually['undecided']:,} neither.",
        "- A refusal counts as not right, and is never the wrong answer of a pair.",
        f"- Answers, refusals and bogus questions were written by {in_cell(settings.writer)}.",
        f"- Pairs hold the first {FIRST_TOKENS} tokens of each side, by the tokenizer {tokenizer.fingerprint[:12]}:"
        " train that model on them.",
        "",
        "| records | kind | count |",
        "|---|---|---:|",
        *(f"| sft.jsonl | {kind} | {count:,} |" for kind, count in _kinds(sft, ("answer", "refusal", "bogus"))),
        *(
            f"| dpo.jsonl | {kind} | {count:,} |"
            for kind, count in _kinds(dpo, ("answer over refusal", "refusal over wrong answer"))
        ),
        "",
        *run.left_out.table(),
    ]


def _kinds(records: Records, kinds: tuple[str, ...]) -> list[tuple[str, int]]:
    found = Counter(record["kind"] for record in records)
    return [(kind, found[kind]) for kind in kinds]
