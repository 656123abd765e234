"""The whole recipe at toy scale, from raw text to a model that answers: `make story`.

What `make quickstart` does (corpus, tokens, pretraining) comes first and is used again where it exists. That model is
mid-trained from 256 to 2,048 tokens, and its loss on long documents measured by position. What follows starts before
that, as it needs no long context. The corpus is turned into conversations, on which the model is fine-tuned (two
pipeline stages); the tuned model tries exercises, and where its answer is wrong the right solution is preferred to it
(two replicas), and one chats with it. At the end, on short sums of which it gets a part right, the tokens that decide
this are searched, and it learns from pairs of single tokens; both models are evaluated on held-out sums, and compared.
Every step is a command that you can run yourself, and is printed as such. The figures end up in runs/story/report.md.
Later stages of the recipe will join in.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import zstandard
from quickstart import CORPUS, Report, command, on_this_machine, start_words, tokenise, train

from megaphi.conversation import Conversation, Message
from megaphi.engine.reporting.metrics import read_metrics
from megaphi.evaluation.result_files import read_evaluation
from megaphi.files import write_text
from megaphi.recipes.quickstart import (
    quickstart_dpo,
    quickstart_dpo_pivotal,
    quickstart_midtrain,
    quickstart_pretrain,
    quickstart_sft,
    quickstart_sums,
)
from megaphi.sampling import Sampling

HOME = Path("runs/story")
ASKED = 400
"""Exercises that the tuned model tries, to learn from what it gets wrong."""
PICTURES = {
    "pretraining": "../quickstart/run/loss.png",
    "mid-training": "midtrain/loss.png",
    "fine-tuning": "sft/loss.png",
    "preferences": "dpo/loss.png",
    "pivotal preferences": "dpo_pivotal/loss.png",
}
RUNS = {
    "quickstart_midtrain": (quickstart_midtrain(), None),
    "quickstart_sft": (quickstart_sft(), None),
    "quickstart_dpo": (quickstart_dpo(), 2),
    "quickstart_sums": (quickstart_sums(), 2),
    "quickstart_dpo_pivotal": (quickstart_dpo_pivotal(), None),
}
"""Recipes of the story, and over how many replicas each is trained, where not as the recipe says."""
POSITIONS = (0, 128, 256, 512, 1_024, 2_048)
"""Bounds of the groups of tokens by which the loss on long documents is shown."""
QUESTIONS = ("Find the greatest common divisor of 84 and 36.", "What is 816 in the number system with base 2?")


def main() -> None:
    run, report = on_this_machine(quickstart_pretrain()), Report(title="The story, at toy scale", pictures=PICTURES)
    if not (Path(run.folder) / "checkpoints" / "latest").is_file():
        tokenise(run, report)
    train(run, report)
    lengthen(run.folder, report)
    write_conversations()
    post_train("quickstart_sft", report)
    write_pairs()
    post_train("quickstart_dpo", report)
    chat(report)
    learn_pivotal_tokens(report)
    write_text(HOME / "report.md", report.text)
    print(f"\nThis report: {HOME / 'report.md'}")


def texts(source: str, split: str) -> Iterator[str]:
    with zstandard.open(CORPUS / source / f"{split}.jsonl.zst", "rb") as file:
        for line in io.TextIOWrapper(file, encoding="utf-8"):
            yield json.loads(line)["text"]


def exercises(split: str) -> Iterator[tuple[str, str]]:
    """(exercise, solution); a document of the synthetic source is a few of them, three line breaks apart."""
    for text in texts("synthetic", split):
        for block in text.split("\n\n\n"):
            question, _, solution = block.strip().partition("\n\n")
            if solution:
                yield re.sub(r"^(Question|Task|Problem|Exercise): ", "", question), solution


def questions_about_the_corpus(split: str) -> Iterator[tuple[str, str]]:
    """(question, answer), written about pages of the web source."""
    for text in texts("rewrites", split):
        yield from re.findall(r"^Question: (.+)\nAnswer: (.+)$", text, flags=re.MULTILINE)


def lengthen(pretrained: str, report: Report) -> None:
    """Mid-train, and measure the loss by position on held-out documents that fill the longer context."""
    post_train("quickstart_midtrain", report)
    longer = quickstart_midtrain()
    began = time.monotonic()
    for name, folder in (("before", pretrained), ("after", longer.folder)):
        # A process of its own, as for the answers below.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            losses, documents = pool.submit(loss_by_position, folder, longer.batch.sequence_length).result()
        report.figures[f"loss by position in {documents} long held-out documents, {name} mid-training"] = ", ".join(
            f"{first:,} to {end:,}: {loss:.3f}" for (first, end), loss in zip(pairwise(POSITIONS), losses, strict=True)
        )
    report.seconds["loss by position"] = time.monotonic() - began


def loss_by_position(folder: str, tokens: int) -> tuple[list[float], int]:
    """(mean loss between each two of `POSITIONS`, documents it was measured on: those of more than `tokens` tokens)."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import next_token_losses, open_model
    from megaphi.tokenizer.phi4 import load_tokenizer

    model = open_model(open_weights(folder))
    tokenizer = load_tokenizer(model.architecture.vocabulary)
    held_out = [
        tokenizer.encode(text) for source in ("web", "code", "acquired") for text in texts(source, "validation")
    ]
    long = [ids[: tokens + 1] for ids in held_out if len(ids) > tokens]
    losses_DS = np.concatenate([next_token_losses(model, np.array([ids])) for ids in long])
    return [float(losses_DS[:, first:end].mean()) for first, end in pairwise(POSITIONS)], len(long)


