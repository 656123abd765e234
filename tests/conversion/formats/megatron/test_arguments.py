"""Arguments of a Megatron run, in whatever form they were pickled: honoured, neutral, or refused by name and value."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from megaphi.conversion.formats.megatron.arguments import (
    _ACCEPTED_AT,
    _OF_SUBSYSTEMS,
    ARGUMENT_KEYS,
    plain,
    read_arguments,
    refuse_arguments,
)
from megaphi.errors import InputError
from megaphi.foreign.restricted_pickle import StandIn
from tests.gloo_world import run_in_world


class Backend(enum.Enum):
    """As AttnBackend."""

    auto = 5


class Objects:
    """Objects that restricted unpickling cannot look into."""


def a_spec() -> None: ...


A_RUN: dict[str, Any] = {
    "num_layers": 4, "encoder_num_layers": 4, "decoder_num_layers": None, "hidden_size": 48, "ffn_hidden_size": 80,
    "num_attention_heads": 6, "attention_backend": Backend.auto, "kv_channels": 8, "group_query_attention": True,
    "num_query_groups": 2, "softmax_type": "vanilla", "window_size": None, "window_attn_skip_freq": None,
    "max_position_embeddings": 64, "position_embedding_type": "rope", "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128, "use_rotary_position_embeddings": True, "rotary_base": 10000,
    "rotary_percent": 1.0, "rotary_interleaved": False, "rotary_seq_len_interpolation_factor": None,
    "use_rope_scaling": False, "rope_scaling_factor": 8.0, "no_rope_freq": None, "add_position_embedding": True,
    "mrope_section": None, "make_vocab_size_divisible_by": 128, "normalization": "RMSNorm", "norm_epsilon": 1e-5,
    "apply_layernorm_1p": False, "apply_residual_connection_post_layernorm": False, "openai_gelu": False,
    "squared_relu": False, "swiglu": True, "quick_geglu": False, "activation_func_clamp_value": None,
    "glu_linear_offset": 0.0, "onnx_safe": None, "bert_binary_head": True, "multi_latent_attention": False,
    "untie_embeddings_and_output_weights": True, "mtp_num_layers": None, "mtp_loss_scaling_factor": 0.1,
    "straggler_ctrlr_port": 65535, "inprocess_heartbeat_interval": 30, "inprocess_granularity": "node",
    "enable_one_logger": True, "one_logger_project": "megatron-lm", "app_tag_run_version": "0.0.0",
    "timing_log_option": "minmax", "barrier_with_L1_time": True, "tensorboard_queue_size": 1000,
    "attention_dropout": 0.1, "hidden_dropout": 0.1, "weight_decay": 0.01, "weight_decay_incr_style": "constant",
    "clip_grad": 1.0, "adam_beta1": 0.9, "sgd_momentum": 0.9, "muon_scale_mode": "spectral", "grpo_group_size": 2,
    "rl_prompts_per_eval": 32, "langrl_inference_server_type": "inplace_megatron", "micro_batch_size": 4,
    "global_batch_size": 1024, "rampup_batch_size": ["16", "8", "300000"], "recompute_granularity": "selective",
    "recompute_modules": ["core_attn"], "check_for_nan_in_loss_and_grad": True, "profile_step_start": 10,
    "profile_ranks": [0], "iterations_to_skip": [], "memory_snapshot_path": "x.pickle", "tp_comm_overlap_ag": True,
    "tp_comm_bootstrap_backend": "nccl", "train_iters": 500000, "log_interval": 100, "exit_signal_handler": False,
    "masked_softmax_fusion": True, "bias_gelu_fusion": False, "bias_swiglu_fusion": True, "apply_rope_fusion": True,
    "rope_type": None, "cross_entropy_fusion_impl": "native", "use_flash_attn": True, "add_bias_linear": False,
    "add_qkv_bias": False, "optimizer": "adam", "optimizer_offload_fraction": 1.0, "pin_cpu_grads": True,
    "dataloader_type": "single", "async_tensor_model_parallel_allreduce": True, "gradient_accumulation_fusion": True,
    "manual_gc_eval": True, "error_injection_type": "transient_error", "rerun_mode": "validate_results", "seed": 1234,
    "init_method_std": 0.02, "lr": 3e-4, "lr_decay_style": "cosine", "min_lr": 3e-5, "save": "/x", "save_interval": 500,
    "load": "/x", "non_persistent_local_ckpt_algo": "fully_parallel", "perform_initialization": True, "finetune": False,
    "use_tokenizer_model_from_checkpoint_args": True, "ckpt_format": "torch_dist", "ckpt_fully_parallel_save": True,
    "dist_ckpt_strictness": "assume_ok_unexpected", "bf16": True, "params_dtype": torch.bfloat16,
    "initial_loss_scale": 2.0**32, "min_loss_scale": 1.0, "loss_scale_window": 1000, "hysteresis": 2,
    "attention_softmax_in_fp32": True, "accumulate_allreduce_grads_in_fp32": True, "tensor_model_parallel_size": 2,
    "pipeline_model_parallel_size": 2, "overlap_p2p_comm": True, "distributed_backend": "nccl",
    "align_grad_reduce": True,
    "scatter_gather_tensors_in_pipeline": True, "local_rank": 0, "use_distributed_optimizer": True,
    "data_parallel_sharding_strategy": "no_shard", "gradient_reduce_div_fusion": True, "context_parallel_size": 1,
    "num_distributed_optimizer_instances": 1, "torch_fsdp2_reshard_after_forward": True, "cp_comm_type": ["p2p"],
    "replication_factor": 2, "eval_iters": 100, "eval_interval": 1000, "vocab_size": 100, "padded_vocab_size": 128,
    "tokenizer_type": "GPT2BPETokenizer", "tiktoken_num_special_tokens": 1000, "data_path": ["0.3", "/a", "0.7", "/b"],
    "split": "99,1,0", "mmap_bin_files": True, "seq_length": 64, "retriever_seq_length": 256, "sample_rate": 1.0,
    "mask_prob": 0.15, "short_seq_prob": 0.1, "num_workers": 2, "create_attention_mask_in_dataloader": True,
    "num_dataset_builder_threads": 1, "adlr_autoresume_interval": 1000, "query_in_block_prob": 0.1,
    "indexer_batch_size": 128, "num_classes": 1000, "img_h": 224, "num_channels": 3, "patch_dim": 16,
    "classes_fraction": 1.0, "data_sharding": True, "head_lr_mult": 1.0, "vision_backbone_type": "vit",
    "swin_backbone_type": "tiny", "mask_type": "random", "iter_per_epoch": 1250, "dino_teacher_temp": 0.07,
    "qk_layernorm": False, "qk_l2_norm": False, "expert_model_parallel_size": 1, "num_experts": None,
    "moe_layer_freq": 1, "moe_router_load_balancing_type": "aux_loss", "moe_router_topk": 2, "moe_aux_loss_coeff": 0.0,
    "kv_lora_rank": 32, "qk_head_dim": 128, "v_head_dim": 128, "rotary_scaling_factor": 1.0, "mscale": 1.0,
    "spec": None,
    "hybrid_attention_ratio": 0.0, "mamba_state_dim": 128, "main_grads_dtype": "fp32", "exp_avg_dtype": "fp32",
    "enable_msc": True, "sft_tokenizer_prompt_format": "nemotron-h-aligned", "fp8_margin": 0, "fp8_wgrad": True,
    "fp8_amax_compute_algo": "most_recent", "fp4_recipe": "nvfp4", "transformer_impl": "transformer_engine",
    "num_layers_at_start_in_bf16": 1, "inference_max_seq_length": 2560, "max_tokens_to_oom": 12000,
    "bert_embedder_type": "megatron", "cuda_graph_scope": "full", "mlp_chunks_for_prefill": 1,
    "retro_encoder_layers": 2,
    "rank": 0, "world_size": 512, "data_parallel_size": 128, "consumed_train_samples": 5760, "iteration": 7,
    "curr_iteration": 7, "virtual_pipeline_model_parallel_size": None, "warmup": None, "phase": "",
}  # fmt: skip
"""A run's arguments as Megatron-LM 0.14 makes them: all groups of its parser, most with a value of their own."""
REFUSED: dict[str, tuple[Any, str]] = {
    "window_size": ((128, 0), r"window_size=\[128, 0\]"),
    "window_attn_skip_freq": ([1, 1, 1, 0], "window_attn_skip_freq"),  # with a window
    "no_rope_freq": ([0, 0, 0, 1], r"no_rope_freq=\[0, 0, 0, 1\]"),
    "mrope_section": ([16, 24, 24], r"mrope_section=\[16, 24, 24\]"),
    "spec": (["my.module", "spec"], r"spec=\['my.module', 'spec'\]"),
    "transformer_layer_spec": (
        a_spec,
        "transformer_layer_spec='tests.conversion.formats.megatron.test_arguments.a_spec'",
    ),
    "activation_func": (torch.nn.functional.relu, "activation_func='torch.nn.functional.relu'"),
    "softmax_type": ("learnable", "softmax_type='learnable'"),
    "softmax_scale": (0.5, "softmax_scale=0.5"),
    "rope_scaling": ({"factor": 4.0}, r"rope_scaling=\{'factor': 4.0\}"),
    "use_rope_scaling": (True, "use_rope_scaling=True"),
    "rotary_seq_len_interpolation_factor": (4, "rotary_seq_len_interpolation_factor=4"),
    "rotary_percent": (0.5, "rotary_percent=0.5"),
    "rope_type": ("yarn", "rope_type='yarn'"),
    "rotary_base": ("10k", "rotary_base='10k'"),
    "normalization": (None, "normalization=None"),
    "swiglu": (False, "swiglu=False"),
    "squared_relu": (True, "squared_relu=True"),
    "glu_linear_offset": (1.0, "glu_linear_offset=1.0"),
    "activation_func_clamp_value": (7.0, "activation_func_clamp_value=7.0"),
    "qk_l2_norm": (True, "qk_l2_norm=True"),
    "num_moe_experts": (8, "num_moe_experts=8"),
    "hybrid_override_pattern": ("M-M*-", r"hybrid_override_pattern='M-M\*-'"),
    "heterogeneous_layers_config_encoded_json": ("{}", "heterogeneous_layers_config_encoded_json='{}'"),
    "experimental_attention_variant": ("dsa", "experimental_attention_variant='dsa'"),
    "something_of_next_year": (Backend.auto, r"something_of_next_year='.*Backend\(5\)'"),
    "something_else": ({"layers": [1]}, r"something_else=\{'layers': \[1\]\}"),
    "an_object": (Objects(), "an_object='.*Objects"),
    "a_type": (torch.float16, "a_type='torch.float16'"),
}


