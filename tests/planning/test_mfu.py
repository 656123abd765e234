"""benchmarks/mfu.py: what is derived from slices, how kernels are grouped; tests/tools/test_first_gpu.py runs it."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import mfu
from benchmarks.mfu import (
    assumed_device,
    attention_note,
    main,
    parse,
    print_ratios,
    unlike_untrained,
    with_attention,
)
from benchmarks.mfu_model import layouts_of_the_14b
from benchmarks.mfu_profile import GROUPS, PREDICTED, group_of, microseconds_of
from benchmarks.mfu_rows import COLUMNS, append, rows_like
from benchmarks.mfu_scaled import LAYOUTS, head_share, layer_and_head, scaled, scaled_seconds
from benchmarks.mfu_sides import SLICES, TINY_SLICES, Slice, Step, run_of
from megaphi.engine.run_config import RunConfig
from megaphi.parallel import cpu_emulation, world
from megaphi.planning.step.device import B200, H100, H200, device_named
from megaphi.planning.step.shape import shape_of
from megaphi.planning.step.step_time import chunk_passes, step_time
from megaphi.planning.step.work import total


@dataclass(frozen=True)
class AsPredicted:
    """A slice that takes as long as the model says."""

    part: Slice
    run: RunConfig
    side: str = "megaphi"

    @property
    def micro_batch_seconds(self) -> float:
        return sum(map(total, chunk_passes(shape_of(self.run), H100, 0)))


@pytest.fixture
def emulated() -> None:
    """torch.cuda as the sides find it on a CPU."""
    cpu_emulation.install()


def slices() -> list[AsPredicted]:
    return [AsPredicted(part, run_of(part, micro_batch=1, micro_batches=32)) for part in SLICES]


@pytest.mark.parametrize("name", LAYOUTS)
def test_slices_that_take_as_long_as_predicted_give_the_predicted_14b(name: str) -> None:
    """Up to the embedding, which the derived time counts beside the head."""
    step = layouts_of_the_14b(512)[name]
    first, second = slices()
    layer, head = layer_and_head(first, second, H100)
    derived = scaled_seconds(step, layer, head, H100)
    assert derived == pytest.approx(step_time(step, H100).seconds, rel=2e-3)


@given(layer=st.floats(1e-3, 1), head=st.floats(1e-3, 1))
def test_layer_and_head_solve_both_slices(layer: float, head: float) -> None:
    """Any times of another machine: the two equations stay the same."""
    first, second = slices()

    @dataclass(frozen=True)
    class Took(AsPredicted):
        seconds: float = 0.0

        @property
        def micro_batch_seconds(self) -> float:
            return self.seconds

    share = head_share(first, second, H100)
    took = (
        Took(first.part, first.run, seconds=6 * layer + head),
        Took(second.part, second.run, seconds=8 * layer + share * head),
    )
    assert layer_and_head(*took, H100) == pytest.approx((layer, head), rel=1e-6)


def test_nothing_is_derived_without_both_slices() -> None:
    assert scaled(slices()[:1], H100, devices=512) == (
        [],
        "nothing is derived for many devices: both slices of megaphi are needed",
    )


def test_what_is_derived_is_a_row_with_its_device_and_assumptions() -> None:
    found, assumed = scaled(slices(), H200, devices=512)
    assert [one.name for one in found] == list(LAYOUTS)
    row = found[0].cells(slices()[0].run, {"device": "NVIDIA H200"}, note=assumed)
    assert set(row) <= set(COLUMNS)
    assert (row["side"], row["slice"]) == ("derived", "14B on 512 x H200 SXM, PP 4")
    assert "derived, not measured" in row["note"]
    assert "network" not in row["note"]
    assert float(row["mfu_causal"]) == pytest.approx(found[0].flops["causal"] / 989.4e12, abs=1e-4)
    assert f"MFU {float(row['mfu_causal']):.1%} causal"[:8] in found[0].line()


def test_the_device_is_known_by_the_name_that_its_driver_gives() -> None:
    names = {"NVIDIA H200": H200, "NVIDIA H100 80GB HBM3": H100, "NVIDIA B200": B200, "NVIDIA L4": None, "CPU": None}
    assert {name: device_named(name) for name in names} == names


@pytest.mark.usefixtures("emulated")
def test_a_side_that_fails_is_a_row_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is not built, one fails in its step, one runs out of memory, one works: sides by sides in one file."""

    def runs(batches: object) -> float:
        time.sleep(0.001)
        return 7.6

    def fails(batches: object) -> float:
        raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")

    def is_full(batches: object) -> float:
        raise torch.OutOfMemoryError("no room")

    def not_built(run: RunConfig, world: object) -> Step:
        raise ImportError("no such compiler")

    built: dict[str, Step] = {"megaphi": runs, "transformers": fails, "full": is_full}
    sides = {name: lambda run, world, step=step: step for name, step in built.items()} | {"megatron-core": not_built}
    monkeypatch.setattr(mfu, "SIDES", sides)
    monkeypatch.setattr(world, "start_world", lambda *_, **__: None)
    monkeypatch.setattr(mfu, "print_profile", lambda *_, **__: None)
    results = tmp_path / "mfu.csv"
    with pytest.raises(SystemExit, match="8 of 16 cases failed, the first by ImportError: no such compiler"):
        main(
            [
                "--tiny",
                "--write",
                "--results",
                str(results),
                "--sides",
                "megatron-core",
                "transformers",
                "full",
                "megaphi",
            ]
        )
    with results.open(newline="") as file:
        found = {(row["side"], row["note"]) for row in csv.DictReader(file)}
    assert found == {
        ("megatron-core", "ImportError: no such compiler"),
        ("transformers", "RuntimeError: CUDA error: an illegal memory access was encountered"),
        ("full", "out of memory"),
        ("megaphi", ""),
        ("megaphi", "loss 7.60, not about 5.55"),
    }
    assert "illegal memory access" in capsys.readouterr().out


