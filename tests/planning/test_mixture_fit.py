"""The response, the choice and the swarm of a mixture fit, on losses whose law is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.cli import main
from megaphi.cli.mixture.fit import most_shares
from megaphi.data.order.report import report_mixture
from megaphi.errors import InputError, RunFailed
from megaphi.planning.mixture import swarm as swarm_module
from megaphi.planning.mixture.choice import best_shares, limits_of
from megaphi.planning.mixture.fit import FitSettings, fit_mixture, paired_gain
from megaphi.planning.mixture.report import write_fit
from megaphi.planning.mixture.response import MixingLaw, fit_law, left_out_errors, mean_response, resampled_laws
from megaphi.planning.mixture.swarm import Swarm, SwarmSettings, command_of
from megaphi.planning.mixture.trial import Trial, draw_shares, plan_trials, rounded
from megaphi.recipes import load_recipe
from megaphi.recipes.quickstart import quickstart_pretrain
from megaphi.stages.pretrain import mixture_of

BASE = {"web": 0.15, "rewrites": 0.15, "synthetic": 0.4, "code": 0.2, "acquired": 0.1}
LAWS = (
    MixingLaw(0.9, np.array([-0.9, -0.2, 0.1, 0.3, 0.2])),
    MixingLaw(0.4, np.array([0.2, 0.1, 0.0, -1.6, 0.2])),
)
"""Laws that the pretended runs follow: the first text wants web, the second code."""


def shares_of(trials: list[Trial]) -> np.ndarray:
    return np.array([list(trial.shares.values()) for trial in trials])


def losses(share_NS: np.ndarray, *, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    exact = np.stack([law.predict(share_NS) for law in LAWS], axis=1)
    return exact + noise * np.random.default_rng(seed).standard_normal(exact.shape)


@given(st.integers(0, 10_000), st.integers(8, 40), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_trials_are_mixtures_that_tell_sources_apart(seed: int, runs: int, held_out: int) -> None:
    trials = plan_trials(BASE, runs=runs, repeats=3, held_out=held_out, seed=seed)
    share_NS = shares_of(trials)
    np.testing.assert_allclose(share_NS.sum(axis=1), 1, atol=1e-9)
    assert (share_NS >= 0).all()
    assert len({trial.name for trial in trials}) == len(trials) == runs + 3 + held_out
    fitted = [trial for trial in trials if trial.role == "fit"]
    assert np.linalg.matrix_rank(shares_of(fitted)) == len(BASE)
    assert len({trial.seed for trial in fitted}) == runs
    assert trials == plan_trials(BASE, runs=runs, repeats=3, held_out=held_out, seed=seed)


def test_too_few_runs_are_refused_with_the_number_needed() -> None:
    with pytest.raises(InputError, match="--runs 7: a response over 5 sources needs at least 8"):
        plan_trials(BASE, runs=7, repeats=2, held_out=0, seed=0)
    with pytest.raises(InputError, match="--repeats 1: at least 2"):
        plan_trials(BASE, runs=8, repeats=1, held_out=0, seed=0)


def test_the_law_is_found_exactly_without_noise() -> None:
    share_NS = np.array(draw_shares(np.array(list(BASE.values())), count=24, seed=1))
    for law, y_N in zip(LAWS, losses(share_NS).T, strict=True):
        found = fit_law(share_NS, y_N)
        other_NS = np.array(draw_shares(np.full(5, 0.2), count=50, seed=2))
        np.testing.assert_allclose(found.predict(other_NS), law.predict(other_NS), atol=2e-3)
        law_N, mean_N = left_out_errors(share_NS, y_N)
        assert np.sqrt((law_N**2).mean()) < 0.02 * np.sqrt((mean_N**2).mean())


def test_the_proposal_is_the_best_of_a_dense_search() -> None:
    share_NS = np.array(draw_shares(np.array(list(BASE.values())), count=30, seed=1))
    limits = limits_of(share_NS, np.array([0.6, 1.0, 1.0, 0.5, 1.0]))
    weight_T = np.array([0.5, 0.5])
    found_S = best_shares(LAWS, weight_T, limits)
    assert found_S.sum() == pytest.approx(1)
    assert (found_S <= limits.high_S + 1e-4).all()
    tried_NS = np.random.default_rng(0).dirichlet(np.full(5, 0.5), 200_000)
    inside_N = ((tried_NS >= limits.low_S) & (tried_NS <= limits.high_S)).all(axis=1)
    best = mean_response(LAWS, weight_T, tried_NS[inside_N]).min()
    assert mean_response(LAWS, weight_T, found_S) <= best + 1e-4


def test_sources_without_enough_text_are_named() -> None:
    share_NS = np.array(draw_shares(np.full(5, 0.2), count=12, seed=0))
    with pytest.raises(InputError, match=r"sum to 0\.50, below 1: there is not enough text"):
        limits_of(share_NS, np.full(5, 0.1))


def test_text_limits_a_share_to_the_epochs_that_are_allowed() -> None:
    mixture = mixture_of(quickstart_pretrain())
    with_sizes = type(mixture)(
        sources=tuple(
            type(source)(name=source.name, weight=source.weight, paths=("missing",), unique_tokens=tokens)
            for source, tokens in zip(mixture.sources, (1_000, 5_000, None, 10**9, 20_000), strict=True)
        )
    )
    report = report_mixture(with_sizes, steps=10, sequence_length=100, global_batch=40)
    found = most_shares(report, epochs=4)
    assert list(found.values()) == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0])


def test_intervals_of_the_predicted_gain_cover_the_truth() -> None:
    """95 % intervals of resampled fits, over 30 pretended fits of 32 runs, noise 0.01; the proposal fixed."""
    proposed_S, base_S = np.array([0.4, 0.1, 0.1, 0.3, 0.1]), np.array(list(BASE.values()))
    weight_T, covered = np.array([0.5, 0.5]), 0
    truth = mean_response(LAWS, weight_T, base_S) - mean_response(LAWS, weight_T, proposed_S)
    for seed in range(30):
        share_NS = np.array(draw_shares(base_S, count=32, seed=seed))
        refits = resampled_laws(share_NS, losses(share_NS, noise=0.01, seed=seed), resamples=40, seed=seed)
        gains = [mean_response(fit, weight_T, base_S) - mean_response(fit, weight_T, proposed_S) for fit in refits]
        low, high = np.quantile(gains, [0.025, 0.975])
        covered += bool(low <= truth <= high)
    assert 25 <= covered <= 30


def test_paired_gain_is_students_interval() -> None:
    found = paired_gain(np.array([1.0, 1.2, 1.1]), np.array([0.9, 1.0, 1.05]))
    # mean 0.11667, standard deviation 0.076376, t(0.975, 2) = 4.302653
    assert (found.value, found.low, found.high) == pytest.approx((0.116667, -0.073061, 0.306394), abs=1e-5)


def test_shares_are_rounded_to_a_sum_of_one() -> None:
    assert rounded(np.array([0.333333, 0.333333, 0.333334])).sum() == 1
    assert rounded(np.array([0.004, 0.496, 0.5]))[0] == 0


def pretend_training(monkeypatch: pytest.MonkeyPatch, *, fails: str = "") -> None:
    """Trials that write the losses of LAWS, plus noise by their seed, and their names into a file."""

    def command(settings: SwarmSettings, trial: Trial) -> list[str]:
        share_S = np.array(list(trial.shares.values()))
        noise = 0.002 * np.random.default_rng(trial.seed).standard_normal(2)
        values = [float(law.predict(share_S)) + float(one) for law, one in zip(LAWS, noise, strict=True)]
        line = json.dumps({"step": 1, "validation_loss/web": values[0], "validation_loss/code": values[1]})
        path = settings.folder / "runs" / trial.name / "metrics.jsonl"
        code = f"open({str(settings.folder / 'ran')!r}, 'a').write({trial.name + chr(10)!r}); "
        code += f"open({str(path)!r}, 'w').write({line + chr(10)!r}); raise SystemExit({int(trial.name == fails)})"
        return [sys.executable, "-S", "-c", code]

    monkeypatch.setattr(swarm_module, "command_of", command)


def ran_in(folder: Path) -> list[str]:
    """Names of the trials that ran since the last question."""
    names = (folder / "ran").read_text().split()
    (folder / "ran").unlink()
    return names


def fitted(folder: Path, **changed: int) -> object:
    settings = FitSettings(**{"runs": 12, "repeats": 3, "held_out": 3, "resamples": 20, **changed})
    swarm = Swarm(SwarmSettings(recipe="x", fields=(), folder=folder), quickstart_pretrain())
    try:
        return fit_mixture(
            swarm,
            BASE,
            settings,
            bits_per_byte={"web": 1.0, "code": 1.0},
            weights={"web": 0.5, "code": 0.5},
            most_shares=dict.fromkeys(BASE, 1.0),
        )
    finally:
        swarm.close()


def test_a_fit_resumes_without_running_a_trial_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted_whole(tmp_path / "whole", monkeypatch)
    pretend_training(monkeypatch, fails="fit-007")
    with pytest.raises(RunFailed, match="fit-007 ended with code 1"):
        fitted(tmp_path / "stopped")
    ran = ran_in(tmp_path / "stopped")
    assert "fit-006" in ran
    assert "fit-008" not in ran[ran.index("fit-007") + 2 :]
    pretend_training(monkeypatch)
    assert fitted(tmp_path / "stopped") == whole
    again = ran_in(tmp_path / "stopped")
    assert "fit-006" not in again
    assert "fit-007" in again


def fitted_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    pretend_training(monkeypatch)
    whole = fitted(folder)
    assert len(ran_in(folder)) == 12 + 3 + 3 + 2 * 3
    write_fit(whole, folder, recipe="quickstart_pretrain")  # pyright: ignore[reportArgumentType]
    assert json.loads((folder / "fit.json").read_text())["sources"] == list(BASE)
    assert (folder / "fit.png").read_bytes().startswith(b"\x89PNG")
    lines = (folder / "report.md").read_text()
    assert "measured by training" in lines
    assert "megaphi train quickstart_pretrain task.mixture.sources.web.weight=" in lines
    assert whole.measured_gain["base"].low > 0  # pyright: ignore[reportAttributeAccessIssue]
    return whole


def test_a_folder_of_other_trials_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_training(monkeypatch)
    fitted(tmp_path)
    with pytest.raises(InputError, match=r"has fit-00\d with another value of (shares and )?seed"):
        fitted(tmp_path, seed=5)
    other = quickstart_pretrain()
    with pytest.raises(InputError, match=r"run with other fields \(seed\)"):
        Swarm(SwarmSettings(recipe="x", fields=(), folder=tmp_path), type(other)(**{**_fields(other), "seed": 9}))


def _fields(run: object) -> dict[str, object]:
    return {name: getattr(run, name) for name in type(run).__dataclass_fields__}  # pyright: ignore


def test_trials_keep_the_held_out_text_and_change_the_shares() -> None:
    trial = Trial(name="fit-000", role="fit", shares={"web": 0.25, "code": 0.75, "acquired": 0.0}, seed=3)
    words = command_of(SwarmSettings(recipe="r", fields=("a=1",), folder=Path("f"), processes=2), trial)
    assert words[1:6] == ["-m", "megaphi", "train", "r", "a=1"]
    assert words[-2:] == ["--processes", "2"]
    stages = next(word for word in words if word.startswith("task.mixture.stages="))
    assert json.loads(stages.partition("=")[2]) == [
        {"name": "trial", "shares": [{"name": "web", "weight": 0.25}, {"name": "code", "weight": 0.75}]}
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "wbe"], "--target wbe: expected SOURCE or SOURCE=WEIGHT"),
        (["--target", "web=x"], "the sources with held-out text being web, rewrites"),
        (["--at-once", "0"], "--at-once 0: must be at least 1"),
        (["--runs", "5", "--dry-run"], "--runs 5: a response over 5 sources needs at least 8"),
    ],
)
def test_bad_options_are_one_message(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = ["layout.tensor=1", "layout.sequence_parallel=false"]
    assert main(["mixture", "fit", "quickstart_pretrain", *fields, "--output", str(tmp_path / "f"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("name", "varied"),
    [
        ("uniform", {"synthetic": 0.25, "rewrites": 0.25, "web": 0.25}),
        ("s", {"synthetic": 0.75}),
        ("s_wr", {"synthetic": 0.375, "rewrites": 0.375}),
        ("s_w", {"synthetic": 0.375, "web": 0.375}),
    ],
)
def test_the_ablations_are_the_papers(name: str, varied: dict[str, float]) -> None:
    run = load_recipe(f"phi4_7b_{name}")
    shares = {source.name: source.weight for source in mixture_of(run).sources}
    assert shares == pytest.approx({**varied, "code": 1 / 6, "acquired": 1 / 12})
    tokens = run.training.steps * run.batch.global_batch * run.batch.sequence_length
    assert tokens == pytest.approx(1e12, rel=1e-3)
    assert run.model.parameters == 6_996_365_312
