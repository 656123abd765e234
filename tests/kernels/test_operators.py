"""All operators by torch's own checks: opcheck, gradcheck in fp64, a compiled layer; and megaphi without kernels."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from functools import partial

import pytest
import torch

import megaphi.kernels.paged_attention  # noqa: F401 (for its operator)
from megaphi import _C as kernels  # noqa: N811
from megaphi.errors import InputError
from megaphi.kernels import definitions, loading
from megaphi.kernels.checks import IGNORED
from megaphi.kernels.cross_entropy import cross_entropy, linear_cross_entropy
from megaphi.kernels.rms_norm import add_rms_norm, rms_norm
from megaphi.kernels.rotary import rotary, rotary_table
from megaphi.kernels.softmax import causal_softmax, masked_softmax
from megaphi.kernels.swiglu import swiglu, swiglu_linear
from megaphi.model.architecture import OPERATORS
from tests.engine.layout_runs import TINY
from tests.gloo_world import run_in_world
from tests.kernels.exactness import numbers
from tests.kernels.operators_runs import compiled_and_eager_layer, outputs_without_kernels
from tests.test_house import ROOT

operators = torch.ops.megaphi
COS, SIN = rotary_table(9, 6, base=100.0)
LABELS = torch.tensor([2, IGNORED, 6])
HIDDEN = torch.tensor([[[[False, True, False]]]])


def wide(*shape, seed=0):
    return numbers(*shape, dtype=torch.float64, seed=seed).requires_grad_()


GRADIENTS = {
    "rms_norm": (partial(rms_norm, eps=1e-5), [wide(3, 7), wide(7)]),
    "add_rms_norm": (partial(add_rms_norm, eps=1e-5), [wide(3, 7), wide(3, 7, seed=1), wide(7)]),
    "rotary": (lambda x: rotary(x, COS.double(), SIN.double(), rotated=2, offset=3), [wide(2, 2, 2, 3, 6)]),
    "rotary in place": (
        lambda x: rotary(x * 1, COS.double(), SIN.double(), rotated=2, in_place=True),
        [wide(2, 2, 2, 3, 6)],
    ),
    "causal_softmax": (lambda x: causal_softmax(x, 0.7), [wide(1, 2, 3, 5)]),
    "causal_softmax in place": (lambda x: causal_softmax(x * 1, 0.7, in_place=True), [wide(1, 2, 3, 5)]),
    "masked_softmax": (lambda x: masked_softmax(x, HIDDEN, 0.7), [wide(2, 1, 2, 3)]),
    "masked_softmax in place": (lambda x: masked_softmax(x * 1, HIDDEN, 0.7, in_place=True), [wide(2, 1, 2, 3)]),
    "swiglu": (swiglu, [wide(3, 8)]),
    "swiglu_linear": (swiglu_linear, [wide(3, 8), wide(5, 4)]),
    "cross_entropy": (lambda x: cross_entropy(x, LABELS, z_weight=0.1), [wide(3, 7)]),
    "linear_cross_entropy": (
        lambda x, w: linear_cross_entropy(x, w, LABELS, z_weight=0.1, chunk_tokens=2),
        [wide(3, 4), wide(7, 4)],
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_those_of_finite_differences(name):
    function, inputs = GRADIENTS[name]
    assert (
        loading.why_not(name.split()[0].removeprefix("linear_").removesuffix("_linear"), "cpu", torch.float64) is None
    )
    assert torch.autograd.gradcheck(function, inputs)


X, W, ROWS = numbers(3, 8, dtype=torch.float32), numbers(8, dtype=torch.float32), torch.ones(3)
PACKED, SCORES = numbers(2, 2, 2, 3, 6, dtype=torch.float32), numbers(1, 2, 3, 5, dtype=torch.float32)
TOTALS = torch.ones(3, 2)
QUERY, CACHE = numbers(2, 4, 6, dtype=torch.float32), numbers(3, 2, 2, 6, dtype=torch.float32)
TABLES, LENGTHS = torch.tensor([[2, 0], [1, 7]]).int(), torch.tensor([3, 2]).int()
CALLS = {
    "rms_norm": (X, W, 1e-5),
    "add_rms_norm": (X, X * 2, W, 1e-5),
    "rms_norm_backward": (X, None, X, W, ROWS),
    "rotary": (PACKED, COS, SIN, None, 1, 2, False),
    "rotary_": (PACKED.clone(), COS, SIN, torch.ones(2, 2, dtype=torch.int64), 0, 2, True),
    "causal_softmax": (SCORES, 0.7),
    "masked_softmax": (SCORES, SCORES[:, :1] > 0, 0.7),
    "causal_softmax_": (SCORES.clone(), 0.7),
    "masked_softmax_": (SCORES.clone(), SCORES[:, :1] > 0, 0.7),
    "softmax_backward": (SCORES, SCORES * 2, 0.7, True),
    "paged_attention": (QUERY, CACHE, CACHE * 2, TABLES, LENGTHS, 0.7),
    "swiglu": (X,),
    "swiglu_backward": (X[:, :4].contiguous(), X),
    "swiglu_backward_and_forward_": (X[:, :4].clone(), X.clone()),
    "cross_entropy_statistics": (X, LABELS, 0),
    "cross_entropy_backward": (X, LABELS, TOTALS, ROWS, 0, IGNORED, 0.1),
    "cross_entropy_backward_": (X.clone(), LABELS, TOTALS, ROWS, 0, IGNORED, 0.1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_schemas_fake_kernels_and_autograd_are_consistent(name, dtype):
    loading.why_not("swiglu", "cpu", dtype)  # loads the libraries
    exempt = (COS, SIN, ROWS, TOTALS)  # always fp32
    arguments = [
        argument.to(dtype)
        if isinstance(argument, torch.Tensor)
        and argument.is_floating_point()
        and not any(argument is other for other in exempt)
        else argument
        for argument in CALLS[name]
    ]
    differentiable = name in ("rms_norm", "add_rms_norm", "rotary", "causal_softmax", "masked_softmax", "swiglu")
    if differentiable:
        arguments[0] = arguments[0].clone().requires_grad_()
    torch.library.opcheck(getattr(operators, name).default, tuple(arguments))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rms_norm", (X, W[:5], 1e-5)),
        ("rms_norm", (X, W.double(), 1e-5)),
        ("rms_norm_backward", (X[:2], None, X, W, ROWS)),
        ("rms_norm_backward", (X, None, X, W, ROWS[:2])),
        ("rotary", (PACKED, COS[:1], SIN[:1], None, 0, 2, False)),
        ("rotary", (PACKED, COS, SIN, None, 8, 2, False)),
        ("rotary", (PACKED, COS, SIN, None, 0, 4, False)),
        ("causal_softmax", (SCORES.transpose(2, 3), 1.0)),
        ("masked_softmax", (SCORES, SCORES[..., :2] > 0, 1.0)),
        ("softmax_backward", (SCORES[:, :1], SCORES, 1.0, True)),
        ("paged_attention", (QUERY[:, :3], CACHE, CACHE, TABLES, LENGTHS, 0.7)),
        ("paged_attention", (QUERY[..., :5], CACHE, CACHE, TABLES, LENGTHS, 0.7)),
        ("paged_attention", (QUERY, CACHE.transpose(0, 1), CACHE.transpose(0, 1), TABLES, LENGTHS, 0.7)),
        ("paged_attention", (QUERY, CACHE, CACHE[:2], TABLES, LENGTHS, 0.7)),
        ("paged_attention", (QUERY, CACHE, CACHE, TABLES[:1], LENGTHS, 0.7)),
        ("paged_attention", (QUERY, CACHE, CACHE, TABLES.long(), LENGTHS, 0.7)),
        ("paged_attention", (QUERY, CACHE, CACHE, TABLES, LENGTHS[:1], 0.7)),
        ("paged_attention", (QUERY, CACHE, CACHE, TABLES, LENGTHS - 2, 0.7)),
        ("paged_attention", (QUERY, CACHE, CACHE, TABLES, LENGTHS + 1, 0.7)),
        ("paged_attention", (QUERY, CACHE, CACHE, TABLES + 1, LENGTHS, 0.7)),
        ("swiglu", (X[:, :7],)),
        ("swiglu_backward", (X, X)),
        ("cross_entropy_statistics", (X, LABELS[:2], 0)),
        ("cross_entropy_statistics", (X, LABELS.int(), 0)),
        ("cross_entropy_backward_", (X.clone(), LABELS, TOTALS[:2], ROWS, 0, IGNORED, 0.0)),
        ("swiglu", (X.long(),)),
    ],
)
def test_operators_called_directly_refuse_what_would_read_beyond_a_tensor(name, arguments):
    loading.why_not("swiglu", "cpu", torch.float32)
    with pytest.raises(RuntimeError):
        getattr(operators, name)(*arguments)


def test_a_layer_compiles_as_one_graph():
    """torch.compile(fullgraph=True) of the model's own layer: same output, same gradients."""
    ((compiled, eager),) = run_in_world(compiled_and_eager_layer, processes=1, timeout_seconds=600)
    assert len(compiled) == len(eager) > 5
    for found, expected in zip(compiled, eager, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_every_instruction_set_of_this_processor_can_be_chosen():
    usual = kernels.instruction_set()
    assert kernels.instruction_sets()[0] == usual
    assert kernels.instruction_sets()[-1] == "base"
    assert not kernels.use_instruction_set("neon9")
    for name in kernels.instruction_sets():
        assert kernels.use_instruction_set(name)
        assert loading.instruction_set() == name
    kernels.use_instruction_set(usual)


def test_the_number_of_threads_is_torchs_and_changes_no_bit():
    x, weight = numbers(3000, 40, dtype=torch.float32), numbers(40, dtype=torch.float32, seed=1)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        y, rstd = operators.rms_norm(x, weight, 1e-5)
        found.append([y, *operators.rms_norm_backward(x, None, x, weight, rstd)])
    torch.set_num_threads(before)
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.fixture
def warnings(monkeypatch):
    """Warnings of a process that has tried no kernel yet; the state is restored afterwards."""
    messages = []
    monkeypatch.setattr(loading, "_verdicts", {})
    monkeypatch.setattr(loading.logger, "warning", lambda text, *arguments: messages.append(text % arguments))
    return messages


def test_a_kernel_that_computes_something_else_is_not_used_and_warned_of_once(warnings, monkeypatch):
    def fail(device, dtype):
        loading.assert_agree(torch.zeros(2), torch.ones(2))

    monkeypatch.setitem(loading._self_tests, "swiglu", fail)
    x = numbers(3, 8, dtype=torch.float32)
    called = []
    monkeypatch.setattr(definitions, "swiglu", lambda x: called.append(1) or x)
    for _ in range(3):
        swiglu(x)
    assert len(called) == 3
    assert warnings == ["kernel swiglu (cpu, torch.float32) is not used: the self-test is off by 1, allowed is 1e-05"]
    assert loading.why_not("rms_norm", "cpu", torch.float32) is None  # the others are not affected


def test_a_number_format_without_kernels_falls_back(warnings):
    x = numbers(3, 8, dtype=torch.float16)
    assert torch.equal(swiglu(x), definitions.swiglu(x))
    assert warnings == [
        "kernel swiglu (cpu, torch.float16) is not used: swiglu: no kernel for this element type on this device"
    ]


@pytest.mark.parametrize("missing", ["_C", "_T"])
def test_without_compiled_modules_everything_runs_on_the_definitions(missing):
    """One warning that says what to do; the same numbers."""
    command = [sys.executable, "-m", "tests.kernels.operators_runs", missing]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("fused kernels are not available") == 1
    assert {"_C": "without its compiled part", "_T": "built without torch's headers"}[missing] in done.stderr
    assert "pip install --force-reinstall" in done.stderr
    found = [float(number) for number in done.stdout.split()]
    assert found == pytest.approx(outputs_without_kernels(), rel=1e-5)


class OnGpu:
    """A tensor on a GPU, as far as the choice of a kernel looks at it."""

    device = torch.device("cuda")
    dtype = torch.bfloat16


@pytest.fixture
def gpu_without(monkeypatch):
    """A GPU for which some operators were not compiled."""
    from megaphi.model import layer_spec

    def leave_out(*missing):
        monkeypatch.setattr(layer_spec, "check_product", lambda *_: None)  # which needs a real one
        monkeypatch.setattr(loading, "_allowed", set())
        reason = "megaphi was built without CUDA"
        monkeypatch.setattr(loading, "why_not", lambda name, device, dtype: reason if name in missing else None)

    return leave_out


def test_on_a_gpu_an_operator_that_is_not_compiled_is_refused_unless_allowed_by_name(gpu_without):
    gpu_without("swiglu", "rotary")
    assert loading.is_compiled("rms_norm", OnGpu())
    loading.allow_slow(["rotary"])
    assert not loading.is_compiled("rotary", OnGpu())
    with pytest.raises(InputError, match=r"kernel swiglu \(cuda, torch.bfloat16\) cannot be used: .* without CUDA"):
        loading.is_compiled("swiglu", OnGpu())
    assert not loading.is_compiled("swiglu", numbers(2, 2, dtype=torch.float32))  # on a CPU there is one warning


@pytest.mark.parametrize("missing", OPERATORS)
def test_a_model_on_a_gpu_is_refused_before_it_is_built(missing, gpu_without):
    """Whatever kernel it will use, as its fields say; what it will not use may be missing."""
    from megaphi.model.layer_spec import check_kernels

    gpu_without(missing)
    used = {
        "train": {"rms_norm", "add_rms_norm", "rotary", "swiglu", "cross_entropy"},
        "train, softmax": {"rms_norm", "add_rms_norm", "rotary", "swiglu", "cross_entropy", *OPERATORS[5:7]},
        "read": {"rms_norm", "add_rms_norm", "rotary", "swiglu", "paged_attention"},
    }
    for name, operators_used in used.items():
        architecture = dataclasses.replace(TINY, attention="softmax" if "softmax" in name else "sdpa")
        check = partial(check_kernels, device=torch.device("cuda"), parameters="bfloat16", reads=name == "read")
        if missing in operators_used:
            with pytest.raises(InputError, match=f"model.allow_slow_operators={missing}"):
                check(architecture)
        else:
            check(architecture)
        check(dataclasses.replace(TINY, kernels="reference"))
    check(dataclasses.replace(TINY, attention="softmax", allow_slow_operators=(missing,)))


def test_every_operator_can_be_allowed_and_no_other_name():
    assert set(OPERATORS) == set(loading.operators())
    dataclasses.replace(TINY, allow_slow_operators=OPERATORS).check()
    with pytest.raises(InputError, match=r"model.allow_slow_operators=swigl: .* Did you mean 'swiglu'\?"):
        dataclasses.replace(TINY, allow_slow_operators=("swigl",)).check()
    with pytest.raises(InputError, match="allow_slow_operators=swiglu needs model"):
        dataclasses.replace(TINY, kernels="reference", allow_slow_operators=("swiglu",)).check()
