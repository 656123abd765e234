"""Overrides, JSON there and back, and errors that name the field."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.config import FilePath, Range, describe, difference, from_plain, leaves, override, to_plain
from megaphi.config_kinds import SectionOfKinds, kinds
from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture, Source
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.run_config import NumericPrecision, RunConfig, check
from megaphi.engine.run_sections import Start, TrainingLength
from megaphi.errors import InputError
from megaphi.parallel.layout import ParallelLayout
from megaphi.recipes import RECIPES, load_recipe
from megaphi.recipes.quickstart import QUICKSTART_MODEL
from megaphi.stages.pretrain import Pretrain, mixture_of

RUN = load_recipe("quickstart_pretrain")
NAMES = st.text("abcdefgh", min_size=1, max_size=8)
FLOATS = st.floats(1e-9, 1e9)
SOURCES = st.lists(
    st.builds(
        Source,
        name=NAMES,
        weight=FLOATS,
        paths=st.lists(NAMES, max_size=3).map(tuple),
        unique_tokens=st.none() | st.integers(1, 10**13),
    ),
    max_size=5,
).map(tuple)
RUNS = st.builds(
    RunConfig,
    recipe=NAMES,
    seed=st.integers(0, 2**63),
    folder=NAMES,
    training=st.builds(TrainingLength, steps=st.integers(1, 10**6), stop_after=st.none() | st.integers(1, 99)),
    start=st.builds(Start, resume=st.booleans()),
    layout=st.builds(ParallelLayout, tensor=st.integers(1, 8), data=st.none() | st.integers(1, 64)),
    model=st.just(QUICKSTART_MODEL),
    batch=st.builds(BatchShape, global_batch=st.integers(1, 9_999)),
    task=st.builds(Pretrain, mixture=st.builds(Mixture, sources=SOURCES, isolate_documents=st.booleans())),
    optimizer=st.builds(Optimizer, learning_rate=FLOATS, eps=FLOATS),
    precision=st.builds(NumericPrecision, parameters=st.sampled_from(["float32", "bfloat16"])),
    recompute=st.sampled_from(["none", "selective", "full"]),
    overlap_communication=st.booleans(),
)


@given(RUNS)
@settings(max_examples=100, deadline=None)
def test_there_and_back_through_json(run):
    assert from_plain(RunConfig, json.loads(json.dumps(to_plain(run)))) == run


@given(RUNS)
@settings(max_examples=50, deadline=None)
def test_every_leaf_can_be_said_on_the_command_line(run):
    """Writing out every leaf of one configuration over another that has the same sources gives the first."""
    names = [source.name for source in mixture_of(run).sources]
    sources = mixture_of(run).sources if len({*names}) == len(names) else ()
    run = dataclasses.replace(run, task=Pretrain(mixture=Mixture(sources=sources)))
    other = dataclasses.replace(RUN, task=run.task)
    words = [
        f"{path}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for path, value in leaves(run)
        if path not in ("task.kind", "task.mixture.sources")
    ]
    assert override(other, words) == run


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("training.steps=2_000", "training.steps", 2_000),
        ("training.steps=1e3", "training.steps", 1_000),
        ("optimizer.learning_rate=.5", "optimizer.learning_rate", 0.5),
        ("optimizer.learning_rate=3", "optimizer.learning_rate", 3.0),
        ("layout.sequence_parallel=False", "layout.sequence_parallel", False),
        ("training.stop_after=none", "training.stop_after", None),
        ("folder=3", "folder", "3"),
        ("folder=a=b", "folder", "a=b"),
        ("precision.parameters=bfloat16", "precision.parameters", "bfloat16"),
        ("task.mixture.sources.code.weight=0.25", "task.mixture.sources.code.weight", 0.25),
        ("task.mixture.sources.0.weight=1", "task.mixture.sources.web.weight", 1.0),
        ("task.mixture.sources.web.paths=a,b", "task.mixture.sources.web.paths", ["a", "b"]),
    ],
)
def test_overrides(assignment, path, value):
    changed = dict(leaves(override(RUN, [assignment])))
    assert changed[path] == value
    assert {name: old for name, old in leaves(RUN) if name != path} == {
        name: new for name, new in changed.items() if name != path
    }


def test_the_last_override_wins():
    assert override(RUN, ["training.steps=5", "seed=1", "training.steps=6"]).training.steps == 6


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.steps", r"expected field=value, got 'training\.steps'"),
        ("training.step=5", r"unknown field 'training\.step'\. Did you mean 'training\.steps'\?"),
        ("layuot.tensor=2", r"unknown field 'layuot\.tensor'\. Did you mean 'layout'"),
        ("training.steps=many", r"training\.steps=many: expected a whole number"),
        ("training.steps=1.5", r"training\.steps=1\.5: expected a whole number"),
        ("training.steps=true", r"training\.steps=True: expected a whole number"),
        ("start.resume=1", r"start\.resume=1: expected true or false"),
        ("optimizer.learning_rate=fast", r"optimizer\.learning_rate=fast: expected a number"),
        ("precision.parameters=fp8", r"precision\.parameters='fp8': expected one of float32, bfloat16"),
        ("training.stop_after=soon", r"training\.stop_after=soon: expected a whole number of at least 1 or none"),
        ("task.mixture.sources.cod.weight=1", r"no item 'cod', there are web, .*Did you mean 'code'\?"),
        ("task.mixture.sources.code=1", r"mixture\.sources\.code is a whole section"),
        ("seed.x=1", r"seed\.x: 'seed' is a single value and has no field 'x'"),
    ],
)
def test_overrides_that_cannot_be(assignment, message):
    with pytest.raises(InputError, match=message):
        override(RUN, [assignment])


def test_a_configuration_file_with_a_field_too_many_or_too_few():
    plain = to_plain(RUN)
    plain["optimizer"]["lr"] = 1
    with pytest.raises(InputError, match=r"unknown field 'optimizer\.lr'"):
        from_plain(RunConfig, plain)
    del plain["optimizer"]["lr"], plain["batch"]["global_batch"]
    with pytest.raises(InputError, match=r"batch: .*global_batch"):
        from_plain(RunConfig, plain)
    with pytest.raises(InputError, match="model: expected an object with fields, got 7"):
        from_plain(RunConfig, {**to_plain(RUN), "model": 7})


@pytest.mark.parametrize("name", ["k" * 20_000, {"k" * 20_000: 1}, ["k" * 20_000]])
def test_the_name_of_an_item_makes_no_message_long(name):
    plain = to_plain(RUN)
    plain["task"]["mixture"]["sources"][0] |= {"name": name, "weight": "x"}
    with pytest.raises(InputError, match=r"task\.mixture\.sources\.") as found:
        from_plain(type(RUN), plain)
    assert len(str(found.value)) < 500


def test_differences_name_the_leaf():
    other = override(RUN, ["layout.tensor=4", "task.mixture.sources.web.weight=9"])
    assert difference(RUN, other) == [("layout.tensor", 2, 4), ("task.mixture.sources.web.weight", 0.15, 9.0)]
    assert difference(to_plain(RUN), other) == difference(RUN, other)
    assert difference({"a": 1}, {"b": 2}) == [("a", 1, None), ("b", None, 2)]


def test_every_field_of_a_recipe_explains_itself():
    @dataclass(frozen=True)
    class Section:
        plain: Annotated[int, Range(minimum=1)] | None = 1
        """Amount
        of it."""
        silent: Literal["a", "b"] = "a"
        listed: tuple[int, ...] = field(default=(1, 2))
        """Listed."""

    assert list(describe(Section())) == [
        ("plain", 1, "a whole number of at least 1 or none", "Amount of it."),
        ("silent", "a", "one of a, b", ""),
        ("listed", (1, 2), "a list of a whole number", "Listed."),
    ]
    shown = {field.path: field.meaning for field in describe(RUN)}
    assert set(shown) == {path for path, _ in leaves(RUN)}
    assert shown["layout.virtual_pipeline"].startswith("Chunks of layers per pipeline stage")


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["training.steps=0"], r"training\.steps=0: must be at least 1"),
        (["saving.keep_last=-1"], r"saving\.keep_last=-1: must be at least 0"),
        (["saving.every=0"], r"saving\.every=0: must be at least 1"),
        (["saving.keep_best=1", "saving.every=50"], r"saving\.keep_best=1 needs a validation loss at every checkpoint"),
        (["optimizer.warmup_steps=240"], r"leaves no step after the warm-up of training\.steps=240"),
        (["optimizer.learning_rate=0"], r"optimizer\.learning_rate=0\.0: must be above 0"),
        (["optimizer.beta2=1.5"], r"optimizer\.beta2=1\.5: must be at least 0 and below 1"),
        (
            ["model.heads=8", "model.key_value_groups=3"],
            r"model\.heads=8 is not a multiple of model\.key_value_groups=3",
        ),
        (["model.head_size=31"], r"model\.head_size=31: rotary positions need an even head size"),
        (["model.layers=0"], r"model\.layers=0: must be from 1 to 10000"),
        (["model.loss_chunk_tokens=-1"], r"model\.loss_chunk_tokens=-1: must be at least 0"),
        (
            ["model.loss_chunk_tokens=8", "model.kernels=reference"],
            r"model\.loss_chunk_tokens=8 needs model\.kernels=fused, not reference",
        ),
        (["model.attention=softmax", "model.kernels=transformer_engine"], r"model\.attention=softmax needs"),
        (
            ["deterministic=true", "model.attention_backend=cudnn"],
            r"deterministic=true needs .*flash, math or auto, not",
        ),
        (["precision.fp8=delayed"], r"precision\.fp8=delayed needs model\.kernels=transformer_engine, not fused"),
        (["precision.fp8=mxfp8", "model.kernels=transformer_engine"], r"needs precision\.parameters=bfloat16"),
        (
            ["task.mixture.isolate_documents=true", "model.kernels=transformer_engine"],
            r"mixture\.isolate_documents=true needs model\.kernels=fused or reference",
        ),
    ],
)
def test_fields_that_contradict_each_other(assignments, message):
    with pytest.raises(InputError, match=message):
        check(override(RUN, assignments), world_size=2)


REMEDIES = (
    (r"or (layout\.stage_layers=) for equal ones$", "{}"),
    (r"(?:use|or) (layout\.virtual_pipeline=1)(?:$|, or a batch)", "{}"),
    (r"or (batch\.micro_batch=\d+), which trains the same(?:$|, or \d.* processes$)", "{}"),
    (
        r"batch\.global_batch=\d+ is not a multiple .*: use a multiple of (\d+)(?:$|, or \d.* processes$)",
        "batch.global_batch={}",
    ),
    (r"splits \d+ positions over layout\.tensor=\d+.* or (layout\.sequence_parallel=false)$", "{}"),
)


def checked_with_remedies(run: RunConfig, *, world_size: int) -> RunConfig | str:
    """The run, with what the messages propose until it passes; or the message that proposes no other field."""
    message = ""
    for _ in range(6):
        try:
            return check(run, world_size=world_size)
        except InputError as error:
            message = str(error)
        for pattern, remedy in REMEDIES:
            if found := re.search(pattern, message):
                run = override(run, [remedy.format(found[1])])
    return message


def test_no_default_of_a_recipe_forbids_a_layout():
    """Only a cut that does not divide the model is refused for good; a batch and sequence parallelism have a remedy."""
    passed = 0
    for recipe in RECIPES:
        for tensor, pipeline, replicas in itertools.product((1, 2, 5, 10), (1, 2, 3, 8, 40), (1, 2, 3, 30, 480)):
            ways = [f"layout.tensor={tensor}", f"layout.pipeline={pipeline}"]
            found = checked_with_remedies(override(load_recipe(recipe), ways), world_size=tensor * pipeline * replicas)
            if isinstance(found, str):
                assert re.search(r"layout\.\w+=\d+ does not divide model\.\w+=\d+: choose one of", found), found
                continue
            passed += 1
            assert found.validation.samples == load_recipe(recipe).validation.samples, "the same on every layout"
    assert passed > 300


def kinds_of(hint: Any) -> tuple[type, ...]:
    """Our classes that a section may be, where it has several kinds."""
    is_one = isinstance(hint, type) and issubclass(hint, SectionOfKinds)
    return tuple(kind for kind in kinds(hint).values() if kind.__module__.startswith("megaphi.")) if is_one else ()


def every_field() -> set[str]:
    """Paths of all fields that any recipe could have, sections included."""

    def walk(hint: Any, path: str) -> Iterator[str]:
        yield path
        for part in (hint, *typing.get_args(hint), *kinds_of(hint)):
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                for name, inner in typing.get_type_hints(part, include_extras=True).items():
                    yield from walk(inner, f"{path}.{name}".lstrip("."))

    return set(walk(RunConfig, ""))


def numeric_fields(section: type, prefix: str = "") -> Iterator[tuple[str, list[Range]]]:
    """Every numeric field of a configuration, whatever the recipe sets, with the ranges that it declares."""
    for name, hint in typing.get_type_hints(section, include_extras=True).items():
        yield from _numbers_in(hint, f"{prefix}.{name}".lstrip("."))


def _numbers_in(hint: Any, path: str) -> Iterator[tuple[str, list[Range]]]:
    if dataclasses.is_dataclass(hint):
        for section in kinds_of(hint) or (hint,):
            yield from numeric_fields(cast(type, section), path)
    elif typing.get_origin(hint) is Annotated and hint != FilePath:
        assert hint.__origin__ in (int, float), path
        yield path, [part for part in hint.__metadata__ if isinstance(part, Range)]
    elif hint in (int, float):
        yield path, []
    elif typing.get_origin(hint) is not Literal and hint != FilePath:
        for part in typing.get_args(hint):
            yield from _numbers_in(part, path)


def test_every_number_declares_its_range_where_it_is_declared():
    fields = dict(numeric_fields(RunConfig))
    assert {"optimizer.eps", "task.mixture.sources.weight", "task.mixture.stages.tokens", "task.beta", "seed"} <= {
        *fields
    }
    assert [path for path, ranges in fields.items() if len(ranges) != 1] == []


PLACES = re.compile(r"(^|[._])(folder|paths?|file|checkpoint)$")


def text_fields(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a text, or of texts, with its annotation."""
    for name, hint in typing.get_type_hints(section, include_extras=True).items():
        path = f"{prefix}.{name}".lstrip(".")
        for part in (hint,) if hint == FilePath else (hint, *typing.get_args(hint)):
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                for section in kinds_of(part) or (part,):
                    yield from text_fields(section, path)
            elif part is str or part == FilePath:
                yield path, part


