"""benchmarks/mfu.py: what is derived from slices, how kernels are grouped; tests/tools/test_first_gpu.py runs it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.mfu import assumed_device, main, parse, unlike_untrained
from benchmarks.mfu_model import layouts_of_the_14b
from benchmarks.mfu_profile import GROUPS, PREDICTED, group_of
from benchmarks.mfu_scaled import LAYOUTS, head_share, layer_and_head, print_scaled, scaled_seconds
from benchmarks.mfu_sides import SLICES, TINY_SLICES, Slice, run_of
from megaphi.engine.run_config import RunConfig
from megaphi.planning.step.device import H100, H200
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


def test_nothing_is_derived_without_both_slices(capsys: pytest.CaptureFixture[str]) -> None:
    print_scaled(slices()[:1], H100, devices=512)
    assert "both slices of megaphi are needed" in capsys.readouterr().out


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
