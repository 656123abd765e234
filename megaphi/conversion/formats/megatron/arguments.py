"""The model described by a Megatron checkpoint: `args` in common.pt (since Megatron-Core 0.19 an object of the folder),
or `model` in Megatron-Bridge's run_config.yaml.

Several hundred arguments describe a whole run. One that is None, false, zero or empty is not set; every other is
honoured, is known to change nothing, or is refused by name and value: functions, enumerations and types of torch by
their names, since nothing of them is imported. A fork's own argument can be ignored with `ignore=NAME`; one that
is known to change the function cannot.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from megaphi.conversion.formats.megatron.torch_dist import TorchDistFolder, pickle_within
from megaphi.conversion.formats.understood import Test, Understood, off, only, positive, shown
from megaphi.errors import InputError
from megaphi.foreign.files import brief, damage_named, open_regular, read_small
from megaphi.foreign.restricted_pickle import Name, StandIn, read_pickle

COMMON, RUN_CONFIG = "common.pt", "run_config.yaml"
COMMON_OBJECT = "common_state/shard_0_1"
"""The same since Megatron-Core 0.19, in the folder of tensors."""
LARGEST_RUN_CONFIG = 1 << 18
"""Size limit of run_config.yaml, of which Megatron-Bridge writes a tenth."""
_OF_SUBSYSTEMS = tuple(
    """
    adam_ adlr_ app_tag_ async_ autoresume_ barrier_ bert_ biencoder_ check_ checkpoint_ ckpt_ config_logger_ cp_comm_
    cpu_offloading cuda_graph_ data_ dataloader_ ddp_ dino_ dist_ckpt_ distributed_ dsa_ error_injection_ eval_ exit_
    exp_avg_ expert_ fim_ flight_recorder_ fp4 fp8 fsdp_ ft_ grad_ grpo_ high_priority_ ict_ img_ indexer_ inference_
    inprocess_ kitchen_ langrl_ lion_ log_ logging_ logits_load_ logits_save_ lr_ mamba_ manual_gc megatron_fsdp_
    mid_level_ moe_ mtp_ muon_ nccl_ non_persistent_ num_layers_at_ num_layers_in_ object_storage_ offload_
    one_logger_ optimizer outer_dp_ overlap_ per_split_ pin_cpu_ pipeline_ profile_ query_in_ recompute_ record_
    replication rerun_ result_rejected_ retriever_ retro_ rl_ save sft_ sgd_ sharp_ straggler_ swin_ tensor_model_
    tensorboard_ test_ tiktoken_ timing_ tokenizer_ torch_fsdp2_ tp_comm_ train_ transformer_pipeline_ valid_
    virtual_pipeline_ vision_ wandb_ weight_decay wgrad_
    """.split()
)
"""Prefixes of arguments that steer a run, or a part that another argument (refused by name) switches on."""
_OF_THE_RUN = """
    _target_ account_for_embedding_in_pipeline_split account_for_loss_in_pipeline_split
    accumulate_allreduce_grads_in_fp32 activation_offload_fraction add_position_embedding align_grad_reduce
    align_param_gather apply_query_key_layer_scaling apply_rope_fusion attention_backend attention_dropout
    attention_softmax_in_fp32 auto_detect_ckpt_format autocast_dtype batch_invariant_mode batch_p2p_comm
    batch_p2p_sync batch_size bf16 bias_activation_fusion bias_dropout_fusion bias_gelu_fusion bias_swiglu_fusion
    block_data_path cache_mla_latents calc_ft_timeouts calculate_per_token_loss classes_fraction clip_grad
    clone_scatter_output_in_embedding consumed_train_samples consumed_valid_samples context_parallel_size
    create_attention_mask_in_dataloader cross_entropy_fusion_impl cross_entropy_loss_fusion curr_iteration
    deallocate_pipeline_outputs decode_only_cuda_graphs decoder_first_pipeline_num_layers
    decoder_last_pipeline_num_layers decoder_seq_length decoupled_lr decoupled_min_lr decrease_batch_size_if_needed
    defer_embedding_wgrad_compute delay_wgrad_compute deprecated_use_mcore_models deterministic_mode
    disable_bf16_reduced_precision_matmul disable_parameter_transpose_cache disable_straggler_on_startup
    distribute_saved_activations dump_param_to_param_group_map embedding_init_method embedding_init_method_std
    embedding_path empty_unused_memory_level enable_autocast enable_cuda_graph enable_experimental enable_ft_package
    enable_full_sharding_in_hsdp enable_gloo_process_groups enable_msc enable_one_logger encoder_num_layers
    encoder_seq_length end_weight_decay eod_mask_loss evidence_data_path external_cuda_graph finalize_model_grads_func
    fine_grained_activation_offloading finetune first_last_layers_bf16 flash_attention_version flash_decode fp16
    fp16_lm_cross_entropy fp32_residual_connection full_validation fused_residual_rmsnorm fused_single_qkv_rope
    generation_config global_batch_size gradient_accumulation_fusion gradient_reduce_div_fusion group_query_attention
    gtp_weight_remat_size head_lr_mult hidden_dropout hysteresis init_method init_method_std
    init_method_xavier_uniform init_model_with_meta_device initial_loss_scale iter_per_epoch iteration
    iterations_to_skip keep_fp8_transpose_cache layernorm_compute_dtype lazy_mpu_init legacy_tokenizer
    linear_conv_kernel_dim linear_key_head_dim linear_num_key_heads linear_num_value_heads linear_value_head_dim load
    load_main_params_from_ckpt local_rank loss_scale loss_scale_window lr main_grads_dtype main_params_dtype
    make_vocab_size_divisible_by mask_factor mask_prob mask_type masked_softmax_fusion max_position_embeddings
    max_tokens_to_oom memory_efficient_layer_norm memory_snapshot_path merge_file micro_batch_size
    microbatch_group_size_per_vp_stage min_loss_scale min_lr min_offloaded_tensor_size mlp_chunks_for_prefill
    mlp_chunks_for_training mmap_bin_files mock_data model_parallel_size multiple_validation_sets no_load_optim
    no_load_rng no_persist_layer_norm no_save_optim no_save_rng no_sync_func null_tokenizer_pad_id num_channels
    num_classes num_dataset_builder_threads num_distributed_optimizer_instances num_layers_per_virtual_pipeline_stage
    num_microbatches_with_partial_activation_checkpoints num_virtual_stages_per_pipeline_rank num_workers
    offset_sampling_seed_by_dp_rank onnx_safe output_bert_embeddings output_layer_init_method
    override_opt_param_scheduler pad_vocab_size padded_vocab_size parallel_output param_sync_func params_dtype
    patch_dim perform_initialization perform_rl_step persist_layer_norm phase pretrained_checkpoint profile qk_clip
    qk_clip_alpha qk_clip_threshold rampup_batch_size rank refit_method relative_attention_max_distance
    relative_attention_num_buckets reset_attention_mask reset_position_ids reuse_grad_buf_for_mxfp8_param_ag
    run_workload_inspector_server sample_rate scatter_embedding_sequence_parallel scatter_gather_tensors_in_pipeline
    seed sequence_parallel sft short_seq_prob should_pad_vocab skip_train skipped_train_samples split
    start_weight_decay stream_ckpt_dequant strict_fsdp_dtensor_load suggested_communication_unit_size
    symmetric_ar_type te_rng_tracker tensor_parallel_num_weight_shards titles_data_path tp_only_amax_red
    transformer_impl trust_remote_code use_checkpoint_args use_checkpoint_opt_param_scheduler use_cpu_initialization
    use_dist_ckpt use_dist_ckpt_deprecated use_distributed_optimizer use_flash_attn use_fused_weighted_squared_relu
    use_gloo_process_groups use_inference_optimized_layers use_layer_wise_param_layout use_legacy_static_engine
    use_mamba_mem_eff_path use_mcore_models use_megatron_fsdp use_mp_args_from_checkpoint_args use_nccl_ub
    use_one_sent_docs use_persistent_ckpt_worker use_precision_aware_optimizer use_pytorch_profiler
    use_ring_exchange_p2p use_rotary_position_embeddings use_sharp use_te_activation_func use_te_rng_tracker
    use_tokenizer_model_from_checkpoint_args use_torch_fsdp2 use_torch_optimizer_for_cpu_offload use_tp_pp_dp_mapping
    use_transformer_engine_full_layer_spec use_transformer_engine_op_fuser vocab_extra_ids vocab_file vocab_size
    warmup world_size yaml_cfg
