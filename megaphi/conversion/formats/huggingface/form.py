"""Forms of our variants in Hugging Face's config.json: the form of a given file, and the form of an export.

A variant names its class in transformers and the fields of its config.json other than sizes (`Phi4.huggingface`). If a
file fits several forms, the one with most fields is used. Llama's form is a second form of Phi-4 itself, for reading
only: the same model under other names. A variant without a form of its own is refused instead of being written as
Phi-4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from megaphi.conversion.formats.huggingface.keys import CONFIG_KEYS, ROTARY, told
from megaphi.errors import InputError
from megaphi.foreign.files import brief
from megaphi.model.architecture import Architecture
from megaphi.model.variants import USUAL, variant_names, variant_of
from megaphi.model.variants.phi4 import PHI3, HuggingFaceForm

_LLAMA = replace(
    PHI3,
    model_type="llama",
    class_name="LlamaForCausalLM",
    naming="llama",
    defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 2_048},
)


def form_for(model: Architecture) -> HuggingFaceForm:
    """The form of a model's export. Raises InputError if its variant has none."""
    form = _own_form(model.variant)
    if form is None:
        raise InputError(
            f"model.variant={model.variant}: the variant names no form of Hugging Face's (`huggingface`), and would not"
            " be the same as a Phi-3 model: it cannot be exported"
        )
    return form


def variant_and_form(config: Mapping[str, Any], *, where: str) -> tuple[str, HuggingFaceForm]:
    """Variant and form of a config.json; Phi-4 for values of no variant, so that they are refused by name."""
    given, kind = told(config), config.get("model_type")
    forms = [(USUAL, PHI3), (USUAL, _LLAMA)]
    forms += [(name, form) for name in variant_names() if name != USUAL and (form := _own_form(name))]
    known = [(name, form) for name, form in forms if form.model_type == kind]
    if not known:
        kinds = sorted({form.model_type for _, form in forms} - {"phi3"})
        raise InputError(
            f"{where}: model_type is {brief(kind)}, expected 'phi3' (Phi-3 and Phi-4 models) or "
            f"{' or '.join(map(repr, kinds))}"
        )
    fitting = [(name, form) for name, form in known if _fits(form, given)]
    most = max((len(_of_its_own(form)) for _, form in fitting), default=0)
    best = [(name, form) for name, form in fitting if len(_of_its_own(form)) == most] or known[:1]
    if len(best) > 1:
        raise InputError(f"{where} may be of the variants {' or '.join(name for name, _ in best)}: leave one installed")
    return best[0]


def refused_keys(given: Mapping[str, Any], form: HuggingFaceForm) -> list[str]:
    """Keys whose values are neither understood nor those of the form."""
    said = {**form.fields, "architectures": [form.class_name]}
    missing = object()
    return [name for name in CONFIG_KEYS.refused(given) if given[name] != said.get(_last(name), missing)]


def _own_form(name: str) -> HuggingFaceForm | None:
    """The form in the variant's own class."""
    return vars(type(variant_of(name))).get("huggingface")


def _of_its_own(form: HuggingFaceForm) -> dict[str, Any]:
    """Fields in which the form differs from Phi-4's."""
    return {name: value for name, value in form.fields.items() if PHI3.fields.get(name) != value}


def _fits(form: HuggingFaceForm, given: Mapping[str, Any]) -> bool:
    """Return whether config.json has the form's values in those of the form's fields that it has."""
    for name, wanted in _of_its_own(form).items():
        places = (name, *(f"{section}.{name}" for section in ROTARY))
        said = [given[place] for place in places if place in given]
        if not said or any(value != wanted for value in said):
            return False
    return True


def _last(name: str) -> str:
    return name.rpartition(".")[2]
