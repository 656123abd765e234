"""The engine: train step, optimizer, checkpoint and loop over Megatron-Core's schedules."""
