"""Train a small classifier of documents: quality, educational value, topics.

Records have a text and a label, or a score of at least 3 for what is to be kept; people or a model gave them (the step
LabelPages). A part of the texts trains fastText, a second turns its scores into probabilities and chooses the minimum,
a third is what the report is about: precision and recall with intervals, calibration, verdicts by source, the worst
errors. The same files, settings and seed give the same model to the byte. The folder appears whole or not at all, and
is what the steps Quality, Educational and Topic take.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megaphi.config import user_path

HELP = "a classifier of documents from labelled ones"
EXAMPLE = """examples:
  megaphi curate train-classifier labels.jsonl --output classifiers/educational score_key=metadata.educational_label
  megaphi curate train-classifier good.jsonl bad.jsonl --output classifiers/quality positive=good precision=0.95
  megaphi curate train-classifier topics.jsonl --output classifiers/topic label_key=topic
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labels", type=user_path, nargs="+", metavar="FILE", help="JSON lines or Parquet")
    parser.add_argument("fields", metavar="field=value", nargs="*", help="change a field of the training's settings")
    parser.add_argument("--output", type=user_path, required=True, metavar="FOLDER", help="the classifier's folder")


def run(arguments: argparse.Namespace) -> int:
    from megaphi.config import check_values, override
    from megaphi.curation.filter.quality.report import write_report
    from megaphi.curation.filter.quality.train import ClassifierTraining, train_classifier
    from megaphi.errors import InputError
    from megaphi.files import whole_folder

    # argparse gives every word to the files; a setting is one that names a field.
    words = [*arguments.labels, *arguments.fields]
    paths = [word for word in words if "=" not in word or Path(word).exists()]
    if not paths:
        raise InputError("no file with labelled texts is named")
    settings = check_values(override(ClassifierTraining(), [word for word in words if word not in paths]))
    with whole_folder(arguments.output) as folder:
        found = write_report(folder, train_classifier(paths, settings, folder))
    precision, recall = (found["at_minimum"][name] for name in ("precision", "recall"))
    print(f"{arguments.output}: {', '.join(found['labels'])}; minimum {found['minimum']:.3f} ({found['chosen']})")
    for name, share in (("precision", precision), ("recall", recall)):
        shown = "none" if share["share"] is None else f"{share['share']:.3f}"
        print(f"  {name} {shown} ({share['low']:.3f} to {share['high']:.3f}, {share['of']} texts)")
    print(f"  report: {Path(arguments.output) / 'report.md'}")
    return 0