def test_every_field_that_is_a_path_says_so_and_begins_at_home_if_asked(monkeypatch):
    fields = dict(text_fields(RunConfig))
    assert {"folder", "task.mixture.sources.paths", "saving.fallback_folder", "tokenizer.path"} <= {*fields}
    assert [path for path, hint in fields.items() if PLACES.search(path) and hint != FilePath] == []
    monkeypatch.setenv("HOME", "/home/ada")
    words = ["folder=~/runs/x", "task.mixture.sources.web.paths=~/a,s3://bucket/~b,/c", "saving.fallback_folder=~"]
    run = override(load_recipe("quickstart_pretrain"), words)
    assert (run.folder, run.saving.fallback_folder) == ("/home/ada/runs/x", "/home/ada")
    assert mixture_of(run).sources[0].paths == ("/home/ada/a", "s3://bucket/~b", "/c")
    made = dataclasses.replace(run, start=dataclasses.replace(run.start, initial_checkpoint="~/phi-4"))
    assert check(made, world_size=2).start.initial_checkpoint == "/home/ada/phi-4"


def values_outside(numbers: Range, *, whole: bool) -> Iterator[Any]:
    if numbers.minimum is not None:
        yield numbers.minimum - 1
    if numbers.above is not None:
        yield from (numbers.above, numbers.above - 1)
    if numbers.maximum is not None:
        yield numbers.maximum + 1
    if numbers.below is not None:
        yield numbers.below
    yield from (2**64, 10**30) if whole else (math.nan, math.inf, -math.inf)


