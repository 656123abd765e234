"""Settings of CUDA, NCCL and torch that follow from the run, made before anything touches a GPU.

CUDA reads its variables once, when a process first uses a device, so `start_world` calls this before all else. A
variable that the user has set stays; one that works against the layout is named in the log.

`CUDA_DEVICE_MAX_CONNECTIONS` is the number of queues between host and device. Tensor ranks launch a collective in front
of the product that runs beside it; only with one queue does the device start them in that order, else the product may
take all processors first (Megatron-LM's manual asks for it too). Without tensor ranks nothing depends on an order, and
one queue would hold up messages between stages and replicas behind products: the driver's own number stays.
"""

from __future__ import annotations

import os

from megaphi.log import logger
from megaphi.parallel.layout import ParallelLayout

CONNECTIONS = "CUDA_DEVICE_MAX_CONNECTIONS"
DETERMINISTIC = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # products of the same shape sum in the same order
    "NCCL_ALGO": "Ring",  # collectives too, whatever NCCL's tuner would choose
    "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",  # Transformer Engine
}
"""Variables of a deterministic run."""


def set_up_devices(layout: ParallelLayout, *, deterministic: bool) -> None:
    """Set variables of this process's environment, and torch's choice of algorithms."""
    import torch

    if layout.tensor > 1:
        os.environ.setdefault(CONNECTIONS, "1")
    if deterministic:
        for name, value in DETERMINISTIC.items():
            os.environ.setdefault(name, value)
    # Attention then is torch's flash attention, whose backward pass adds up in a fixed order: cuDNN's is passed over.
    torch.use_deterministic_algorithms(deterministic)
    # A check of programs, at the price of a write; a property, which torch does not declare.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def warn_of_connections(layout: ParallelLayout) -> None:
    """Name a user's own number of queues in the log where it works against the layout."""
    found = os.environ.get(CONNECTIONS)
    if layout.tensor > 1 and found != "1":
        logger.warning(
            "%s=%s: with layout.tensor above 1 only 1 lets collectives run beside products", CONNECTIONS, found
        )
    if layout.tensor == 1 and found == "1":
        logger.warning("%s=1: with layout.tensor=1 it only holds up messages behind products; unset it", CONNECTIONS)