def written(folder: Path, args: Any) -> dict[str, Any]:
    """Configuration read from a common.pt with these arguments."""
    torch.save({"args": args, "iteration": 7}, folder / "common.pt")
    arguments, iteration = read_arguments(folder)
    assert iteration == 7
    return arguments


def check(arguments: dict[str, Any], *, tied: bool = False, ignored: tuple[str, ...] = ()) -> None:
    refuse_arguments(arguments, tied=tied, ignored=ignored, where="iter_0000007")


@pytest.mark.parametrize("namespace", [argparse.Namespace, types.SimpleNamespace, dict])
def test_an_ordinary_run_is_understood(namespace: Any, tmp_path: Path) -> None:
    arguments = written(tmp_path, namespace(**A_RUN))
    assert arguments.keys() == A_RUN.keys()
    assert arguments["params_dtype"] == "torch.bfloat16"
    check(arguments)
    check({})


@pytest.mark.parametrize("name", REFUSED)
def test_what_changes_the_function_is_refused_in_every_form(name: str, tmp_path: Path) -> None:
    value, words = REFUSED[name]
    extra = {"window_size": (128, 0)} if name == "window_attn_skip_freq" else {}
    arguments = written(tmp_path, argparse.Namespace(**{**A_RUN, **extra, name: value}))
    with pytest.raises(InputError, match=rf"iter_0000007: .*{words}.* in its arguments: not supported"):
        check(arguments)


