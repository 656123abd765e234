"""Fault drills of the guard, each on real token files through the real stage: what is done, how fast, and what is left.

"Replayed" is a run from the beginning, without the fault, that is told to leave out the same steps: its weights and
moments must be those of the run that met the fault, bit for bit.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from megaphi.engine.guard.settings import Guard
from megaphi.engine.retention import checkpoint_name
from megaphi.engine.run_config import RunConfig
from megaphi.files import read_json
from megaphi.model.megatron_config import Precision
from megaphi.parallel.layout import ParallelLayout
from tests.gloo_world import run_in_world
from tests.stages.guard_runs import (
    STEPS,
    guarded_here,
    guarded_run,
    last_contents,
    now,
    seconds_to,
    state_of,
    time_of,
    told,
    write_tokens,
)
from tests.stages.stage_runs import in_layout, sft_run, stage_here, write_conversations

REPLICAS = ParallelLayout(data=2)
PRECISE: dict[ParallelLayout, Precision] = {
    REPLICAS: "bfloat16",
    ParallelLayout(tensor=2, sequence_parallel=True): "float32",
    ParallelLayout(pipeline=2): "float32",
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("tokens") / "text"
    write_tokens(prefix)
    return prefix


def train(*runs: RunConfig) -> list[dict[str, Any]]:
    """The runs one after the other, on two ranks; what rank 0 has to say of each."""
    return run_in_world(guarded_here, *runs, processes=2)[0]


def losses(found: dict[str, Any]) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in found["records"] if "loss" in record}


def test_a_nan_in_one_gradient_costs_one_update(tokens: Path, tmp_path: Path) -> None:
    run = guarded_run(tmp_path / "a" / "run", tokens, fault="NanGradient", layout=REPLICAS)
    replayed = guarded_run(tmp_path / "b" / "run", tokens, layout=REPLICAS, skip_steps=("17",))
    found, repeated = train(run, replayed)
    assert found["message"] is None
    assert last_contents(run) == last_contents(replayed)
    (event,) = told(run, "skipped")
    assert (event["step"], event["text"]) == (17, "step 17 is left out: gradient norm is not finite")
    records = {record["step"]: record for record in found["records"]}
    assert sorted(records) == list(range(1, STEPS + 1))
    assert records[17]["skipped"] == 1
    assert "gradient_norm" not in records[17]
    assert {step: loss for step, loss in losses(found).items() if step != 17} == losses(repeated)
    for one in (run, replayed):
        state = state_of(one)
        assert state["updates"] == STEPS - 1
        assert state["guard"]["skipped"] == [[17, 17]]
        assert state["skipped_tokens_by_source"] == {"text": 256}
    print(f"NaN in one gradient: recognised after {seconds_to(event, run):.3f} s, in its step; nothing to recover")


@pytest.mark.parametrize("layout", PRECISE, ids=str)
def test_a_burst_is_rolled_back_and_its_data_left_out(layout: ParallelLayout, tokens: Path, tmp_path: Path) -> None:
    """Bad are 19 to 23; the third is too many: back to before 16, which is three steps before the first."""
    same: dict[str, Any] = {"layout": layout, "parameters": PRECISE[layout]}
    run = guarded_run(tmp_path / "a" / "run", tokens, fault="NanGradients", **same)
    replayed = guarded_run(tmp_path / "b" / "run", tokens, skip_steps=("16-23",), **same)
    found, repeated = train(run, replayed)
    assert found["message"] is None
    back, resumed = told(run, "rolled_back", "resumed")
    assert (back["step"], back["to"], back["first"], back["last"]) == (21, 15, 16, 21)
    assert [event["step"] for event in told(run, "skipped")] == [19, 20, 16, 22, 23]
    assert state_of(run)["guard"]["skipped"] == [[16, 23]]
    assert state_of(run)["skipped_tokens_by_source"] == {"text": 8 * 256}
    assert last_contents(run) == last_contents(replayed)
    assert {step: loss for step, loss in losses(found).items() if step not in (22, 23)} == losses(repeated)
    took = time_of(resumed) - time_of(back)
    print(f"burst, {layout}: rolled back {seconds_to(back, run):.3f} s after its first step, and back in {took:.3f} s")


@pytest.fixture(scope="module")
def straight(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run that rolls back at step 21 to step 15, and comes to its end."""
    run = guarded_run(tmp_path_factory.mktemp("straight") / "run", tokens, fault="NanGradients", layout=REPLICAS)
    train(run)
    return run


