"""Training runs that others published on H100s, with the time of a step and the configuration behind it.

Where a configuration, or a part of it, is not published, `assumed` says what is taken instead. The model of a step was
not fitted to any of them: its rates are those of products and kernels by themselves (megaphi/planning/step/device.py).

Not here: Megatron-LM's 7.1B and 32B. The table of that scaling study is a picture, and no text with the configuration
and the speed of these two was found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from megaphi.data.batch import BatchShape
from megaphi.model.architecture import PHI4_14B, Architecture
from megaphi.parallel.layout import ParallelLayout
from megaphi.planning.step.device import H100, Device
from megaphi.planning.step.shape import StepShape

FLASH_2 = replace(H100, attention=328e12)
"""FlashAttention 2 on an H100: Azure's AI benchmarking guide, ND H100 v5."""
WINDOWED = replace(FLASH_2, attention=FLASH_2.attention / (1 / 4 + 3 / 4 * 3 / 4))
"""Three of four layers of OLMo 3 see 4,096 tokens: of rows of 8,192 three quarters of the causal half."""


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """A run on H100s, with the time of a step that its authors give."""

    name: str
    seconds: float
    step: StepShape
    source: str
    assumed: str = ""
    """Values taken where none are published."""
    device: Device = H100
    """With the attention that the run had."""

    def on(self, device: Device) -> Device:
        """The assumed device, with this run's attention instead of the usual one's."""
        return replace(device, attention=device.attention * self.device.attention / H100.attention)


def published_runs() -> Iterator[PublishedRun]:
    yield from nvidia_bf16()
    yield from nvidia_fp8()
    yield from others()


def grouped_by_eight(
    *, layers: int, hidden: int, feed_forward: int, heads: int, vocabulary: int, head_size: int = 128
) -> Architecture:
    """A model whose queries share eight key-value groups."""
    return architecture(layers, hidden, feed_forward, heads, 8, vocabulary, head_size=head_size)


def architecture(
    layers: int, hidden: int, feed_forward: int, heads: int, groups: int, vocabulary: int, *, head_size: int = 128
) -> Architecture:
    return Architecture(
        layers=layers,
        hidden=hidden,
        feed_forward=feed_forward,
        heads=heads,
        key_value_groups=groups,
        head_size=head_size,
        vocabulary=vocabulary,
    )


LLAMA_8B = grouped_by_eight(layers=32, hidden=4_096, feed_forward=14_336, heads=32, vocabulary=128_256)
LLAMA_70B = grouped_by_eight(layers=80, hidden=8_192, feed_forward=28_672, heads=64, vocabulary=128_256)
LLAMA_405B = grouped_by_eight(layers=126, hidden=16_384, feed_forward=53_248, heads=128, vocabulary=128_256)
# Nemotron's FFN has no gate, and 3/2 of this width: as many numbers in its matrices as a SwiGLU of the width here. The
# same for MPT and Megatron-LM's 16B below.
NEMOTRON_15B = grouped_by_eight(layers=32, hidden=6_144, feed_forward=16_384, heads=48, vocabulary=256_000)
NEMOTRON_340B = grouped_by_eight(
    layers=96, hidden=18_432, feed_forward=49_152, heads=96, vocabulary=256_000, head_size=192
)
LLAMA_2_7B = architecture(32, 4_096, 11_008, 32, 32, 32_000)
LLAMA_2_13B = architecture(40, 5_120, 13_824, 40, 40, 32_000)
LLAMA_2_70B = replace(LLAMA_70B, vocabulary=32_000)
MPT_13B = replace(architecture(40, 5_120, 13_653, 40, 40, 50_368), tied_embeddings=True)
OLMO_3_7B = architecture(32, 4_096, 11_008, 32, 32, 100_352)
OLMO_3_32B = grouped_by_eight(layers=64, hidden=5_120, feed_forward=27_648, heads=40, vocabulary=100_352)
MEGATRON_16B = architecture(32, 6_144, 16_384, 48, 48, 131_072)


def shape(
    model: Architecture, layout: ParallelLayout, devices: int, length: int, global_batch: int, micro_batch: int = 1
) -> StepShape:
    batch = BatchShape(sequence_length=length, global_batch=global_batch, micro_batch=micro_batch)
    return StepShape(model=model, layout=layout.for_world(devices), batch=batch)