"""
"""Steer how a run goes or how fast: what the weights compute is the same at any value. Dropout is of training."""
_OF_LATENT_ATTENTION = """
    q_lora_rank kv_lora_rank qk_head_dim qk_pos_emb_head_dim v_head_dim rotary_scaling_factor mscale mscale_all_dim
    beta_fast beta_slow original_max_position_embeddings
"""
"""Arguments that are set but unused without `multi_latent_attention`, or while scaling is off."""
_SHAPES_TELL = "num_layers hidden_size ffn_hidden_size kv_channels num_query_groups"
_SWITCHES = """
    activation_func_clamp_value add_bias_linear add_qkv_bias apply_layernorm_1p
    apply_residual_connection_post_layernorm attention_output_gate decoder_num_layers experimental_attention_variant
    glu_linear_offset heterogeneous_block_specs heterogeneous_layers_config_encoded_json
    heterogeneous_layers_config_path hybrid_attention_ratio hybrid_layer_pattern hybrid_mlp_ratio
    hybrid_override_pattern is_hybrid_model layernorm_zero_centered_gamma linear_attention_freq linear_attention_type
    moe_shared_expert_intermediate_size mrope_section mtp_num_layers multi_latent_attention num_experts
    num_moe_experts num_tokentypes openai_gelu qk_l2_norm qk_layernorm quant_recipe quick_geglu retro_add_retriever
    rope_scaling rotary_interleaved squared_relu use_kitchen use_legacy_models use_mup use_rope_scaling window_size