@pytest.mark.usefixtures("emulated")
def test_ratios_are_taken_of_rows_that_other_processes_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest of this device, commit and number of micro-batches; peers that were not measured are left out."""
    base = dict.fromkeys(COLUMNS, "") | {"device": "H200", "commit": "a", "micro_batch": "1", "micro_batches": "32"}
    ours = base | {"side": "megaphi", "slice": "6 layers", "seconds": "2", "tokens_per_s": "9", "mfu_causal": "0.6"}
    rows = [
        base | {"side": "transformers", "slice": "6 layers", "seconds": "9"},
        base | {"side": "transformers", "slice": "6 layers", "seconds": "3"},
        base | {"side": "transformers", "slice": "6 layers", "seconds": "8", "commit": "b"},
        base | {"side": "megatron-core", "slice": "6 layers", "seconds": "nan"},
        base | {"side": "derived", "slice": "14B", "seconds": "1"},
        ours,
    ]
    for row in rows:
        append(row, tmp_path / "mfu.csv")
    print_ratios(rows_like(ours, tmp_path / "mfu.csv"))
    assert capsys.readouterr().out.endswith("figure, 1.50 times transformers\n")


def test_a_profile_counts_what_was_launched_once() -> None:
    """Ranges, as that of an optimizer's step, are events of the GPU too, and as long as the kernels within them."""

    def event(key: str, device: str, microseconds: int, *, is_range: bool = False) -> SimpleNamespace:
        return SimpleNamespace(
            key=key,
            device_type=SimpleNamespace(name=device),
            self_device_time_total=microseconds,
            self_cpu_time_total=7,
            is_user_annotation=is_range,
        )

    events = [
        event("multi_tensor_apply_kernel", "CUDA", 30),
        event("Optimizer.step#AdamW.step", "CUDA", 40, is_range=True),
        event("aten::_fused_adamw_", "CPU", 30),
    ]
    assert microseconds_of(events, is_gpu=True) == {"multi_tensor_apply_kernel": 30}
    assert microseconds_of(events, is_gpu=False).total() == 21


@pytest.mark.parametrize(
    ("kernel", "group"),
    [
        ("megaphi::rms_norm_backward", "norms"),
        ("void megaphi::add_rms_norm_kernel<__nv_bfloat16>", "norms"),
        ("void megaphi::rotary_kernel", "rotary"),
        ("nvjet_tst_256x128_64x4_1x2_h_bz_coopA_NNT", "products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "products"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16", "attention"),
        ("ncclDevKernel_ReduceScatter_Sum_f32_RING_LL", "communication"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("void at::native::vectorized_elementwise_kernel<4>", "elementwise"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("LinearWithGradAccumulationAndAsyncCommunicationBackward", "other"),
    ],
)
def test_kernels_are_grouped_by_their_names(kernel: str, group: str) -> None:
    assert group_of(kernel) == group


def test_every_part_that_one_device_has_stands_beside_a_group() -> None:
    parts = step_time(shape_of(run_of(SLICES[0], micro_batch=1, micro_batches=2)), H100).parts
    assert set(parts) == {part for held in PREDICTED.values() for part in held if part != "gradients and weights"}
    assert set(PREDICTED) <= set(GROUPS)


def test_another_kernel_of_attention_is_a_note_beside_its_figures() -> None:
    part = with_attention(SLICES[0], "cudnn")
    assert (part.name, part.model.attention_backend) == (SLICES[0].name, "cudnn")
    assert attention_note(run_of(part, micro_batch=1, micro_batches=4)) == "attention cudnn"
    assert attention_note(run_of(SLICES[0], micro_batch=1, micro_batches=4)) == ""


def test_a_deterministic_side_shares_its_process_with_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    """torch notes at the first matrix product whether cuBLAS may be told to be deterministic, once and for all."""
    assert "deterministic" not in parse([]).sides
    assert parse(["--sides", "deterministic"]).sides == ["deterministic"]
    with pytest.raises(SystemExit):
        parse(["--sides", "megaphi", "deterministic"])
    assert "a process of its own" in capsys.readouterr().err


def test_assumptions_are_options() -> None:
    assert assumed_device(parse(["--device", "h200"])) == H200
    changed = assumed_device(parse(["--products-tflops", "640", "--network-gigabytes", "40", "--device", "h100"]))
    assert (changed.products, changed.network_bytes, changed.memory) == (640e12, 40e9, H100.memory)


def test_predicting_needs_no_gpu_and_measuring_says_that_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model"])
    said = capsys.readouterr().out
    assert "model, not measured" in said
    assert "PP 4 x VPP 5" in said
    with pytest.raises(SystemExit, match="sees no GPU here"):
        main([])


def test_a_side_that_computes_something_else_is_noted() -> None:
    run = run_of(TINY_SLICES[0], micro_batch=1, micro_batches=4)
    assert unlike_untrained(7.7, run) == ""  # ln 2048 = 7.62
    assert "not about 7.62" in unlike_untrained(9.0, run)
    assert unlike_untrained(float("nan"), run)
