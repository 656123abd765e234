"""RMSNorm in plain PyTorch, as a module that Megatron can build from a layer spec."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from megaphi.errors import InputError


class RMSNorm(torch.nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight, computed in fp32 for inputs of any type."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **rest: object) -> None:
        given = [f"{name}={value}" for name, value in rest.items() if value]
        if given:
            raise InputError(f"{type(self).__name__} does not honour {', '.join(given)}")
        super().__init__()
        self.eps = eps
        device = None if config.use_cpu_initialization else torch.cuda.current_device()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=device))

    def forward(self, hidden_SBD: Tensor) -> Tensor:
        shape = hidden_SBD.shape[-1:]
        return functional.rms_norm(hidden_SBD.float(), shape, self.weight.float(), self.eps).to(hidden_SBD.dtype)