def test_a_run_that_is_stopped_and_resumed_decides_as_the_straight_one(
    straight: RunConfig, tokens: Path, tmp_path: Path
) -> None:
    parts = [
        guarded_run(tmp_path / "b" / "run", tokens, fault="NanGradients", layout=REPLICAS, stop_after=after)
        for after in (20, 22, None)
    ]
    train(*parts)
    assert [event["step"] for event in told(parts[0], "rolled_back")] == [21]
    assert last_contents(straight) == last_contents(parts[0])
    assert state_of(straight)["guard"] == state_of(parts[0])["guard"]


def test_a_crash_after_a_roll_back_repeats_it(straight: RunConfig, tokens: Path, tmp_path: Path) -> None:
    """A checkpoint alone says how a run continues: with the same steps, roll back and weights; it counts once."""
    faulty: dict[str, Any] = {"fault": "NanGradientsThenCrash", "layout": REPLICAS, "most_roll_backs": 1}
    crashing = guarded_run(tmp_path / "a" / "run", tokens, **faulty)
    crashed, continued = train(crashing, crashing)
    assert (crashed["message"], continued["message"]) == ("crashed", None)
    assert [(event["step"], event["to"]) for event in told(crashing, "rolled_back")] == [(21, 15), (21, 15)]
    assert [event["step"] for event in told(crashing, "resumed")] == [15, 15, 15]  # back, after the crash, back
    assert last_contents(crashing) == last_contents(straight)
    assert state_of(crashing)["guard"] == state_of(straight)["guard"]
    assert state_of(crashing)["guard"]["roll_backs"] == 1


def test_the_end_of_the_limits_ends_the_run(tokens: Path, tmp_path: Path) -> None:
    ended = guarded_run(tmp_path / "a" / "run", tokens, fault="NanGradients", layout=REPLICAS, most_roll_backs=0)
    unsaved = guarded_run(tmp_path / "b" / "run", tokens, fault="NanGradients", layout=REPLICAS, every=50)
    at_once = guarded_run(tmp_path / "c" / "run", tokens, fault="NanGradient", layout=REPLICAS, action="end")
    messages = [found["message"] for found in train(ended, unsaved, at_once)]
    assert "3 of the last 16 steps were bad, and guard.most_roll_backs=0 allows no other roll back" in messages[0]
    assert "and no checkpoint is from before" in messages[1]
    assert messages[2].startswith("step 17: loss ")
    for message, run in zip(messages, (ended, unsaved, at_once), strict=True):
        assert "the run has diverged and was ended without saving" in message
        assert told(run)[-1]["failed"]


def test_fine_tuning_is_guarded_too(tmp_path: Path) -> None:
    write_conversations(tmp_path / "train.jsonl", 60, seed=1)
    write_conversations(tmp_path / "held_out.jsonl", 8, seed=2)
    run = in_layout(sft_run(tmp_path / "run", tmp_path, epochs=0.5, guard=Guard(skip_steps=("2-3",))), data=2)
    found = run_in_world(stage_here, run, processes=2)[0]
    assert [record["step"] for record in found["records"] if "loss" not in record] == [2, 3]
    assert [event["step"] for event in told(run, "skipped")] == [2]
    steps = len(found["records"])
    state = read_json(tmp_path / "run" / "checkpoints" / checkpoint_name(steps) / "state.json", what="state")
    assert state["updates"] == steps - 2
    assert state["skipped_tokens_by_source"] == {"conversations": 2 * 4 * 48}