"""
"""Arguments that are absent when off."""


def _number(value: Any, given: Mapping[str, Any]) -> bool:
    return value is None or positive(value, given)


def _is_unused_without_mup(value: Any, given: Mapping[str, Any]) -> bool:
    return not given.get("use_mup")


def _is_silu(value: Any, given: Mapping[str, Any]) -> bool:
    """By the last part of its name."""
    name = value.get("_target_") if isinstance(value, Mapping) else value
    return isinstance(name, str) and name.rpartition(".")[2] in ("silu", "silu_impl", "swish")


def _on_every_layer(value: Any, given: Mapping[str, Any]) -> bool:
    """`no_rope_freq`, a pattern in which 1 is a layer without positions."""
    return not value or (isinstance(value, list) and not any(value))


def _is_the_usual_spec(value: Any, given: Mapping[str, Any]) -> bool:
    """Return whether the layer spec is Megatron's usual one; a custom spec could be anything."""
    name = value.get("_target_") if isinstance(value, Mapping) else value
    usual = (
        "default_layer_spec",
        "transformer_engine_layer_spec",
        "local_layer_spec",
        "transformer_engine_full_layer_spec",
    )
    return not value or value == ["local"] or (isinstance(name, str) and name.rpartition(".")[2] in usual)


_ACCEPTED_AT: Mapping[str, Test] = {
    **dict.fromkeys(_SWITCHES.split(), off),
    **dict.fromkeys(("num_attention_heads", "rotary_base", "norm_epsilon", "layernorm_epsilon", "seq_length"), _number),
    **dict.fromkeys(("rotary_seq_len_interpolation_factor", "seq_len_interpolation_factor"), only(None, 1)),
    "normalization": only("RMSNorm"),
    "swiglu": only(True),
    "gated_linear_unit": only(True),
    "activation_func": _is_silu,
    "position_embedding_type": only("rope"),
    "rotary_percent": only(None, 1),
    "rope_type": only(None, "rope"),
    "softmax_type": only(None, "vanilla"),
    "softmax_scale": only(None),
    **dict.fromkeys(("mup_width_mult", "mup_embedding_mult", "mup_output_mult"), only(None, 1)),
    **dict.fromkeys(("mup_attn_scale_power", "mup_base_head_dim", "mup_base_hidden_size"), _is_unused_without_mup),
    "no_rope_freq": _on_every_layer,
    "window_attn_skip_freq": lambda value, given: not given.get("window_size"),
    "rope_scaling_factor": lambda value, given: not (given.get("use_rope_scaling") or given.get("rope_scaling")),
    "spec": _is_the_usual_spec,
    "transformer_layer_spec": _is_the_usual_spec,
    "untie_embeddings_and_output_weights": only(None, False, True),
    "share_embeddings_and_output_weights": only(None, False, True),
}
ARGUMENT_KEYS = Understood(
    honoured=set(_SHAPES_TELL.split()),
    neutral={*_OF_THE_RUN.split(), *_OF_LATENT_ATTENTION.split()},
    accepted_at=_ACCEPTED_AT,
)


