"""Names that Megatron-LM, Hugging Face's Trainer and torchtitan have for our fields: for `did you mean`.

Only names that somebody coming from there would type. An answer is a field, or a field and its differences.
"""

from __future__ import annotations

_FIELDS = {
    "optimizer.learning_rate": "lr learning_rate max_lr peak_lr",
    "optimizer.final_fraction, a fraction of the peak": "min_lr min_lr_ratio min_lr_rate min_lr_factor lr_end",
    "optimizer.warmup_steps": "warmup_steps lr_warmup_iters warmup_iters num_warmup_steps warmup lr_warmup_steps",
    "optimizer.warmup_steps, a number of steps": "warmup_ratio lr_warmup_fraction lr_warmup_samples",
    "optimizer.decay_steps, from the end of the warm-up": "lr_decay_iters decay_iters lr_decay_steps decay_ratio",
    "optimizer.decay_steps": "lr_wsd_decay_iters num_decay_steps lr_wsd_decay_samples",
    "optimizer.schedule": "lr_decay_style lr_scheduler_type lr_scheduler scheduler lr_schedule decay_type",
    "optimizer.weight_decay": "weight_decay wd",
    "optimizer.beta1": "adam_beta1 beta_1 b1",
    "optimizer.beta2": "adam_beta2 beta_2 b2",
    "optimizer.eps": "adam_eps adam_epsilon epsilon",
    "optimizer.clip_gradient_norm": "clip_grad max_grad_norm max_norm grad_clip gradient_clipping clip_grad_norm",
    "batch.micro_batch": "micro_batch_size mbs per_device_train_batch_size local_batch_size micro_batch",
    "batch.global_batch": "global_batch_size gbs train_batch_size batch_size global_batch",
    "batch.global_batch, which is micro_batch x replicas x accumulation": (
        "gradient_accumulation_steps grad_accum accumulation_steps num_microbatches"
    ),
    "batch.sequence_length": "seq_length seq_len max_seq_length max_length block_size sequence_length max_seq_len",
    "layout.tensor": "tensor_model_parallel_size tensor_parallel_size tensor_parallel_degree tp tp_size",
    "layout.pipeline": "pipeline_model_parallel_size pipeline_parallel_degree pp pp_size pipeline_parallel_size",
    "layout.virtual_pipeline": (
        "virtual_pipeline_model_parallel_size num_virtual_stages_per_pipeline_rank vpp num_layers_per_virtual_stage"
    ),
    "layout.stage_layers": (
        "pipeline_model_parallel_layout decoder_first_pipeline_num_layers decoder_last_pipeline_num_layers "
        "num_layers_in_first_pipeline_stage num_layers_in_last_pipeline_stage pipeline_parallel_layers_per_stage"
    ),
    "layout.context": "context_parallel_size context_parallel_degree cp cp_size",
    "layout.data": "data_parallel_size data_parallel_replicate_degree data_parallel_shard_degree dp dp_size",
    "layout.sequence_parallel": "sequence_parallel",
    "training.steps": "train_iters max_steps training_steps num_training_steps steps iterations total_steps",
    "training.steps, each of batch.global_batch samples": "train_samples max_train_samples",
    "training.epochs": "num_train_epochs epochs num_epochs",
    "training.stop_after": "exit_interval",
    "folder": "output_dir save dump_folder save_dir logging_dir tensorboard_dir",
    "start.resume": "resume_from_checkpoint",
    "start.initial_checkpoint": "load pretrained_checkpoint initial_load_path model_name_or_path finetune",
    "validation.every": "eval_interval eval_steps validation_freq",
    "validation.samples": "eval_iters validation_steps",
    "saving.every": "save_interval save_steps checkpoint_interval save_every interval save_freq",
    "saving.keep_last": "save_total_limit keep_latest_k",
    "saving.asynchronous": "async_save async_mode",
    "model.layers": "num_layers num_hidden_layers n_layers n_layer",
    "model.hidden": "hidden_size d_model dim n_embd",
    "model.feed_forward": "ffn_hidden_size intermediate_size ffn_dim",
    "model.heads": "num_attention_heads n_heads n_head num_heads",
    "model.key_value_groups": "num_query_groups num_key_value_heads n_kv_heads",
    "model.head_size": "kv_channels head_dim",
    "model.vocabulary": "vocab_size padded_vocab_size",
    "model.tied_embeddings": (
        "tie_word_embeddings tied_word_embeddings tie_embeddings tied_embeddings weight_tying enable_weight_tying "
        "share_embeddings_and_output_weights"
    ),
    "model.tied_embeddings, which means the opposite": "untie_embeddings_and_output_weights",
    "model.norm_eps": "norm_epsilon rms_norm_eps layernorm_epsilon",
    "model.rotary_base": "rope_theta rope_base",
    "model.initial_std": "init_method_std initializer_range",
    "model.kernels": "transformer_impl attn_implementation",
    "precision.parameters=bfloat16": "bf16 use_bf16 mixed_precision_param torch_dtype dtype",
    "precision.parameters=float32": "fp32 no_bf16",
    "precision.fp8": "fp8_format fp8_recipe fp8",
    "recompute": (
        "recompute_granularity recompute_activations gradient_checkpointing activation_checkpoint "
        "activation_checkpointing"
    ),
    "overlap_communication": "overlap_grad_reduce overlap_param_gather",
    "task.mixture.sources": "data_path train_data_path blend data_paths",
    "task.mixture.stages, which BatchRamp of megaphi/data/order/batch_ramp.py makes in a recipe": "rampup_batch_size",
    "task.mixture.isolate_documents": "reset_attention_mask",
    "task.mixture.reset_positions": "reset_position_ids",
    "task.mixture.mask_document_ends": "eod_mask_loss",
    "task.paths": "dataset dataset_name dataset_path train_file",
    "task.beta": "beta dpo_beta",
    "task.label_smoothing": "label_smoothing",
    "tokenizer.ranks_file": "tokenizer_model",
    "wandb.project": "wandb_project report_to enable_wandb",
    "wandb.name": "wandb_exp_name run_name wandb_run_name",
    "wandb.entity": "wandb_entity",
    "seed": "seed data_seed",
}
_OURS = {name: field for field, names in _FIELDS.items() for name in names.split()}


def our_name(theirs: str) -> str | None:
    """The field that `--micro-batch-size`, `training.seq_len` or `optimizer.lr` means, with what is different."""
    return _OURS.get(theirs.lstrip("-").rpartition(".")[2].lower().replace("-", "_"))