def nvidia_bf16() -> Iterator[PublishedRun]:
    """Recipes with the seconds of a step."""
    source = "NVIDIA/dgxc-benchmarking, llama3.1/README_*.md (NeMo 24.09) and nemotron/README.md (2025), bf16"
    cut_4 = ParallelLayout(tensor=4, pipeline=4, virtual_pipeline=5, context=2, sequence_parallel=True)
    cut_9 = ParallelLayout(tensor=8, pipeline=9, virtual_pipeline=7, context=2, sequence_parallel=True)
    cut_8 = ParallelLayout(tensor=8, pipeline=8, virtual_pipeline=12, sequence_parallel=True)
    proxy = ParallelLayout(tensor=8, context=2, sequence_parallel=True)
    pair = ParallelLayout(tensor=2, sequence_parallel=True)
    proxy_model = replace(LLAMA_405B, layers=7)
    for name, seconds, step in (
        ("Llama 3.1 8B, CP 2", 12.91, shape(LLAMA_8B, ParallelLayout(context=2), 8, 8_192, 128)),
        ("Llama 3.1 8B, CP 2", 13.10, shape(LLAMA_8B, ParallelLayout(context=2), 128, 8_192, 2_048)),
        ("Llama 3.1 70B, TP 4 x PP 4 x VPP 5 x CP 2", 14.72, shape(LLAMA_70B, cut_4, 64, 8_192, 128)),
        ("Llama 3.1 70B, TP 4 x PP 4 x VPP 5 x CP 2", 14.98, shape(LLAMA_70B, cut_4, 2_048, 8_192, 4_096)),
        ("Llama 3.1 405B, TP 8 x PP 9 x VPP 7 x CP 2", 17.20, shape(LLAMA_405B, cut_9, 576, 8_192, 252)),
        ("Llama 3.1 405B, 7 layers, TP 8 x CP 2", 8.85, shape(proxy_model, proxy, 32, 8_192, 126)),
        ("Nemotron 4 15B, TP 2", 2.746, shape(NEMOTRON_15B, pair, 16, 4_096, 64, 2)),
        ("Nemotron 4 340B, TP 8 x PP 8 x VPP 12", 4.606, shape(NEMOTRON_340B, cut_8, 256, 4_096, 64)),
    ):
        yield PublishedRun(name=name, seconds=seconds, step=step, source=source)


def nvidia_fp8() -> Iterator[PublishedRun]:
    """Tokens per second and GPU; all Llama 2 of the table."""
    source = "NVIDIA/NeMo, docs/source/performance/performance_summary.md, pre-training on DGX H100 at FP8"
    piped = ParallelLayout(pipeline=4, virtual_pipeline=10)
    cut = ParallelLayout(tensor=4, pipeline=4, virtual_pipeline=20, sequence_parallel=True)
    for name, rate, model, layout, devices in (
        ("Llama 2 7B, FP8", 16_634, LLAMA_2_7B, ParallelLayout(), 8),
        ("Llama 2 13B, PP 4 x VPP 10, FP8", 8_715, LLAMA_2_13B, piped, 16),
        ("Llama 2 70B, TP 4 x PP 4 x VPP 20, FP8", 1_717, LLAMA_2_70B, cut, 64),
    ):
        step = replace(shape(model, layout, devices, 4_096, 128), precision="fp8")
        yield PublishedRun(name=name, seconds=seconds_at(rate, step), step=step, source=source)


def others() -> Iterator[PublishedRun]:
    """Fully sharded PyTorch, Megatron-LM's own scaling study, and Phi-4 itself."""
    mpt = shape(MPT_13B, ParallelLayout(), 8, 4_096, 240, 10)
    yield PublishedRun(
        name="MPT 13B, FSDP, whole layers recomputed",
        seconds=seconds_at(4_717, mpt),
        step=replace(mpt, recompute="full"),
        source="mosaicml/llm-foundry, scripts/train/benchmarking/README.md, H100 80GB BF16",
        assumed="FlashAttention 2; weights gathered behind products",
        device=FLASH_2,
    )
    olmo = "OLMo 3 report (arXiv 2512.13961), table 34; allenai/OLMo-core, src/scripts/official/OLMo3"
    for name, rate, model, devices, unknown in (
        ("OLMo 3 7B, HSDP 64 x 8", 7_700, OLMO_3_7B, 512, "gradients reduced behind the backward pass"),
        ("OLMo 3 32B, HSDP 16 x 64", 1_960, OLMO_3_32B, 1_024, "the same; only elementwise kernels recomputed"),
    ):
        step = shape(model, ParallelLayout(), devices, 8_192, devices)
        yield PublishedRun(
            name=name, seconds=seconds_at(rate, step), step=step, source=olmo, assumed=unknown, device=WINDOWED
        )
    sixteen = shape(MEGATRON_16B, ParallelLayout(tensor=4, sequence_parallel=True), 192, 4_096, 384)
    flops = 6 * MEGATRON_16B.matmul_parameters + 12 * MEGATRON_16B.layers * MEGATRON_16B.query_width * 4_096
    yield PublishedRun(
        name="Megatron-LM 16B, TP 4",
        seconds=seconds_at(489e12 / flops, sixteen),
        step=sixteen,
        source="Megatron-LM's scaling study on H100s, second-hand, as its table is a picture: 489 TFLOP/s per GPU",
        assumed="attention counted in full; 32 layers of 6,144; 384 sequences in micro-batches of 1",
    )
    layout = ParallelLayout(pipeline=4, virtual_pipeline=5, stage_layers=(*(2,) * 16, 3, 2, 2, 1))
    phi = shape(PHI4_14B, layout, 1_920, 4_096, 5_760)
    yield PublishedRun(
        name="Phi-4 14B, 9.8T tokens in 21 days",
        seconds=phi.batch.tokens_per_step / (9.8e12 / (21 * 86_400)),
        step=phi,
        source="microsoft/phi-4, model card",
        assumed="everything but the model: this repository's recipe; the 21 days hold all stops",
    )


def seconds_at(rate: float, step: StepShape) -> float:
    """Seconds of a step at so many tokens per second and device."""
    return step.batch.tokens_per_step / step.layout.world_size / rate