def test_only_what_nobody_here_knows_can_be_passed_over(tmp_path: Path) -> None:
    arguments = written(tmp_path, argparse.Namespace(**A_RUN, our_flag="x", our_other=3))
    with pytest.raises(InputError, match=r"our_flag='x', our_other=3 .*add ignore=our_flag,our_other"):
        check(arguments)
    check(arguments, ignored=("our_flag", "our_other"))
    with pytest.raises(InputError, match=r"window_size=\[1\]") as refusal:
        check({"window_size": [1]}, ignored=("window_size",))
    assert "ignore=" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value", "tied"),
    [
        ("untie_embeddings_and_output_weights", True, True),
        ("untie_embeddings_and_output_weights", False, False),
        ("share_embeddings_and_output_weights", False, True),
        ("share_embeddings_and_output_weights", True, False),
    ],
)
def test_a_tie_that_the_tensors_contradict(name: str, value: bool, tied: bool) -> None:
    check({name: value}, tied=not tied)
    with pytest.raises(InputError, match=f"{name}={value} in its arguments, and an output layer is"):
        check({name: value}, tied=tied)


def test_arguments_in_no_form_that_is_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"args are \['--swiglu'\], expected a namespace"):
        written(tmp_path, ["--swiglu"])
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InputError, match="changes a container that is a part of another, or of itself"):
        written(tmp_path, argparse.Namespace(data_path=endless))