def test_no_field_of_any_recipe_takes_what_is_outside_its_range_by_any_way_in():
    tried = 0
    for recipe in RECIPES:
        run = load_recipe(recipe)
        ranges = dict(numeric_fields(RunConfig))
        for path, value in leaves(run):
            declared = ranges.get(re.sub(r"\.sources\.\w+", ".sources", path))
            if not declared or value is None:
                continue
            several = isinstance(value, list)
            place = re.escape(f"{path}.0" if several else path)
            for wrong in values_outside(declared[0], whole=isinstance(value, int | list)):
                tried += 1
                message = rf"{place}=\S+: must be (.*\d|a finite number)"
                with pytest.raises(InputError, match=message):
                    override(run, [f"{path}={wrong}"])
                plain = replaced(to_plain(run), path, [wrong] if several else wrong)
                with pytest.raises(InputError, match=message):
                    from_plain(RunConfig, json.loads(json.dumps(plain)))
                built = built_with(run, path, (wrong,) if several else wrong)
                with pytest.raises(InputError, match=message):
                    check(built, world_size=run.layout.model_ranks * (run.layout.data or 1))
    assert tried > 500


def replaced(plain: Any, path: str, value: Any) -> Any:
    """The same JSON with another value at a dotted path."""
    head, _, rest = path.partition(".")
    if isinstance(plain, list):
        return [replaced(item, rest, value) if item["name"] == head else item for item in plain]
    return plain | {head: replaced(plain[head], rest, value) if rest else value}


def built_with(config: Any, path: str, value: Any) -> Any:
    """The same tree with another value at a dotted path, as a recipe's own code would build it: unchecked."""
    head, _, rest = path.partition(".")
    if isinstance(config, tuple):
        return tuple(built_with(item, rest, value) if item.name == head else item for item in config)
    return dataclasses.replace(config, **{head: built_with(getattr(config, head), rest, value) if rest else value})
