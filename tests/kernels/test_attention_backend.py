"""The kernel of attention by name: what a CPU has is used and named, what it has not is refused; stand-ins for a GPU's.

Which kernel ran is asked of torch's dispatcher, not of the flags that the choice sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch.nn import attention
from torch.utils._python_dispatch import TorchDispatchMode

from megaphi.errors import InputError
from megaphi.kernels import attention_backend
from megaphi.model.architecture import Architecture
from megaphi.model.forward.flash_launch import is_launched
from megaphi.model.layer_spec import choose_attention
from megaphi.model.megatron_config import Precision

MODEL = Architecture(
    layers=1, hidden=32, feed_forward=32, heads=4, key_value_groups=2, head_size=16, vocabulary=64, context=64
)
CPU = torch.device("cpu")
FLASH = "_scaled_dot_product_flash_attention_for_cpu"
ON_GPU: Any = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16, shape=(8, 1, 4, 16))
ODD_ON_GPU: Any = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16, shape=(8, 1, 4, 14))


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    choose_attention(MODEL, device=CPU, parameters="float32", reads=False)


class Recorder(TorchDispatchMode):
    """Names of the operators that are called within it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def chosen(name: Any, *, parameters: Precision = "float32", reads: bool = False, **fields: Any) -> str:
    model = replace(MODEL, attention_backend=name, **fields)
    model.check()
    return choose_attention(model, device=CPU, parameters=parameters, reads=reads)


def operators() -> set[str]:
    query, key = torch.randn(1, 4, 8, 16), torch.randn(1, 2, 8, 16)
    with Recorder() as recorder:
        functional.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)
    return recorder.names


@pytest.mark.parametrize("parameters", ["float32", "bfloat16"])
def test_a_name_decides_what_computes(parameters: Precision) -> None:
    assert chosen("math", parameters=parameters) == "plain products of torch"
    assert FLASH not in operators()
    assert not is_launched(ON_GPU)
    for name in ("flash", "auto"):
        assert chosen(name, parameters=parameters) == "flash attention of torch"
        assert FLASH in operators()
        assert is_launched(ON_GPU)
        assert not is_launched(ODD_ON_GPU)


def test_masks_are_served_whatever_is_named() -> None:
    chosen("flash")
    query, visible = torch.randn(1, 4, 8, 16), torch.ones(8, 8).tril().bool()
    masked = functional.scaled_dot_product_attention(query, query, query, visible)
    torch.testing.assert_close(masked, functional.scaled_dot_product_attention(query, query, query, is_causal=True))


@pytest.mark.parametrize("name", ["cudnn", "efficient"])
def test_what_a_cpu_does_not_have_is_refused(name: Any) -> None:
    message = rf"model\.attention_backend={name} cannot compute this model on a CPU in float32: torch has no"
    with pytest.raises(InputError, match=message):
        chosen(name)
    assert FLASH in operators()  # and nothing is left of the attempt


def test_generation_leaves_out_what_plans_every_shape() -> None:
    assert chosen("cudnn", reads=True) == "flash attention of torch"
    assert chosen("auto", reads=True) == "flash attention of torch"
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert chosen("auto")
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_flash_attention_3_is_refused_without_its_package() -> None:
    with pytest.raises(InputError, match="flash attention 3 cannot be used: No module named 'flash_attn_interface'"):
        chosen("flash3")


def test_flash_attention_3_is_activated_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's own registry, with a stand-in for the package."""
    removed: list[bool] = []
    handle = SimpleNamespace(remove=lambda: removed.append(True))
    monkeypatch.setitem(attention._registry._FLASH_ATTENTION_IMPLS, "FA3", lambda: handle)
    assert chosen("flash3") == "flash attention 3 of torch"
    assert attention.current_flash_attention_impl() == "FA3"
    assert chosen("flash") == "flash attention of torch"
    assert attention.current_flash_attention_impl() is None
    assert removed == [True]


def test_a_kernel_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(query: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return query * 0.5

    monkeypatch.setattr(attention_backend.functional, "scaled_dot_product_attention", wrong)
    with pytest.raises(InputError, match=r"model\.attention_backend=flash cannot .*: its trial is off by \d"):
        chosen("flash")


def test_on_a_gpu_plain_products_are_no_silent_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16: torch's fused kernels that group queries have no float32."""
    monkeypatch.setattr(attention_backend, "_tried", lambda *_, **__: attention.SDPBackend.MATH)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    cuda = torch.device("cuda")
    with pytest.raises(InputError, match="auto cannot compute this model on a GPU in bfloat16: only plain products"):
        choose_attention(MODEL, device=cuda, parameters="bfloat16", reads=False)
    assert choose_attention(MODEL, device=cuda, parameters="float32", reads=False) == "plain products of torch"


def test_other_ways_to_attend_have_no_names_of_torch() -> None:
    assert chosen("auto", attention="softmax") == "fused softmax"
    with pytest.raises(InputError, match=r"model\.attention_backend=flash needs model\.attention=sdpa, not softmax"):
        chosen("flash", attention="softmax")
    assert chosen("cudnn", kernels="transformer_engine") == "Transformer Engine"
    with pytest.raises(InputError, match=r"attention_backend=flash3 needs model\.kernels=fused or reference"):
        chosen("flash3", kernels="transformer_engine")
