"""Warm-up and decay at the steps where they can go wrong, with the paper's numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup, get_wsd_schedule

from megaphi.config import override, to_plain
from megaphi.engine.learning_rate import Optimizer, check_rate_continues, learning_rate, milestones
from megaphi.engine.run_config import check
from megaphi.errors import InputError
from megaphi.recipes import load_recipe

PHI4 = Optimizer(learning_rate=3e-4, warmup_steps=2_000, final_fraction=0.1)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(1, 1.5e-7), (1_000, 1.5e-4), (2_000, 3e-4), (213_000, 1.65e-4), (424_000, 3e-5), (500_000, 3e-5)],
)
def test_phi4_schedule(step, rate):
    assert learning_rate(step, PHI4, steps=424_000) == pytest.approx(rate, rel=1e-12)


def test_no_warmup_starts_just_below_the_peak():
    rates = [learning_rate(step, Optimizer(learning_rate=1.0, warmup_steps=0), steps=10) for step in range(1, 11)]
    assert rates == pytest.approx([1 - 0.09 * step for step in range(1, 11)])


@given(warmup=st.integers(0, 50), decay=st.integers(1, 50), final=st.floats(0, 1))
def test_it_is_torchs_linear_schedule(warmup, decay, final):
    """SequentialLR of two LinearLR, read before the update that uses it."""
    settings = Optimizer(learning_rate=2.0, warmup_steps=warmup, final_fraction=final)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    rising = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / max(1, warmup))
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, final, total_iters=decay) if final > 0 else None
    for step in range(1, warmup + 1):
        optimizer.step()
        rising.step()
        assert learning_rate(step, settings, steps=warmup + decay) == pytest.approx(optimizer.param_groups[0]["lr"])
    if falling is None:
        return
    optimizer.param_groups[0]["lr"] = 2.0
    for step in range(warmup + 1, warmup + decay + 1):
        optimizer.step()
        falling.step()
        assert learning_rate(step, settings, steps=warmup + decay) == pytest.approx(optimizer.param_groups[0]["lr"])


SETTINGS = st.builds(
    Optimizer,
    learning_rate=st.floats(1e-6, 1.0),
    warmup_steps=st.integers(0, 20),
    final_fraction=st.floats(0, 1),
    schedule=st.sampled_from(["linear", "cosine", "wsd", "constant"]),
)


@given(settings=SETTINGS, after=st.integers(1, 60))
def test_closed_forms(settings, after):
    """Warm-up, peak, middle and end of every schedule, by what each is defined to be there."""
    peak, floor, warmup = (
        settings.learning_rate,
        settings.learning_rate * settings.final_fraction,
        settings.warmup_steps,
    )
    steps = warmup + after
    rates = {step: learning_rate(step, settings, steps=steps) for step in range(1, steps + 2)}
    for step in range(1, warmup + 1):
        assert rates[step] == pytest.approx(peak * step / warmup)
    ends_at = {"constant": peak}.get(settings.schedule, floor)
    assert rates[steps] == pytest.approx(ends_at)
    assert rates[steps + 1] == pytest.approx(ends_at)
    for step in range(warmup + 1, steps + 1):
        done = (step - warmup) / after
        expected = {
            "linear": peak + (floor - peak) * done,
            "cosine": floor + (peak - floor) * math.cos(math.pi * done / 2) ** 2,
            "wsd": min(peak, floor + (peak - floor) * (steps - step) / math.ceil(after / 10)),
            "constant": peak,
        }
        assert rates[step] == pytest.approx(
            expected[settings.schedule], rel=1e-9, abs=1e-15 * peak
        )  # peak minus nearly peak


@given(settings=SETTINGS, after=st.integers(1, 30), decay=st.integers(1, 40))
def test_cosine_and_wsd_are_those_of_transformers(settings, after, decay):
    """Theirs counts from 0, ours names the update: their rate after n steps is ours of update n."""
    warmup, steps, decay = settings.warmup_steps, settings.warmup_steps + after, min(decay, after)
    weight = torch.zeros(1, requires_grad=True)
    optimizers = [torch.optim.SGD([weight], lr=settings.learning_rate) for _ in range(2)]
    floor = settings.final_fraction
    theirs = {
        "cosine": get_cosine_with_min_lr_schedule_with_warmup(optimizers[0], warmup, steps, min_lr_rate=floor),
        "wsd": get_wsd_schedule(
            optimizers[1],
            num_warmup_steps=warmup,
            num_decay_steps=decay,
            num_training_steps=steps,
            decay_type="linear",
            min_lr_ratio=floor,
        ),
    }
    for optimizer, (name, schedule) in zip(optimizers, theirs.items(), strict=True):
        fields = {"schedule": name, "decay_steps": decay if name == "wsd" else 0}
        ours = override(settings, [f"{field}={value}" for field, value in fields.items()])
        for step in range(1, steps + 1):
            optimizer.step()
            schedule.step()
            if step >= warmup:  # their wsd rises from the floor, ours from 0 like all others
                assert learning_rate(step, ours, steps=steps) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)


def test_a_decay_may_end_before_the_run_does():
    settings = Optimizer(learning_rate=1.0, warmup_steps=2, decay_steps=4, final_fraction=0.5)
    rates = [learning_rate(step, settings, steps=9) for step in range(1, 10)]
    assert rates == pytest.approx([0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.5, 0.5, 0.5])
    assert milestones(settings, steps=9) == [1, 2, 4, 6, 9]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["optimizer.schedule=constant", "optimizer.decay_steps=3"], "schedule=constant has no decay"),
        (
            ["optimizer.schedule=wsd", "optimizer.decay_steps=217"],
            "do not both fit into training.steps=240: .* at most 216",
        ),
    ],
)
def test_schedules_that_cannot_be(fields, message):
    with pytest.raises(InputError, match=message):
        check(override(load_recipe("quickstart_pretrain"), fields), world_size=2)


RUN = load_recipe("quickstart_pretrain")  # 240 steps, warm-up of 24, from 2e-3 to 2e-4
JUMPS = [
    (
        240,
        ["training.steps=480"],
        r"from 0.0002 to 0.00114 at step 241 .*training.steps from 240 to 480.*decay_steps=216, which",
    ),
    (100, ["training.steps=480"], r"training.steps from 240 to 480.*decay_steps=216"),
    (100, ["training.steps=120"], r"training.steps from 240 to 120"),
    (100, ["optimizer.learning_rate=1e-3"], r"optimizer.learning_rate from 0.002 to 0.001. Put the old values back"),
    (200, ["optimizer.final_fraction=0"], r"optimizer.final_fraction from 0.1 to 0.0"),
    (10, ["optimizer.warmup_steps=48"], r"optimizer.warmup_steps from 24 to 48"),
    (100, ["optimizer.schedule=cosine"], r"optimizer.schedule from linear to cosine"),
    (100, ["optimizer.decay_steps=100"], r"optimizer.decay_steps from 0 to 100"),
]
NO_JUMPS = [
    (100, []),
    (10, ["training.steps=480"]),  # within the warm-up
    (240, ["training.steps=480", "optimizer.decay_steps=216"]),  # what the message proposes
    (240, ["training.steps=480", "start.accept_rate_jump=true"]),
    (240, ["training.steps=120"]),  # nothing is left to train
    (25, ["optimizer.schedule=cosine"]),  # where both are still at the peak
]


@pytest.mark.parametrize(("step", "fields", "message"), JUMPS)
def test_a_rate_that_would_jump_is_refused_with_both_rates_and_what_changed(step, fields, message):
    with pytest.raises(InputError, match=rf"the learning rate would jump .*{message}.*start.accept_rate_jump=true"):
        check_rate_continues(to_plain(RUN), override(RUN, fields), step=step)


@pytest.mark.parametrize(("step", "fields"), NO_JUMPS)
def test_a_rate_that_goes_on_is_not_refused(step, fields):
    check_rate_continues(to_plain(RUN), override(RUN, fields), step=step)


def test_a_wsd_run_is_extended_before_its_decay_and_not_after():
    run = override(RUN, ["optimizer.schedule=wsd", "optimizer.decay_steps=40"])
    longer = override(run, ["training.steps=480"])
    check_rate_continues(to_plain(run), longer, step=199)
    with pytest.raises(InputError, match=r"from a checkpoint before its decay, which began after step 200"):
        check_rate_continues(to_plain(run), longer, step=240)


def test_a_checkpoint_of_before_there_were_schedules_was_linear():
    plain = to_plain(RUN)
    del plain["optimizer"]["schedule"], plain["optimizer"]["decay_steps"]
    check_rate_continues(plain, RUN, step=100)
    check_rate_continues({"model": plain["model"]}, RUN, step=100)  # converted: it knows no schedule