def test_a_poisoned_document_is_a_spike_whose_updates_are_left_out(tmp_path: Path) -> None:
    """It meets a model that has learnt something in the second epoch: steps 39 and 46, by the promised order."""
    poisoned = tmp_path / "tokens" / "text"
    write_tokens(poisoned, poisoned=True)
    changes: dict[str, Any] = {"layout": REPLICAS, "steps": 50, "every": 100, "rate": 6e-3, "window": 24}
    run = guarded_run(tmp_path / "a" / "run", poisoned, deviations=7.0, **changes)
    replayed = guarded_run(tmp_path / "b" / "run", poisoned, deviations=7.0, skip_steps=("39", "46"), **changes)
    unguarded = guarded_run(tmp_path / "c" / "run", poisoned, deviations=0.0, **changes)
    found, repeated, hurt = train(run, replayed, unguarded)
    events = told(run, "skipped")
    assert [event["step"] for event in events] == [39, 46]
    assert last_contents(run) == last_contents(replayed)
    assert {step: loss for step, loss in losses(found).items() if step not in (39, 46)} == losses(repeated)
    assert [loss for step, loss in losses(hurt).items() if step <= 39] == list(losses(found).values())[:39]
    for event in events:
        print(f"poisoned document: {event['text']}")
    print(f"loss of the last step {losses(found)[50]:.3f}, without a guard {losses(hurt)[50]:.3f}")


@pytest.fixture(scope="module")
def clean(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], RunConfig]:
    """A run without a fault, and its configuration."""
    run = guarded_run(tmp_path_factory.mktemp("clean") / "run", tokens, layout=REPLICAS)
    return train(run)[0], run


def test_a_bit_flipped_in_one_replica_is_found_before_the_update(
    clean: tuple[dict[str, Any], RunConfig], tokens: Path, tmp_path: Path
) -> None:
    run = guarded_run(tmp_path / "a" / "run", tokens, fault="FlippedBit", layout=REPLICAS, every=7)
    (hurt,) = train(run)
    (event,) = told(run, "replica_differs")
    assert event["step"] == 16
    assert event["last_good"] == 12
    assert "decoder.layers.1.mlp.linear_fc2.weight" in event["text"]
    assert "rank 0 on" in hurt["message"]
    assert [Path(path).name for path in event["suspects"]] == ["suspect_step_00000014"]
    began = now()
    (continued,) = train(guarded_run(tmp_path / "a" / "run", tokens, layout=REPLICAS, every=7))
    assert continued["message"] is None
    assert [one["step"] for one in told(run, "resumed")] == [7]
    assert last_contents(run) == last_contents(clean[1])
    assert not list(Path(run.folder).glob("checkpoints/suspect*"))
    took = time_of(told(run, "resumed")[0]) - began
    print(f"flipped bit: found after {seconds_to(event, run):.3f} s; resumed {took:.3f} s after its start")


def test_context_ranks_are_replicas_too(tokens: Path, tmp_path: Path) -> None:
    run = guarded_run(tmp_path / "a" / "run", tokens, fault="FlippedBit", layout=ParallelLayout(context=2))
    (hurt,) = train(run)
    (event,) = told(run, "replica_differs")
    assert event["step"] == 16
    assert re.search(r"rank 0 on \S+, rank 1 on \S+ hold different bits of decoder.layers.1", hurt["message"])


def test_a_bit_flipped_between_comparisons_enters_one_gradient_and_is_gone(
    clean: tuple[dict[str, Any], RunConfig], tokens: Path, tmp_path: Path
) -> None:
    """The limit of comparing: the next gathering overwrites the flipped bit, on all replicas alike."""
    run = guarded_run(tmp_path / "a" / "run", tokens, fault="FlippedBitUnseen", layout=REPLICAS)
    (hurt,) = train(run)
    assert hurt["message"] is None
    assert not told(run, "replica_differs", "skipped")
    before, after = ({step: loss for step, loss in losses(one).items() if step < 15} for one in (hurt, clean[0]))
    assert before == after
    assert last_contents(run) != last_contents(clean[1])
