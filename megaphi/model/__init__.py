"""The network: Phi-4's shape, mapped onto Megatron-Core's GPTModel by a layer spec of our own."""