def refuse_arguments(arguments: Mapping[str, Any], *, tied: bool, ignored: Collection[str], where: str) -> None:
    """Raise InputError for arguments that are set and not understood, and for a tie that the tensors contradict.

    Args:
        arguments: as `read_arguments` gives them.
        tied: whether there is no output layer among the tensors.
        ignored: names that the user says change nothing.
        where: names the checkpoint.
    """
    is_set = {
        name: value
        for name, value in arguments.items()
        if name in _ACCEPTED_AT or not (off(value, arguments) or name in ignored or name.startswith(_OF_SUBSYSTEMS))
    }
    if refused := ARGUMENT_KEYS.refused(is_set):
        unknown = ",".join(name for name in refused if name not in _ACCEPTED_AT)
        remedy = f"; if it changes nothing in what the model computes, add ignore={unknown}" if unknown else ""
        raise InputError(
            f"{where}: {shown(arguments, refused)} in its arguments: not supported, and the model would compute"
            f" something else without{remedy}"
        )
    for name, means_tied in (
        ("untie_embeddings_and_output_weights", False),
        ("share_embeddings_and_output_weights", True),
    ):
        stated = arguments.get(name)
        if stated is not None and (bool(stated) is means_tied) is not tied:
            raise InputError(f"{where}: {name}={stated} in its arguments, and an output layer is{' not' * tied} stored")


def read_arguments(folder: Path, *, stored: TorchDistFolder | None = None) -> tuple[dict[str, Any], int | None]:
    """(what is said of the model and its run, the iteration), as far as it can be known.

    `stored`: the folder's tensors and objects.

    Raises:
        InputError: a file is corrupted, hostile, or holds something else.
    """
    arguments, iteration = _read_common(folder / COMMON, stored)
    return {**arguments, **_read_run_config(folder / RUN_CONFIG)}, iteration


def _read_common(path: Path, stored: TorchDistFolder | None) -> tuple[dict[str, Any], int | None]:
    try:
        handle = open_regular(path)
    except FileNotFoundError:
        if stored is None or COMMON_OBJECT not in stored.objects:
            return {}, None
        held = stored.read_object(COMMON_OBJECT)
        return _stated(held[0] if isinstance(held, list) and len(held) == 1 else held, where=str(stored.folder))
    with (
        damage_named(path, what="an archive of torch.save"),
        open(handle, "rb") as file,
        zipfile.ZipFile(file) as archive,
    ):
        common = read_pickle(pickle_within(archive), where=str(path))
    return _stated(common, where=str(path))


def _stated(common: Any, *, where: str) -> tuple[dict[str, Any], int | None]:
    if not isinstance(common, dict):
        raise InputError(f"{where} does not hold what Megatron-LM writes")
    arguments, iteration = common.get("args"), common.get("iteration")
    stated = arguments.state if isinstance(arguments, StandIn) else {} if arguments is None else arguments
    if not isinstance(stated, dict):
        raise InputError(f"{where}: args are {plain(arguments)!r}, expected a namespace: it is not known what they say")
    return {str(name): plain(value) for name, value in stated.items()}, iteration if type(iteration) is int else None


def _read_run_config(path: Path) -> dict[str, Any]:
    """Megatron-Bridge's form: its fields are those of a `TransformerConfig`."""
    if not path.is_file():
        return {}
    try:
        import yaml
    except ImportError:
        raise InputError(f"{path}: reading it needs the package PyYAML: pip install pyyaml") from None
    content = read_small(path, largest=LARGEST_RUN_CONFIG)
    with damage_named(path, what="YAML"):
        try:
            config = yaml.safe_load(content)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from None
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict):
        raise InputError(f"{path} does not hold what Megatron-Bridge writes: it has no section 'model'")
    return {str(name): value for name, value in model.items()}


def plain(value: Any) -> Any:
    """A value of a pickle: what it names by its name, a tuple as a list, a call as a text of bounded length.

    The `repr` of a text that quotes a text doubles its backslashes: 60 calls, each within the next, would be 2^60.
    """
    if isinstance(value, Name):
        return value.global_name
    if isinstance(value, StandIn):
        return f"{value.name}({', '.join(brief(plain(argument)) for argument in value.arguments)})"
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    return value
