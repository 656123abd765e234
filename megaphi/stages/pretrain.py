"""Pretraining: next-token prediction on a mixture of documents (paper, section 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from megaphi.data.batch import BatchShape
from megaphi.data.loading.loader import OpenMixture, open_mixture
from megaphi.data.order.mixture import Mixture, Split, check_names
from megaphi.data.order.schedule import StageSpan, lay_out_stages
from megaphi.data.storage.files.remote import check_remote_reading
from megaphi.engine.run_config import RunConfig
from megaphi.engine.task import OpenTask, TrainingTask
from megaphi.engine.training_data import RunData
from megaphi.errors import InputError
from megaphi.log import logger
from megaphi.own_code import pinned
from megaphi.parallel.layout import ParallelLayout
from megaphi.tokenizer.interface import Tokenizer

if TYPE_CHECKING:
    from megaphi.engine.start.resume import OpenWeights


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrain(TrainingTask):
    """Predict the next token of documents (config section `task`, kind Pretrain)."""

    mixture: Mixture
    """Sources with their shares, and the treatment of documents."""
    objective: str | None = None
    """Your own objective, file.py:Class (see engine/objective.py); none: the cross-entropy of the next token."""

    @property
    def has_validation(self) -> bool:
        return any(source.validation_paths for source in self.mixture.sources)

    def spans(self, run: RunConfig) -> tuple[StageSpan, ...]:
        """The mixture's stages, laid out in steps and samples."""
        return lay_out_stages(
            self.mixture,
            steps=run.training.steps,
            sequence_length=run.batch.sequence_length,
            global_batch=run.batch.global_batch,
            micro_batch=run.batch.micro_batch,
        )

    def batch_shapes(self, run: RunConfig) -> list[BatchShape]:
        return [
            BatchShape(
                sequence_length=span.sequence_length, global_batch=span.global_batch, micro_batch=span.micro_batch
            )
            for span in self.spans(run)
        ]

    def checked(self, run: RunConfig, layout: ParallelLayout) -> Pretrain:
        mixture = self.mixture
        check_names([source.name for source in mixture.sources])
        if run.training.steps < 1:
            raise InputError(f"training.steps={run.training.steps}: must be at least 1")
        self._check_stages(run, layout)
        check_remote_reading(mixture.remote)
        if mixture.reset_positions and not mixture.isolate_documents:
            raise InputError(
                "task.mixture.reset_positions=true needs task.mixture.isolate_documents=true: rotary positions are"
                " relative, so they only matter between tokens that attend to each other"
            )
        if mixture.isolate_documents and run.model.kernels == "transformer_engine":
            raise InputError("task.mixture.isolate_documents=true needs model.kernels=fused or reference")
        return replace(self, objective=pinned(self.objective, what="objective", where="task.objective"))

    def _check_stages(self, run: RunConfig, layout: ParallelLayout) -> None:
        """Refuse a mixture stage whose batch shape does not fit the layout."""
        for span in self.spans(run) if self.mixture.stages else ():
            try:
                layout.check_sequence(span.sequence_length)
                layout.check_batch(global_batch=span.global_batch, micro_batch=span.micro_batch)
            except InputError as error:
                raise InputError(f"mixture stage {span.name!r}: {error}") from None
        if self.mixture.stages and self.mixture.order == "megatron":
            raise InputError(
                "task.mixture.order=megatron has no mixture stages: remove task.mixture.stages, or use"
                " task.mixture.order=keyed"
            )
        if self.mixture.order == "megatron":
            cut = next((source.name for source in self.mixture.sources if source.windows == "documents"), None)
            if cut is not None or self.mixture.block_tokens is not None:
                what = f"sources.{cut}.windows=documents" if cut else f"block_tokens={self.mixture.block_tokens}"
                raise InputError(f"task.mixture.{what} needs task.mixture.order=keyed, not megatron")

    def rehearse(self) -> None:
        from megaphi.engine.own_objective import load_objective

        load_objective(self.objective)

    def open(self, run: RunConfig, tokenizer: Tokenizer | None) -> OpenTask:
        from megaphi.engine.own_objective import load_objective

        training, validation = self.open_mixtures(run, tokenizer)
        epochs = training.epochs(self.spans(run)[-1].end_sample)
        for source in training.describe():
            logger.info(
                "  %-12s %15s tokens, %.2f epochs in this run", source.name, f"{source.tokens:,}", epochs[source.name]
            )
        for name, coverage in training.coverage().items():
            logger.info("  %-12s %s", name, coverage)
        data = RunData(training=training, validation=validation)
        return OpenTask(run=run, data=data, objective=load_objective(self.objective))

    def open_mixtures(self, run: RunConfig, tokenizer: Tokenizer | None) -> tuple[OpenMixture, OpenMixture | None]:
        """Open the training data and, if there is any, the held-out data."""

        def split(name: Split) -> OpenMixture:
            return open_mixture(
                self.mixture,
                sequence_length=run.batch.sequence_length,
                seed=run.seed,
                tokenizer_fingerprint=None if tokenizer is None else tokenizer.fingerprint,
                vocabulary_size=run.model.vocabulary,
                split=name,
                stages=self.spans(run) if name == "training" else None,
            )

        return split("training"), split("validation") if self.has_validation else None


def mixture_of(run: RunConfig) -> Mixture:
    """Return the mixture of a run; raises InputError where its task is another."""
    if not isinstance(run.task, Pretrain):
        raise InputError(f"{run.recipe} has no mixture: its task is {type(run.task).__name__}, not Pretrain")
    return run.task.mixture


def open_data(run: RunConfig, *, open_weights: OpenWeights | None = None) -> tuple[OpenMixture, OpenMixture | None]:
    """Open the mixture, checked against the model's tokenizer, and the held-out one if there is any."""
    from megaphi.checkpoint.format import CheckpointReader
    from megaphi.stages.inheritance import inheritance_of

    inherited = inheritance_of(run, open_weights or CheckpointReader)
    mixture_of(run)
    assert isinstance(inherited.run.task, Pretrain)
    return inherited.run.task.open_mixtures(inherited.run, inherited.tokenizer)
