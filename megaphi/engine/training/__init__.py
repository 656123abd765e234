"""The training loop: steps over Megatron's schedules, validation, and the conditions that end a run."""
