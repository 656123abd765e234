"""The training loop: steps over Megatron's schedules, and what ends a run."""