BRIDGE = """
_target_: megatron.bridge.training.config.ConfigContainer
model:
  _target_: megatron.bridge.models.llama.llama_provider.Llama3ModelProvider
  num_layers: 4
  num_attention_heads: 6
  num_query_groups: 2
  layernorm_epsilon: 1.0e-05
  normalization: RMSNorm
  gated_linear_unit: true
  add_bias_linear: false
  position_embedding_type: rope
  rotary_base: 250000
  rotary_percent: 1.0
  seq_len_interpolation_factor: null
  share_embeddings_and_output_weights: false
  seq_length: 64
  params_dtype: {_target_: torch.bfloat16, _call_: false}
  init_method: {_target_: torch.nn.init.normal_, _partial_: true, mean: 0.0, std: 0.02}
  transformer_layer_spec: {_target_: megatron.bridge.models.gpt_provider.default_layer_spec, _call_: false}
  activation_func: {_target_: torch.nn.functional.silu, _call_: false}
"""


def test_a_run_configuration_of_megatron_bridge(tmp_path: Path) -> None:
    path = tmp_path / "run_config.yaml"
    path.write_text(BRIDGE)
    arguments, _ = read_arguments(tmp_path)
    assert (arguments["num_attention_heads"], arguments["rotary_base"]) == (6, 250_000)
    check(arguments)
    for right, wrong in (("functional.silu", "functional.gelu"), ("default_layer_spec", "my_spec"), ("RMS", "Layer")):
        path.write_text(BRIDGE.replace(right, wrong))
        with pytest.raises(InputError, match=rf"{wrong}.* in its arguments: not supported"):
            check(read_arguments(tmp_path)[0])
    path.write_text(BRIDGE.replace("rotary_percent: 1.0", "qk_layernorm: true"))
    with pytest.raises(InputError, match="qk_layernorm=True"):
        check(read_arguments(tmp_path)[0])
    for damage in ("model: [", "- model", "model: !!python/object/apply:os.system [x]", "model: 3"):
        path.write_text(damage)
        with pytest.raises(InputError, match=r"run_config.yaml (is corrupted|does not hold what .* writes)"):
            read_arguments(tmp_path)


def _fields() -> dict[str, Any]:
    """Every field of the installed Megatron's configuration, and its default as text."""
    from megatron.core.transformer import MLATransformerConfig

    def default(field: Any) -> Any:
        made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        return made if isinstance(made, bool | int | float | str | None) else repr(made)

    return {field.name: default(field) for field in dataclasses.fields(MLATransformerConfig)}


def test_every_field_of_the_installed_megatron_is_in_a_list() -> None:
    (fields,) = run_in_world(_fields, processes=1)
    known = {*ARGUMENT_KEYS.honoured, *ARGUMENT_KEYS.neutral, *_ACCEPTED_AT}
    unlisted = {name for name in fields if name not in known and not name.startswith(_OF_SUBSYSTEMS)}
    assert {name for name in unlisted if fields[name]} == set()  # unset ones are refused when somebody sets them
    assert not known & {name for name in ARGUMENT_KEYS.neutral if name in _ACCEPTED_AT}


def test_names_of_what_was_pickled() -> None:
    assert plain((1, [None, {"a": (2,)}])) == [1, [None, {"a": [2]}]]


def test_calls_within_calls_are_a_text_of_bounded_length() -> None:
    """Found by coverage-guided fuzzing: each level doubled the backslashes."""
    value = StandIn("a", ("'\"",))
    for _ in range(60):
        value = StandIn("a", (value,))
    assert len(plain(value)) < 1_000
