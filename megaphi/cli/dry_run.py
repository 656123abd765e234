"""`megaphi train --dry-run`: the whole configuration and what it needs, without a GPU and without data.

Parameters are counted from the real modules on the meta device, under the real layout.
"""

from __future__ import annotations

from megaphi.cli.mixture_tables import print_lineage, print_sources, print_stages, report_run
from megaphi.config import leaves
from megaphi.data.order.report import MixtureReport
from megaphi.engine.learning_rate import learning_rate, milestones
from megaphi.engine.run_config import RunConfig, check
from megaphi.engine.run_sections import TrainingLength
from megaphi.engine.run_tokenizer import check_tokenizer
from megaphi.evaluation.during_training import check_tasks
from megaphi.model.arithmetic import flops_per_token, head_in_layers
from megaphi.model.rows.head_cut import HeadCut
from megaphi.planning.memory import RankMemory, rank_memory
from megaphi.planning.pipeline import chunk_work, pipeline_time
from megaphi.stages.pretrain import Pretrain


def print_plan(configuration: RunConfig, *, world_size: int | None) -> int:
    """Print configuration, sizes and epochs; raises InputError where the run could not start."""
    smallest = configuration.layout.model_ranks
    run = check(configuration, world_size=world_size or smallest * (configuration.layout.data or 1))
    check_tokenizer(run)
    run.task.rehearse()
    if run.evaluation.every:
        check_tasks(run.evaluation.tasks)
    print("Configuration")
    for path, value in leaves(run):
        print(f"  {path:<36} {_show(value)}")
    _print_model(run)
    if not isinstance(run.task, Pretrain):
        _print_steps(run)
        return 0
    report = report_run(run)
    _print_schedule(run, report)
    if run.task.mixture.stages:
        print_stages(report)
    print_sources(report)
    print_lineage(report)
    return 0


def _show(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _print_model(run: RunConfig) -> None:
    from megaphi.model.language_model import count_parameters

    stages = count_parameters(run.model, run.layout, sequence_length=run.batch.sequence_length)
    print()
    print(f"Model under {run.layout} ({run.layout.world_size} ranks)")
    print(f"  parameters            {sum(stage.unique for stage in stages):,}")
    cut = HeadCut(run.model.heads, run.model.key_value_groups, run.layout.tensor)
    if cut.copies_groups:
        print(
            f"  key-value groups      {run.model.key_value_groups}, of which each tensor rank holds {cut.groups_held}: "
            "copies of groups that ranks share are in the bytes below"
        )
    per_token = {
        count: flops_per_token(run.model, sequence_length=run.batch.sequence_length, attention=count)
        for count in ("full", "causal")
    }
    print(
        f"  FLOPs per token       {per_token['causal'] / 1e9:.1f} G with attention counted causal, "
        f"{per_token['full'] / 1e9:.1f} G counted full"
    )
    print("  bytes per rank        (activations are an estimate, the rest is exact)")
    print(f"    {'stage':<6}{'parameters':>16}{'weights':>10}{'gradients':>11}{'optimizer':>11}", end="")
    print(f"{'activations':>13}{'total':>10}")
    for number, stage in enumerate(rank_memory(run, [stage.local for stage in stages])):
        print(f"    {number:<6}{_memory_row(stage)}")


def _memory_row(stage: RankMemory) -> str:
    sizes = (stage.weights, stage.gradients, stage.optimizer, stage.activations, stage.total)
    columns = zip(sizes, (10, 11, 11, 13, 10), strict=True)
    return f"{stage.parameters:>16,}" + "".join(f"{gigabytes(size):>{width}}" for size, width in columns)


def gigabytes(size: float) -> str:
    """`15.69 GB` (10^9 bytes), or MB below 0.1 GB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _print_schedule(run: RunConfig, report: MixtureReport) -> None:
    _print_steps(run)
    print(f"  tokens                {report.tokens:,}")


def _print_steps(run: RunConfig) -> None:
    replicas = run.layout.world_size // run.layout.model_ranks
    micro_batches = run.batch.global_batch // (run.batch.micro_batch * replicas)
    print()
    print("Schedule")
    print(f"  tokens per step       {run.batch.tokens_per_step:,}")
    interleaved = run.layout.virtual_pipeline > 1
    groups = f", interleaved in groups of {run.layout.micro_batch_group(micro_batches)}" if interleaved else ""
    print(f"  micro-batches         {micro_batches} of {run.batch.micro_batch} on each of {replicas} replicas{groups}")
    if run.layout.pipeline > 1:
        _print_pipeline(run, micro_batches)
    print(f"  steps                 {_length(run.training)}")
    if run.training.steps:
        rates = [
            f"{learning_rate(step, run.optimizer, steps=run.training.steps):.3g} at step {step:,}"
            for step in milestones(run.optimizer, steps=run.training.steps)
        ]
        print(f"  learning rate         {run.optimizer.schedule}: {', '.join(rates)}")


def _print_pipeline(run: RunConfig, micro_batches: int) -> None:
    """Layers of every stage, what the split costs, and what the bubble adds; without communication."""
    layout, chunks = run.layout, run.layout.chunk_layers(run.model.layers)
    found = pipeline_time(layout, micro_batches, chunk_work(run))
    stages = ["+".join(map(str, chunks[stage :: layout.pipeline])) for stage in range(layout.pipeline)]
    print(f"  layers per stage      {', '.join(stages)}")
    head = head_in_layers(run.model, sequence_length=run.batch.sequence_length)
    print(
        f"  pipeline              {found.balance:.1%} of the time by the split, the head counted as {head:.2f} layers"
    )
    print(f"                        {found.efficiency:.1%} with the bubble (a model: without communication)")


def _length(training: TrainingLength) -> str:
    return f"{training.steps:,}" if training.steps else f"those of {training.epochs:g} epochs"
