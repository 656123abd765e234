"""What a forward pass is told: its context, the variants of attention and the kinds of output. No Megatron."""
