"""A config.json is honoured, neutral or refused by name, key by key; and so is a model on its way out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from megaphi.checkpoint.format import CheckpointReader
from megaphi.conversion import open_weights
from megaphi.conversion.formats import weight_names
from megaphi.conversion.formats.huggingface import config as huggingface_config
from megaphi.conversion.formats.huggingface.config import architecture_from, config_for, context_from
from megaphi.conversion.formats.huggingface.keys import CONFIG_KEYS
from megaphi.conversion.given_tokenizer import WithTokenizer
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.conversion.to_huggingface import plan_huggingface, to_huggingface
from megaphi.errors import InputError
from megaphi.model import weights
from megaphi.model.architecture import Architecture
from tests.conversion.random_models import SHAPES, random_folder
from tests.model.variant_runs import installed_variants

MODEL = SHAPES["3 heads per group"]
SHAPE: dict[str, Any] = {
    "vocab_size": 352, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip
VERSION_4: dict[str, Any] = {
    "return_dict": True, "output_hidden_states": False, "output_attentions": False, "torchscript": False,
    "torch_dtype": "bfloat16", "use_bfloat16": False, "tf_legacy_loss": False, "pruned_heads": {},
    "tie_word_embeddings": False, "chunk_size_feed_forward": 0, "is_encoder_decoder": False, "is_decoder": False,
    "cross_attention_hidden_size": None, "add_cross_attention": False, "tie_encoder_decoder": False,
    "max_length": 20, "min_length": 0, "do_sample": False, "early_stopping": False, "num_beams": 1,
    "num_beam_groups": 1, "diversity_penalty": 0.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0,
    "repetition_penalty": 1.0, "length_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None, "num_return_sequences": 1, "output_scores": False, "return_dict_in_generate": False,
    "forced_bos_token_id": None, "forced_eos_token_id": None, "remove_invalid_values": False,
    "exponential_decay_length_penalty": None, "suppress_tokens": None, "begin_suppress_tokens": None,
    "finetuning_task": None, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "tokenizer_class": None,
    "prefix": None, "bos_token_id": 1, "pad_token_id": None, "eos_token_id": [2, 7], "sep_token_id": None,
    "decoder_start_token_id": None, "task_specific_params": None, "problem_type": None, "_name_or_path": "x",
    "_attn_implementation_autoset": True, "transformers_version": "4.57.0", "initializer_range": 0.02,
    "use_cache": True, "rope_theta": 10_000.0, "rope_scaling": None, "attention_dropout": 0.0, "hidden_act": "silu",
    "attention_bias": False,
}  # fmt: skip
"""Every key that `to_dict()` of transformers 4 gives a model."""
PHI, LLAMA = {"model_type": "phi3"}, {"model_type": "llama"}
ORDINARY: dict[str, dict[str, Any]] = {
    "version 4, Phi-3": PHI | VERSION_4 | {
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "original_max_position_embeddings": 64, "sliding_window": None,
        "partial_rotary_factor": 1.0, "architectures": ["Phi3ForCausalLM"],
    },
    "version 4, Llama": LLAMA | VERSION_4 | {
        "pretraining_tp": 2, "mlp_bias": False, "head_dim": 8, "architectures": ["LlamaForCausalLM"],
    },
    "version 5, Phi-3": transformers.Phi3Config(**SHAPE).to_dict(),
    "version 5, Llama": transformers.LlamaConfig(**SHAPE).to_dict(),
    "Phi-4": PHI | {
        "_name_or_path": "/phi-4/", "architectures": ["Phi3ForCausalLM"], "attention_bias": False,
        "attention_dropout": 0.0, "bos_token_id": 100257, "embd_pdrop": 0.0, "eos_token_id": 100265,
        "hidden_act": "silu", "initializer_range": 0.02, "original_max_position_embeddings": 16384,
        "pad_token_id": 100349, "resid_pdrop": 0.0, "rope_scaling": None, "rope_theta": 250000,
        "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True,
    },
    "Phi-3 mini, with its own code": PHI | {
        "sliding_window": 2047, "rope_scaling": None, "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_phi3.Phi3Config",
            "AutoModelForCausalLM": "microsoft/Phi-3-mini-4k-instruct--modeling_phi3.Phi3ForCausalLM",
        },
    },
    "SmolLM2": LLAMA | {
        "is_llama_config": True, "rope_interleaved": False, "pretraining_tp": 1, "rope_scaling": None,
        "rope_theta": 100000, "tie_word_embeddings": True, "mlp_bias": False, "attention_bias": False,
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    },
    "Unsloth": LLAMA | {"unsloth_fixed": True, "unsloth_version": "2025.1", "dtype": "bfloat16"},
    "another name of the activation": LLAMA | {"hidden_act": "swish"},
    "a window that is off": PHI | {"use_sliding_window": False, "sliding_window": None, "max_window_layers": 28},
    "layers of one kind": PHI | {"layer_types": ["full_attention"] * 2},
    "both names of the rotary positions": LLAMA | {
        "rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_scaling": {},
    },
}  # fmt: skip
LINEAR = {"type": "linear", "factor": 4.0}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"hidden_act": "gelu_new"}, "hidden_act='gelu_new'"),
    ({"hidden_act": None}, "hidden_act=None"),
    ({"hidden_activation": "gelu"}, "hidden_activation='gelu'"),
    ({"mlp_bias": True}, "mlp_bias=True"),
    ({"rope_scaling": LINEAR}, "rope_scaling.type='linear', rope_scaling.factor=4.0"),
    ({"rope_scaling": {"factor": 4.0}}, "rope_scaling.factor=4.0"),
    ({"rope_scaling": LINEAR, "rope_parameters": {"rope_type": "default"}}, "rope_scaling.type='linear'"),
    ({"rope_scaling": {"rope_type": "llama3", "low_freq_factor": 1.0}}, "rope_scaling.low_freq_factor=1.0"),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, r"rope_parameters.full_attention=\{"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters.partial_rotary_factor=0.5"),
    ({"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 1e4}, "rope_parameters.rope_theta=500000.0, rope_theta=1"),
    ({"rope_scaling": "linear"}, "rope_scaling='linear'"),
    ({"rope_theta": "1e4"}, "rope_theta='1e4'"),
    ({"sliding_window": -1}, "sliding_window=-1"),
    ({"max_position_embeddings": "64"}, "max_position_embeddings='64'"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings='false'"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, r"layer_types=\['full_attention', 'sliding"),
    ({"layer_types": ["linear_attention"] * 2, "sliding_window": 16}, r"layer_types=\['linear_attention'"),
    ({"attention_chunk_size": 32}, "attention_chunk_size=32"),
    ({"attention_dropout": 0.1}, "attention_dropout=0.1"),
    ({"embd_pdrop": 0.1, "resid_pdrop": 0.2}, "embd_pdrop=0.1, resid_pdrop=0.2"),
    ({"logit_scale": 0.0625}, "logit_scale=0.0625"),
    ({"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
    ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
    ({"residual_multiplier": 0.22}, "residual_multiplier=0.22"),
    ({"qk_layernorm": True}, "qk_layernorm=True"),
    ({"num_local_experts": 8, "num_experts_per_tok": 2}, "num_local_experts=8, num_experts_per_tok=2"),
    ({"quantization_config": {"quant_method": "gptq"}}, r"quantization_config=\{'quant_method': 'gptq'\}"),
    ({"pruned_heads": {"0": [1]}}, r"pruned_heads=\{'0': \[1\]\}"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder=True"),
    ({"architectures": ["LlamaForSequenceClassification"]}, r"architectures=\['LlamaForSequenceClassification'\]"),
    ({"auto_map": {"AutoModelForCausalLM": "modeling_x.MyModel"}}, r"auto_map=\{'AutoModelForCausalLM'"),
    ({"auto_map": "modeling_x"}, "auto_map='modeling_x'"),
    ({"something_of_next_year": False}, "something_of_next_year=False"),
    ({"a_long_one": list(range(1000))}, r"a_long_one=\[0, 1, .*\.\.\.\]:"),
]


@pytest.mark.parametrize("name", ORDINARY)
def test_what_ordinary_models_say_is_understood(name: str) -> None:
    config = SHAPE | ORDINARY[name]
    found = architecture_from(config, where=name)
    assert (found.layers, found.hidden, found.head_size) == (2, 48, 8)
    assert context_from(config, where=name) == 64
    assert found.rotary_base == config.get("rope_theta", 10_000)


@pytest.mark.parametrize(("change", "words"), REFUSED)
@pytest.mark.parametrize("kind", ["phi3", "llama"])
def test_everything_else_is_refused_by_name(change: dict[str, Any], words: str, kind: str) -> None:
    with pytest.raises(InputError, match=rf"config.json: .*{words}.*not supported.*can be removed from the file"):
        architecture_from(SHAPE | {"model_type": kind} | change, where="config.json")


def test_null_says_nothing() -> None:
    config = SHAPE | PHI | {"something_of_next_year": None, "quantization_config": None, "head_dim": None}
    assert architecture_from(config, where="") == architecture_from(SHAPE | PHI, where="")


def test_every_honoured_key_is_read() -> None:
    source = Path(huggingface_config.__file__).read_text()
    assert [key for key in CONFIG_KEYS.honoured if f'"{key}"' not in source] == []


def test_what_an_earlier_version_let_in_is_not_exported(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr(huggingface_config.logger, "propagate", True)
    original = SHAPE | PHI | {"residual_multiplier": 0.22, "torch_dtype": "float32"}
    model = architecture_from(SHAPE | PHI, where="")
    written = config_for(model, dtype="float32", context=64, tokens={}, original=original, where="config.json")
    assert written == SHAPE | PHI | {"torch_dtype": "float32"}
    assert "residual_multiplier=0.22: left out" in caplog.text


def test_a_window_that_became_the_context_leaves_no_kinds_of_layers() -> None:
    original = SHAPE | PHI | {"sliding_window": 16, "layer_types": ["sliding_attention"] * 2, "max_window_layers": 1}
    model = architecture_from(original, where="")
    written = config_for(model, dtype="float32", context=32, tokens={}, original=original)
    assert written["sliding_window"] is None
    assert not written.keys() & {"layer_types", "max_window_layers"}


SAME_FUNCTION = {"kernels", "attention", "attention_backend", "loss_chunk_tokens", "allow_slow_operators"}
"""Fields of an architecture that may differ without a change in what is exported: ways to compute the same."""
OTHER_VALUES: dict[str, Any] = {
    "layers": 2, "hidden": 64, "feed_forward": 48, "heads": 4, "key_value_groups": 3, "head_size": 12,
    "vocabulary": 353, "tied_embeddings": True, "context": 99, "norm_eps": 1e-3, "rotary_base": 77.0,
    "initial_std": 0.5, "variant": "geglu",
    "kernels": "reference", "attention": "softmax", "attention_backend": "math", "loss_chunk_tokens": 8,
    "allow_slow_operators": ("rms_norm",),
}  # fmt: skip


@pytest.fixture
def variants() -> Iterator[None]:
    with installed_variants():
        yield


def test_every_field_of_the_architecture_changes_the_export_or_is_named_here(variants: None) -> None:
    plain, unchanged = config_for(MODEL, dtype="float32", context=64, tokens={}), set()
    for one in fields(Architecture):
        assert OTHER_VALUES[one.name] != getattr(MODEL, one.name), one.name
        changed = replace(MODEL, **{one.name: OTHER_VALUES[one.name]})
        written = config_for(changed, dtype="float32", context=changed.context or 64, tokens={})
        difference = {name for name in written if written[name] != plain[name]}
        loaded, before = (transformers.Phi3Config(**config).to_dict() for config in (written, plain))
        assert (loaded == before) is (not difference), one.name  # transformers reads it
        unchanged |= set() if difference else {one.name}
    assert unchanged == SAME_FUNCTION


@dataclass(frozen=True, kw_only=True, slots=True)
class Forked(Architecture):
    """An architecture as a fork extends it."""

    activation: str = "silu"
    rotary_fraction: float = 1.0
    multiplier: tuple[float, ...] = field(default=(1.0,))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation": "gelu"}, "model.activation='gelu'"),
        ({"rotary_fraction": 0.5, "multiplier": (2.0,)}, r"model.multiplier=\(2.0,\), model.rotary_fraction=0.5"),
    ],
)
def test_a_field_that_config_json_has_no_word_for_is_refused_before_anything_is_written(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    random_folder(tmp_path / "hf", MODEL)
    reader = open_weights.open_weights(tmp_path / "hf")
    as_it_is = {one.name: getattr(MODEL, one.name) for one in fields(MODEL)}
    reader.architecture = Forked(**as_it_is)  # pyright: ignore[reportAttributeAccessIssue]
    assert plan_huggingface(reader, dtype=None)
    reader.architecture = Forked(**as_it_is, **change)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match=words):
        to_huggingface(reader, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_field_without_a_default_is_refused_too() -> None:
    wider = make_dataclass("Wider", [("experts", int)], bases=(Architecture,), frozen=True, kw_only=True)
    model = wider(**{one.name: getattr(MODEL, one.name) for one in fields(MODEL)}, experts=1)
    with pytest.raises(InputError, match=r"model.experts=1: a Phi-3 model of Hugging Face has nothing of the kind"):
        huggingface_config.refuse_other_fields(model)


NEW_WEIGHTS = {
    "a norm of the queries": "decoder.layers.1.self_attention.q_layernorm.weight",
    "a bias": "decoder.layers.0.mlp.linear_fc2.bias",
    "of no layer": "embedding.position_embeddings.weight",
}


@pytest.mark.parametrize("name", NEW_WEIGHTS.values(), ids=NEW_WEIGHTS)
def test_a_weight_that_no_row_names_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_folder(tmp_path / "hf", MODEL)
    checkpoint = to_checkpoint(tmp_path / "hf", tmp_path / "checkpoint")
    new = weights.Weight(name=name, shape=(MODEL.head_size,), cut=None)
    monkeypatch.setattr(weight_names, "weights_of", lambda model: [*weights.weights_of(model), new])
    with pytest.raises(InputError, match=f"have no name for {name}"):
        to_huggingface(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NEW_WEIGHTS.values(), ids=NEW_WEIGHTS)
def test_a_weight_that_the_architecture_does_not_have_is_not_left_out(name: str, tmp_path: Path) -> None:
    """The engine of a fork saves it, model/weights.py does not list it."""
    random_folder(tmp_path / "hf", MODEL)
    checkpoint = to_checkpoint(tmp_path / "hf", tmp_path / "checkpoint")
    reader = CheckpointReader(checkpoint)
    reader.tensors = {**reader.tensors, f"model/{name}": {"shape": [14], "dtype": "F32", "pieces": []}}
    for source in (reader, WithTokenizer(reader, None, keep={})):
        with pytest.raises(InputError, match=f"holds {name}, which its architecture does not have"):
            to_huggingface(source, tmp_path / "out")
        with pytest.raises(InputError, match=f"holds {name}"):
            to_checkpoint(source, tmp_path / "again")
    assert not any((tmp_path / name).exists() for name in ("out", "again"))


def test_unread_tensors_of_a_folder_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    random_folder(tmp_path / "hf", MODEL, naming="llama")
    file = tmp_path / "hf" / "model.safetensors"
    for name in ("model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.q_norm.weight", "score.weight"):
        save_file({**load_file(file), name: torch.zeros(84)}, file, {"format": "pt"})
        with pytest.raises(InputError, match=rf"unknown \['{name}'\]"):
            open_weights.open_weights(tmp_path / "hf")
        save_file({key: value for key, value in load_file(file).items() if key != name}, file, {"format": "pt"})