def write_conversations() -> None:
    """Both kinds, as messages; what is held out comes from documents that the model has never read."""
    for name, split in (("conversations", "train"), ("conversations_held_out", "validation")):
        asked = [*questions_about_the_corpus(split), *exercises(split)]
        write_lines(
            HOME / f"{name}.jsonl",
            (
                {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
                for question, answer in asked
            ),
        )


def write_pairs() -> None:
    """The solution over what the tuned model says, wherever the two end in different answers."""
    for name, split, count in (("pairs", "train", ASKED), ("pairs_held_out", "validation", ASKED // 4)):
        if (HOME / f"{name}.jsonl").is_file():
            continue
        chosen = list(exercises(split))[:count]
        # A process of its own: this one starts other jobs afterwards, and must not be part of one.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            tried = pool.submit(answers, [question for question, _ in chosen]).result()
        pairs = [
            {"prompt": question, "chosen": solution, "rejected": attempt}
            for (question, solution), attempt in zip(chosen, tried, strict=True)
            if attempt.strip() and final_answer(attempt) != final_answer(solution)
        ]
        print(f"{name}: {len(chosen) - len(pairs)} of {len(chosen)} answers were right or empty, {len(pairs)} pairs")
        write_lines(HOME / f"{name}.jsonl", pairs)


def final_answer(solution: str) -> str:
    """The last line, where every solution of the corpus has its answer."""
    return solution.strip().splitlines()[-1].strip()


def answers(questions: Sequence[str]) -> list[str]:
    """The tuned model's own attempts, through the same engine."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.generation.local_sampler import LocalSampler
    from megaphi.log import progress_bar
    from megaphi.tokenizer.phi4 import load_tokenizer

    run = quickstart_sft()
    model = open_model(open_weights(run.folder))
    rules = Sampling(max_tokens=96, temperature=0.7, seed=1)
    prompts = [Conversation((Message("user", question),)) for question in questions]
    with progress_bar(total=len(prompts), unit="answer", label="attempts", visible=True) as bar:
        engine, tokenizer = InferenceEngine(model, slots=64), load_tokenizer(model.architecture.vocabulary)
        with LocalSampler([engine], tokenizer, name=run.recipe, on_end=bar.update) as sampler:
            return [answer.text for (answer,) in sampler.sample(prompts, rules)]


def learn_pivotal_tokens(report: Report) -> None:
    """Learn sums half-way, search the tokens that decide them, learn from these; how many sums come out right."""
    write_sums()
    post_train("quickstart_sums", report)
    sums, found = quickstart_sums().folder, HOME / "pivotal"
    questions, held_out = HOME / "sums_questions.jsonl", HOME / "sums_held_out.jsonl"
    shared = ["--max-tokens", "48", "--batch", "128"]
    search = ["pivotal", "search", str(questions), "--sampler", sums, "--output", str(found), *shared]
    command("pivotal search", [*search, "--most-rollouts", "200", "--confirm", "40"], report)
    post_train("quickstart_dpo_pivotal", report)
    models = {"before": sums, "after": quickstart_dpo_pivotal().folder}
    for name, model in models.items():
        rate = success_rate(held_out, model, HOME / f"rate_{name}", [*shared, "--first-rollouts", "8"], report)
        report.figures[f"sums that come out right, {name} pivotal DPO"] = rate
    evaluate_on_sums(held_out, models, shared, report)


def evaluate_on_sums(held_out: Path, models: Mapping[str, str], options: Sequence[str], report: Report) -> None:
    """The same sums as word problems of a benchmark, asked as in training; are the two models told apart by them?"""
    asked = [json.loads(line) for line in held_out.read_text().splitlines()]
    rows = [{"question": one["messages"][0]["content"], "answer": one["math_answer"]} for one in asked]
    data, wording = HOME / "benchmarks", HOME / "wording.json"
    write_lines(data / "gsm8k.jsonl", rows)
    write_text(wording, json.dumps({"gsm8k": {"en": "{question}"}}))
    (data / "manifest.json").unlink(missing_ok=True)
    command("manifest", ["evaluate", "--write-manifest", str(data)], report)
    given = ["--tasks", "gsm8k", "--manifest", str(data / "manifest.json"), "--wording", str(wording)]
    folders = []
    for name, model in models.items():
        folders.append(HOME / f"evaluated_{name}")
        shutil.rmtree(folders[-1], ignore_errors=True)
        words = ["evaluate", model, *given, "--protocol", "corrected", "--output", str(folders[-1]), *options]
        command(f"evaluation {name}", words, report)
        (task,) = read_evaluation(folders[-1]).tasks.values()
        right = sum(one.scores["accuracy"] for one in task.responses)
        report.figures[f"evaluation on held-out sums, {name} pivotal DPO"] = f"{right:.0f} of {len(task.responses)}"
    command("comparison", ["compare", *map(str, folders)], report)


def success_rate(questions: Path, model: str, folder: Path, options: Sequence[str], report: Report) -> str:
    """Share of right answers to questions, of which none is searched."""
    words = ["pivotal", "search", str(questions), "--sampler", model, "--output", str(folder), *options]
    command("success rates", [*words, "--answers", "0"], report)
    counts = [json.loads(line)["first"] for line in (folder / "questions.jsonl").read_text().splitlines()]
    right, wrong = (sum(one[name] for one in counts) for name in ("successes", "failures"))
    return f"{right / (right + wrong):.3f} of {right + wrong:,} answers"


def write_sums() -> None:
    """Worked sums to learn from, and others as questions: 120 to search in, 100 held out."""
    random = Random(5)
    made = list(dict.fromkeys(worked_sum(random) for _ in range(9_000)))
    write_lines(
        HOME / "sums.jsonl",
        (
            {"messages": [{"role": "user", "content": task}, {"role": "assistant", "content": solution}]}
            for task, solution, _ in made[220:]
        ),
    )
    for name, part in (("questions", made[:120]), ("held_out", made[120:220])):
        asked = [
            {"id": str(number), "messages": [{"role": "user", "content": task}], "math_answer": answer}
            for number, (task, _, answer) in enumerate(part)
        ]
        write_lines(HOME / f"sums_{name}.jsonl", asked)


def worked_sum(random: Random) -> tuple[str, str, str]:
    """(task, solution step by step, answer) of a sum of three or four numbers."""
    total = random.randint(1, 6)
    terms, steps = [str(total)], []
    for _ in range(random.choice((2, 3))):
        number = random.randint(1, 5)
        sign = random.choice("+-") if total > number else "+"
        before, total = total, total + number if sign == "+" else total - number
        terms.append(f"{sign} {number}")
        steps.append(f"{before} {sign} {number} = {total}")
    return f"Compute {' '.join(terms)}.", f"{', '.join(steps)}. The answer is {total}.", str(total)


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def post_train(recipe: str, report: Report) -> None:
    """Train a recipe to its end, and note what its metrics say."""
    run, replicas = RUNS[recipe]
    wide = dataclasses.replace(run, layout=dataclasses.replace(run.layout, data=replicas))
    command(recipe, start_words(on_this_machine(wide), run), report)
    records = read_metrics(Path(run.folder) / "metrics.jsonl")
    held_out = [record for record in records if "validation_loss" in record]
    report.figures[f"{recipe}: first and last loss"] = f"{records[0]['loss']:.4f}, {records[-1]['loss']:.4f}"
    if not held_out:
        return
    report.figures[f"{recipe}: held-out loss"] = ", ".join(f"{record['validation_loss']:.4f}" for record in held_out)
    if "validation_accuracy" in held_out[-1]:
        report.figures[f"{recipe}: held-out accuracy"] = f"{held_out[-1]['validation_accuracy']:.3f}"


def chat(report: Report) -> None:
    """Two talks with the model at the end of the recipe."""
    folder = quickstart_dpo().folder
    options = ["--max-tokens", "80", "--temperature", "0"]
    typed = "\n/reset\n".join(QUESTIONS) + "\n"
    answers = command("chat", ["chat", folder, *options], report, capture=True, typed=typed)
    report.sample = "\n".join((*QUESTIONS, "", answers))
    print(answers)


if __name__ == "__main__":
    main()
