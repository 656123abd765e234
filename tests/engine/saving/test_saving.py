"""Saving beside training, and saving when the storage is bad.

One world of two ranks runs the cases (saving_runs.py), one by one; the tests look at what is left on the disk, at what
was said, and at the losses of what goes on from there. Retention is compared with a rule written down set by set.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from megaphi.engine.retention import Saving, Stored, outdated, prune
from megaphi.files import write_json
from tests.engine.saving.saving_runs import (
    damaged_on_the_way,
    first_fails,
    first_fails_at_once,
    gives_up,
    random_states,
    read_only,
    still_writing,
    storage_fails,
    training_goes_on,
    wrong_copy,
)
from tests.gloo_world import run_in_world


def ranks_of(case: Callable[[str], dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Findings of two ranks in a case, in a folder of its own."""
    return run_in_world(case, str(folder / case.__name__), processes=2)


def test_training_waits_for_a_copy_only_and_the_copy_is_of_its_step(tmp_path: Path) -> None:
    ranks = ranks_of(training_goes_on, tmp_path)
    for case in ranks:
        assert case["answer"] is None
        assert not case["was_published"]
        assert case["metrics"] == {"steps_since_checkpoint": 5, "checkpoint_failures": 0}
        assert case["losses"][0] == case["losses"][1]
        assert case["contents"][0] == case["contents"][1]
        assert case["continued"][0] == case["continued"][1]
        assert case["saved_step"] == 3
        assert case["tree"] == ["latest -> step_00000003", "step_00000003"]


def test_a_fallback_takes_over_and_is_cleared_when_the_usual_place_works_again(tmp_path: Path) -> None:
    ranks = ranks_of(storage_fails, tmp_path)
    for case in ranks:
        assert case["failing"]["metrics"] == {"steps_since_checkpoint": 0, "checkpoint_failures": 0}
        assert case["failing"]["tree"] == ["latest -> step_00000001", "run_folder", "step_00000001"]
        assert case["usual"] == ["latest -> step_00000002", "step_00000002"]
        assert case["fallback"] == []
    log = ranks[0]["failing"]["log"]
    assert len([line for line in log if "a part of this path is a file" in line]) == 2, log


def test_training_outlives_its_storage_but_its_end_does_not_pass_in_silence(tmp_path: Path) -> None:
    ranks = ranks_of(gives_up, tmp_path)
    for case in ranks:
        assert case["losses"]
        assert case["metrics"] == {"steps_since_checkpoint": 2, "checkpoint_failures": 1}
        assert case["tree"] == ["checkpoints"]
    main, other = ranks
    assert any("step 8 was not saved" in line and "Training goes on; the newest" in line for line in main["log"])
    assert "step 9 was not saved: cannot write" in main["message"]
    assert other["message"] == ""


def test_a_first_save_that_fails_stops_all_ranks_at_one_step(tmp_path: Path) -> None:
    """Although rank 1 hears of it two steps later than rank 0."""
    ranks = ranks_of(first_fails, tmp_path)
    main, other = ranks
    assert main["steps"] == other["steps"]
    assert main["steps"][-1] in range(10, 39)
    assert "step 8 was not saved: cannot write" in main["message"]
    assert "saving.train_unsaved=true" in main["message"]
    assert other["message"] == ""
    ranks = ranks_of(first_fails_at_once, tmp_path)
    assert [rank["steps"] for rank in ranks] == [[8], [8]]
    assert "step 8 was not saved: cannot write" in ranks[0]["message"]


def test_a_folder_that_becomes_read_only_costs_the_checkpoints_until_it_is_not(tmp_path: Path) -> None:
    ranks = ranks_of(read_only, tmp_path)
    for case in ranks:
        assert case["failures"] == 1
        assert case["tree"] == ["latest -> step_00000003", "step_00000001", "step_00000003"]
    assert any("step 2 was not saved" in line and "ermission denied" in line for line in ranks[0]["log"])


def test_a_bit_that_the_disk_loses_is_found_and_written_again(tmp_path: Path) -> None:
    ranks = ranks_of(damaged_on_the_way, tmp_path)
    case = ranks[0]
    assert any("rank_00001.safetensors was read back with other bytes" in line for line in case["log"])
    assert any("(rank 1" in line for line in case["log"])
    assert case["tree"] == ["latest -> step_00000001", "step_00000001"]


def test_a_wrong_copy_is_found_by_the_numbers_noted_from_the_model(tmp_path: Path) -> None:
    ranks = ranks_of(wrong_copy, tmp_path)
    case = ranks[0]
    assert case["failures"] == 1
    assert case["tree"] == []
    (line,) = [line for line in case["log"] if "was not saved" in line]
    assert "of model/" in line
    assert "in the model at step 1" in line


def test_a_save_that_hangs_costs_checkpoints_and_not_the_run(tmp_path: Path) -> None:
    ranks = ranks_of(still_writing, tmp_path)
    for case in ranks:
        assert case["failures"] == 1
        assert case["saved_step"] == 3
        assert case["tree"] == ["latest -> step_00000003", "step_00000001", "step_00000003"]
    assert any("step 2 was not saved: the save before it" in line for line in ranks[0]["log"])


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    ranks = ranks_of(random_states, tmp_path)
    for case in ranks:
        assert case["found"] == case["expected"]
    assert any("under another layout" in line for line in ranks[0]["log"])


losses = st.one_of(st.none(), st.floats(0, 10))


@given(
    steps=st.dictionaries(st.integers(1, 60), losses, min_size=1, max_size=12),
    rules=st.builds(Saving, keep_last=st.integers(0, 4), keep_every=st.integers(0, 7), keep_best=st.integers(0, 3)),
    data=st.data(),
)
def test_retention_keeps_what_each_rule_keeps(steps: dict[int, float | None], rules: Saving, data: Any) -> None:
    newest = data.draw(st.sampled_from(sorted(steps)))
    gone = set(
        outdated([Stored(step=step, validation_loss=loss) for step, loss in steps.items()], rules, newest=newest)
    )
    judged = sorted(step for step in steps if step <= newest)
    for step in judged:
        is_late = rules.keep_last == 0 or len([other for other in judged if other > step]) < rules.keep_last
        is_round = rules.keep_every > 0 and step % rules.keep_every == 0
        loss = steps[step]
        better = [o for o in judged if steps[o] is not None and loss is not None and (steps[o], -o) < (loss, -step)]
        is_good = loss is not None and len(better) < rules.keep_best
        assert (step not in gone) == (is_late or is_round or is_good)
    assert gone <= set(judged) - {newest}


def test_pruning_deletes_whole_checkpoints_and_what_a_kill_left(tmp_path: Path) -> None:
    for step, loss in ((10, 2.0), (20, 1.0), (30, 3.0), (40, None), (50, 4.0), (60, 0.5)):
        write_json(tmp_path / f"step_{step:08d}" / "state.json", {"step": step, "validation_loss": loss})
    for step, loss in ((11, "1.0"), (12, [0.1]), (13, float("nan")), (14, True)):  # of strangers: none is the best
        write_json(tmp_path / f"step_{step:08d}" / "state.json", {"step": step, "validation_loss": loss})
    write_json(tmp_path / ".step_00000040.partial" / "state.json", {})
    write_json(tmp_path / ".step_00000010.deleted" / "state.json", {})
    (tmp_path / "step_00000020" / "state.json").write_text("{damaged")
    (tmp_path / "notes").mkdir()
    prune(tmp_path, Saving(keep_last=1, keep_every=30, keep_best=1), newest=50)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "notes", "step_00000010", "step_00000030", "step_00000050", "step_00000060",
    ]  # fmt: skip
