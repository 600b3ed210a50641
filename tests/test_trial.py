"""Paired trials: the effect and its interval, the outcome, successive halving, and whole proofs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from surefoot.findings import Cause, Finding, Guarded, Pathology, Remedy, Report, Severity
from surefoot.trial.arm import Arm, Spec, run_here
from surefoot.trial.effect import effect
from surefoot.trial.halving import Halving
from surefoot.trial.judgement import judged, sound, words
from surefoot.trial.proof import Outcome

R = Remedy("learning_rate.scale", None, "", parameters={"factor": 0.1})


def report(verdict: str) -> dict[str, Any]:
    """A report of that verdict."""
    found = Finding("SF101", Pathology.VANISHING, Cause.UNKNOWN, Severity.HARMFUL, "", root=True)
    return Report((found,) if verdict == "unstable" else (), 100).to_json()


def arm(loss: float, *, first: float = 2.3, verdict: str = "healthy", steps: int = 100) -> Arm:
    """A run whose loss falls (or rises) along a straight line and stays for its last fifth."""
    down = max(1, int(0.8 * steps))
    rows = [(k, first + (loss - first) * min(1.0, k / down)) for k in range(steps)]
    if not math.isfinite(loss):
        rows = [(k, first if k < 3 else math.inf) for k in range(steps)]
    return Arm(steps=steps, losses=rows, report=report(verdict), seconds=1.0, ended="ended")


def test_the_interval_is_students() -> None:
    """Against the t quantiles that numpy can find by sampling: means of normal samples."""
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 10):
        samples = rng.standard_normal((40_000, n))
        covered = 0
        for row in samples[:4000]:
            e = effect([1.0] * n, list(np.exp(row)), [1.0] * n)
            assert e.low is not None and e.high is not None
            covered += e.low <= 1.0 <= e.high
        assert covered / 4000 == pytest.approx(0.95, abs=0.012)


def test_an_effect_is_a_ratio_of_geometric_means() -> None:
    e = effect([2.0, 8.0], [1.0, 1.0], [3.0, 9.0])
    assert e.value == pytest.approx(1 / 4)  # sqrt(2 * 8)
    assert e.ratio and e.pairs == 2


def test_losses_below_zero_are_compared_by_difference() -> None:
    e = effect([-1.0, -1.5], [-3.0, -3.5], [2.0, 2.0])
    assert not e.ratio and e.value == pytest.approx(-2.0)
    assert e.low == pytest.approx(-2.0) and e.none == 0.0


def test_a_lost_run_counts_as_an_untrained_one() -> None:
    e = effect([math.inf], [0.5], [2.0])
    assert e.value == pytest.approx(0.25) and e.low is None
    assert effect([math.inf], [1.0], [math.inf]).value == pytest.approx(1e-30)


NAN = math.nan
NEVER = {
    # final losses before and after, the first ones, and what is said
    "without it": ([NAN, math.inf], [0.1, 0.2], [NAN, NAN], "never finite without it, 0.2 with it"),
    "with it": ([2.0, 2.2], [NAN, NAN], [NAN, NAN], "2.2 without it, never finite with it"),
    "at all": ([NAN, NAN], [NAN, NAN], [NAN, NAN], "never finite, without it or with it"),
    "once": ([NAN, 2.0, 2.0], [0.1, 0.1, 0.1], [NAN, 2.3, 2.3],
             "from 2 to 0.1 (never finite in 1 of 3 without it, in 0 of 3 with it)"),
    "but at first": ([NAN, NAN], [0.1, 0.1], [2.3, 2.3], "from 2.3 to 0.1 (x0.043,"),
}  # fmt: skip


@pytest.mark.parametrize("which", NEVER)
def test_a_loss_that_was_never_finite_is_said_to_be_so(which: str) -> None:
    before, after, first, said = NEVER[which]
    found = effect(before, after, first)
    told = words(found, "the finding is gone", found.pairs)
    assert told.startswith(f"loss {said}")
    assert told.endswith(f" over {found.pairs} pairs of runs, the finding is gone")
    assert "e+" not in told and "e-" not in told
    numbers = found.to_json()
    assert set(numbers) == {"before", "after", "value", "low", "high", "pairs", "ratio"}
    assert all(math.isfinite(number) for number in numbers.values())


def test_no_pairs_no_effect() -> None:
    with pytest.raises(ValueError, match="one length"):
        effect([1.0], [], [1.0])
    with pytest.raises(ValueError, match="one length"):
        effect([], [], [])


bad = dict(verdict="unstable")
CASES: list[tuple[str, list[Arm], list[Arm], Outcome]] = [
    ("helps", [arm(2.3, **bad)] * 3, [arm(0.2), arm(0.21), arm(0.19)], Outcome.PROVEN),
    ("saves", [arm(math.inf, **bad)] * 2, [arm(0.2), arm(0.21)], Outcome.PROVEN),
    ("as before", [arm(2.3, **bad)] * 3, [arm(2.3), arm(2.29), arm(2.31)], Outcome.DID_NOT_HELP),
    ("still ill", [arm(2.3, **bad)] * 3, [arm(0.2, **bad)] * 3, Outcome.DID_NOT_HELP),
    ("by chance", [arm(2.3, **bad)] * 3, [arm(0.2), arm(2.6), arm(2.3)], Outcome.DID_NOT_HELP),
    ("worse", [arm(0.5, **bad)] * 3, [arm(1.5), arm(1.6), arm(1.55)], Outcome.HARMED),
    ("lost", [arm(0.5, **bad)] * 3, [arm(math.inf, **bad)] * 3, Outcome.HARMED),
    ("both tiny", [arm(1e-6, **bad)] * 3, [arm(1e-4)] * 3, Outcome.DID_NOT_HELP),
    ("one pair", [arm(2.3, **bad)], [arm(0.2)], Outcome.UNTRIED),
]


@pytest.mark.parametrize(("name", "before", "after", "outcome"), CASES, ids=[c[0] for c in CASES])
def test_outcomes(name: str, before: list[Arm], after: list[Arm], outcome: Outcome) -> None:
    assert judged(R, before, after, 100).outcome is outcome


class Played:
    """Runs nothing: the loss of an arm follows from its remedies. `ran` keeps what was asked."""

    workers = 1

    def __init__(self, losses: dict[str, float], stop_at: int | None = None) -> None:
        self.losses, self.ran, self.stop_at = losses, [], stop_at

    def run(self, specs: Sequence[Spec], deadline: float) -> Iterator[tuple[int, Arm]]:
        for k, spec in enumerate(specs):
            if self.stop_at is not None and len(self.ran) >= self.stop_at:
                raise KeyboardInterrupt
            name = spec.remedies[0]["remedy"] if spec.remedies else ""
            steps = spec.steps or 100
            self.ran.append((name, spec.seed, steps))
            loss = self.losses.get(name, 2.3)
            made = arm(loss + 0.01 * spec.seed, verdict="healthy" if name else "unstable")
            made.steps, made.losses = steps, made.losses[:steps]
            if loss < 0:
                made.refused = {name: "not here"}
            yield k, made


def halving(runner: Played, names: str, seconds: float = 1e6) -> Halving:
    remedies = [Remedy(name, None, "") for name in names]
    before = arm(2.3, verdict="unstable")
    return Halving(runner, Spec("x"), remedies, before, 3, time.monotonic() + seconds)


def test_the_better_half_goes_on() -> None:
    runner = Played({"a": 2.2, "b": 0.3, "c": 1.9, "d": 0.2, "e": 2.3, "f": 1.0})
    plan = halving(runner, "abcdef")
    plan.run()
    lengths = {name: [s for n, _, s in runner.ran if n == name] for name in "abcdef"}
    assert lengths["a"] == [25] and lengths["e"] == [25] and lengths["c"] == [25]
    assert lengths["f"] == [25, 50]
    assert lengths["b"] == lengths["d"] == [25, 50, 100, 100, 100]
    outcomes = {t.remedy.remedy: t.outcome for t in plan.trials()}
    assert outcomes == {
        **dict.fromkeys("acef", Outcome.DROPPED),
        **dict.fromkeys("bd", Outcome.PROVEN),
    }


def test_each_pair_shares_its_seed() -> None:
    runner = Played({"a": 0.2})
    plan = halving(runner, "a")
    plan.run()
    # The run without a remedy has been made once already, with the first seed.
    assert sorted(runner.ran) == [("", 1, 100), ("", 2, 100)] + [("a", s, 100) for s in range(3)]
    trial = plan.trials()[0]
    assert trial.effect is not None and trial.effect.pairs == 3


def test_a_refused_remedy_is_no_failure() -> None:
    plan = halving(Played({"a": -1.0, "b": 0.2}), "ab")
    plan.run()
    first, second = plan.trials()
    assert (first.outcome, first.words) == (Outcome.REFUSED, "not here")
    assert second.outcome is Outcome.PROVEN


def test_little_time_means_fewer_seeds_then_fewer_steps() -> None:
    runner = Played({"a": 0.2})  # a full run takes a second: two pairs are three more
    plan = halving(runner, "a", seconds=3.5)
    plan.run()
    assert plan.seeds == 2 and plan.steps == 100
    runner = Played({"a": 0.2})
    plan = halving(runner, "a", seconds=1.5)
    plan.run()
    assert plan.seeds == 2 and 45 <= plan.steps <= 50


def test_an_interrupt_keeps_what_is_done() -> None:
    runner = Played({"a": 0.2, "b": 0.3}, stop_at=5)
    plan = halving(runner, "ab")
    with pytest.raises(KeyboardInterrupt):
        plan.run()
    a, b = plan.trials()  # both runs of seed 0, and those of seed 1 without b
    assert a.outcome is Outcome.PROVEN and a.effect is not None and a.effect.pairs == 2
    assert b.outcome in (Outcome.UNTRIED, Outcome.PROVEN)


def parts() -> Any:
    """A small network whose rate is a hundred times too high."""
    torch.manual_seed(3)
    x = torch.randn(256, 8)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    from surefoot.build import from_parts

    batch = x, x[:, :1] * 2 - x[:, 1:2]
    return from_parts((model, batch, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.05)))


def by_hand(rate: float, steps: int) -> list[float]:
    build = parts()
    assert build.optimizer is not None
    for group in build.optimizer.param_groups:
        group["lr"] *= rate
    losses = []
    for _ in range(steps):
        build.optimizer.zero_grad()
        loss = build.loss()
        loss.backward()
        build.optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("rate", [None, 0.1])
def test_an_arm_is_the_training_itself(rate: float | None) -> None:
    chosen = () if rate is None else ({**vars_of(R), "parameters": {"factor": rate}},)
    before = torch.random.get_rng_state()
    made = run_here(parts, Spec("parts", steps=40, remedies=chosen))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert made.ran and made.steps == 40
    assert [x for _, x in made.losses] == pytest.approx(by_hand(rate or 1.0, 40), rel=1e-6)


def vars_of(remedy: Remedy) -> dict[str, Any]:
    return {"remedy": remedy.remedy, "target": remedy.target, "why": remedy.why}


def test_a_trial_does_not_write_checkpoints(tmp_path: Path) -> None:
    def saving() -> Any:
        build = parts()
        torch.save(build.model.state_dict(), tmp_path / "model.pt")
        return build

    run_here(saving, Spec("saving", steps=3))
    assert not list(tmp_path.iterdir())
    torch.save({}, tmp_path / "after.pt")
    assert (tmp_path / "after.pt").exists()


def test_a_training_that_fails_says_how() -> None:
    def broken() -> Any:
        build = parts()
        return build.on((torch.randn(4, 9), torch.randn(4, 1)))

    made = run_here(broken, Spec("broken", steps=3))
    assert made.steps == 0 and "refused the batch" in made.words


@pytest.mark.parametrize(
    ("cause", "acts", "dry", "right"),
    [
        (Cause.BAD_BATCH, {"skip": 3}, False, True),
        (Cause.NONFINITE_INPUT, {"skip": 1, "clip": 2}, False, True),
        (Cause.BAD_BATCH, {"skip": 3}, True, False),
        (Cause.BAD_BATCH, {"clip": 3}, False, False),
        (Cause.BAD_BATCH, {"skip": 3, "roll back": 1}, False, False),
        (Cause.WEIGHTS_TOO_LARGE, {"skip": 3}, False, False),
    ],
)
def test_what_a_guard_has_held_back_does_not_count(
    cause: Cause, acts: dict[str, int], dry: bool, right: bool
) -> None:
    found = Finding("SF1", Pathology.SPIKE, cause, Severity.FATAL, "", root=True)
    assert sound(Report((found,), 9, guard=Guarded(acts, 1, "", dry_run=dry))) is right
    assert not sound(Report((found,), 9))
    assert sound(Report((), 9))


class Hidden(nn.Module):
    """Its inner layer stands in a plain list, where no optimizer finds it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = [nn.Linear(8, 8)]
        self.out = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.inner[0](x)))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_no_optimizer_holds_is_found_by_the_loss(elsewhere: bool) -> None:
    """Parameters of a layer in a list, and all those of a model that another one was taken for."""
    made: list[nn.Module] = []

    def build() -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 1)) if elsewhere else Hidden()
        made.append(model)
        trained = nn.Linear(8, 1) if elsewhere else model
        x = torch.randn(64, 8)
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        from surefoot.build import Build

        return Build(model, (x, x[:, :1]), nn.MSELoss(), optimizer)

    rebuild = ({"remedy": "optimizer.rebuild", "target": None, "why": "", "parameters": {}},)
    before = run_here(build, Spec("x", steps=20))
    after = run_here(build, Spec("x", steps=20, remedies=rebuild))
    inner = [m[0] if elsewhere else m.inner[0] for m in made]
    torch.manual_seed(0)
    fresh = nn.Linear(8, 1) if elsewhere else nn.Linear(8, 8)
    assert torch.equal(inner[0].weight, fresh.weight)
    assert not torch.equal(inner[1].weight, fresh.weight)
    assert after.applied == ["optimizer.rebuild"]
    assert after.losses[-1][1] < before.losses[-1][1]
