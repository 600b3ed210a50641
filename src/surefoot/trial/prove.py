"""`surefoot.prove`: what is wrong with a training, and which remedy demonstrably helps."""

from __future__ import annotations

import difflib
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from surefoot.build import Build, from_parts, maker
from surefoot.findings import Finding, Remedy, Report, Severity
from surefoot.probes.random_state import undisturbed
from surefoot.record.data import RunData
from surefoot.remedies import TREATMENTS
from surefoot.remedies.decision import candidates, unhelpful
from surefoot.trial.arm import Arm, Spec
from surefoot.trial.halving import Halving
from surefoot.trial.judgement import curve
from surefoot.trial.patch import patch
from surefoot.trial.proof import Outcome, Proof
from surefoot.trial.runner import Here, Processes, Runner
from surefoot.version import VERSION

Tell = Callable[[str, float, float], None]  # (what is under way, seconds done, seconds to go)
_SHARE = 0.25  # of the time, for the run without a remedy
_STEPS, _FEWEST = 300, 20


class ProofError(ValueError):
    """What was asked for cannot be tried; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to spend. steps: of a full run, None for as many as the run had; seeds: pairs of full
    runs; budget: seconds in all; workers: arms side by side; ray: on a cluster.
    """

    steps: int | None = 300
    seeds: int = 3
    budget: float = 600.0
    workers: int = 1
    ray: bool = False

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("seeds", 2), ("workers", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ProofError(f"expected {name} of at least {least}, got {value}")
        if not self.budget > 0:
            raise ProofError(f"expected a budget of more than 0 seconds, got {self.budget}")


def prove(
    build: Callable[[], Any] | str,
    remedies: str | Sequence[str | Remedy] = "prescribed",
    *,
    steps: int = 300,
    seeds: int = 3,
    budget: float = 600.0,
    workers: int = 1,
    ray: bool = False,
    tell: Tell | None = None,
) -> Proof:
    """Try remedies on a training in paired runs, and say which of them help.

    build: a function of no arguments that returns model, batch (or DataLoader), loss function and
    optimizer, or its name as "project.train:build". A function is tried in this process, a name in
    processes of its own, `workers` at a time, or on a cluster by Ray. remedies: "prescribed" for
    what the verdict prescribes, or names of remedies. steps: of a full run; seeds: pairs of full
    runs; budget: seconds in all. tell(what, seconds done, seconds to go) hears of the progress.

    Each pair shares seed, data order and length, and differs in the remedy alone. Broken off by
    Ctrl-C, the proof tells of what was done. Raises ProofError or BuildError for what cannot be
    tried.

    >>> import torch
    >>> from torch import nn
    >>> def build():
    ...     model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    ...     batch = torch.randn(32, 8), torch.zeros(32, 1)
    ...     return model, batch, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1)
    >>> print(prove(build, steps=30))
    Nothing is wrong that would need a remedy.
    """
    plan = Plan(steps, seeds, budget, workers, ray)
    if isinstance(build, str):
        return prove_build(build, remedies, plan, tell)
    if not callable(build):
        raise ProofError(f"expected a function that makes the parts, got {type(build).__name__}")
    name = getattr(build, "__qualname__", type(build).__name__)
    return trials(Spec(name), remedies, plan, Here(_remade(build)), tell=tell)


def _remade(build: Callable[[], Any]) -> Callable[[], Build]:
    """Makes the parts; refuses a build that gives the same model again, for it has been trained."""
    earlier: list[weakref.ref[Any]] = []

    def make() -> Build:
        made = from_parts(build())
        if any(known() is made.model for known in earlier):
            raise ProofError(
                "expected a function that makes a new model each time it is called, got the same "
                "model again: build model and optimizer inside of it"
            )
        earlier.append(weakref.ref(made.model))
        return made

    with undisturbed():
        first = make()  # twice before anything is trained, which is then still as it was
        make()
        del first
    return make


def prove_build(
    target: str, remedies: str | Sequence[str | Remedy], plan: Plan, tell: Tell | None = None
) -> Proof:
    """The proof for MODULE:FUNCTION."""
    maker(target)  # a slip in it is said now, and not by a process that has ended
    plan = replace(plan, steps=plan.steps or _STEPS)
    return trials(Spec(target, cwd=str(Path.cwd())), remedies, plan, tell=tell)


def prove_run(
    data: RunData, remedies: str | Sequence[str | Remedy], plan: Plan, tell: Tell | None = None
) -> Proof:
    """The proof for a recorded run, whose script is run again."""
    spec = replayed(data)
    steps = plan.steps or max(data.report.steps, _FEWEST)
    root = Path(spec.cwd)
    return trials(spec, remedies, replace(plan, steps=steps), tell=tell, root=root)


def replayed(data: RunData) -> Spec:
    """How to run a recorded script again; raises ProofError where that cannot be."""
    facts = data.environment
    script, argv, cwd = facts.get("script"), facts.get("argv"), facts.get("cwd")
    if not (isinstance(script, str) and isinstance(argv, list) and argv and isinstance(cwd, str)):
        raise ProofError(
            f"expected a run of `surefoot run`, and {data.name} was watched from inside its own "
            "program: give `surefoot prove` a function instead, as in project.train:build"
        )
    if facts.get("world", 1) != 1:
        raise ProofError("expected a run of one process: several ranks cannot be run again yet")
    module = bool(facts.get("module"))
    if not Path(cwd).is_dir() or not (module or Path(cwd, script).exists()):
        raise ProofError(
            f"expected the script of the run at {Path(cwd, script)}, and it is not there: was it "
            "moved? Put it back, or give a function, as in project.train:build"
        )
    return Spec(script, script=True, module=module, arguments=tuple(argv[1:]), cwd=cwd)


def trials(
    spec: Spec,
    remedies: str | Sequence[str | Remedy],
    plan: Plan,
    runner: Runner | None = None,
    tell: Tell | None = None,
    root: Path | None = None,
) -> Proof:
    """The proof for what a spec runs. root: folder that a patch's paths are relative to."""
    began = time.monotonic()
    _check(remedies)
    runner = runner or _runner(plan)
    say = tell or (lambda what, done, left: None)
    say("the training as it is", 0.0, plan.budget)
    proof = Proof(spec.target, surefoot=VERSION)
    try:
        baseline = _baseline(runner, spec, plan)
    except KeyboardInterrupt:
        return replace(proof, partial=True, missing="Broken off before the first run had ended.")
    finding = _finding(baseline)
    chosen = _chosen(remedies, finding)
    proof = replace(
        proof,
        finding=finding,
        before=curve(baseline),
        steps=baseline.steps,
        missing=_missing(baseline, finding, chosen),
        unhelpful=unhelpful(finding) if finding else (),
        seconds=time.monotonic() - began,
    )
    if proof.missing or not chosen:
        return proof
    halving = Halving(
        runner, spec, chosen, baseline, plan.seeds, began + plan.budget,
        lambda done, left: say("the remedies", done, left),
        (plan.steps or 0) if baseline.ended == "raised" else baseline.steps,
    )  # fmt: skip
    proof = _tried(proof, halving, began)
    return replace(proof, patch=_patch(proof, baseline, root or Path.cwd()))


def _tried(proof: Proof, halving: Halving, began: float) -> Proof:
    """With the trials, as far as they came."""
    partial = False
    try:
        halving.run()
    except KeyboardInterrupt:
        partial = True
    return replace(
        proof,
        trials=halving.trials(),
        steps=halving.steps or proof.steps,
        seeds=halving.seeds,
        partial=partial or time.monotonic() >= halving.deadline,
        seconds=time.monotonic() - began,
    )


def _runner(plan: Plan) -> Runner:
    if not plan.ray:
        return Processes(plan.workers)
    from surefoot.trial.cluster import Cluster

    try:
        return Cluster()
    except ImportError as error:
        raise ProofError(str(error)) from None


def _baseline(runner: Runner, spec: Spec, plan: Plan) -> Arm:
    limits = replace(spec, steps=plan.steps, seconds=plan.budget * _SHARE)
    deadline = time.monotonic() + plan.budget
    arm = next((arm for _, arm in runner.run([limits], deadline)), None)
    if arm is None:
        raise ProofError(
            f"expected the training to make its first steps within {plan.budget:g} seconds, and it "
            "did not: give a larger --budget"
        )
    if not arm.steps:
        raise ProofError(f"expected a training, and it made no step: {arm.words or arm.ended}")
    return arm


def _finding(baseline: Arm) -> Finding | None:
    report = Report.from_json(baseline.report)
    root = report.root
    return None if root is None or root.severity is Severity.ADVICE else root


def _check(remedies: str | Sequence[str | Remedy]) -> None:
    """Refuse an unknown name before the first run and not after it."""
    if isinstance(remedies, str):
        remedies = [] if remedies == "prescribed" else [remedies]
    for one in remedies:
        name = one.remedy if isinstance(one, Remedy) else one
        if name not in TREATMENTS:
            close = difflib.get_close_matches(str(name), TREATMENTS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {_known()}"
            raise ProofError(f"expected the name of a remedy, got {name!r}: {hint}")


def _known() -> str:
    return ", ".join(sorted(TREATMENTS))


def _chosen(remedies: str | Sequence[str | Remedy], finding: Finding | None) -> list[Remedy]:
    if remedies == "prescribed":
        return list(candidates(finding)) if finding is not None else []
    if isinstance(remedies, str):
        remedies = [remedies]
    return [one if isinstance(one, Remedy) else _named(one, finding) for one in remedies]


def _named(name: str, finding: Finding | None) -> Remedy:
    """A remedy by its name, as prescribed where it was, else with its usual parameters."""
    prescribed = candidates(finding) if finding is not None else ()
    known = (remedy for remedy in prescribed if remedy.remedy == name)
    return next(known, None) or TREATMENTS[name]().remedy()


def _missing(baseline: Arm, finding: Finding | None, chosen: Sequence[Remedy]) -> str:
    """Why there can be no result, empty where there can."""
    if chosen or (finding is None and baseline.ended != "raised"):
        return ""
    if finding is None:
        last = (baseline.words.splitlines() or [baseline.ended])[-1]
        return f"The training fails by itself after {baseline.steps} steps: {last}"
    return f"The book has no remedy for this cause ({finding.cause}) that could be tried."


def _patch(proof: Proof, baseline: Arm, root: Path) -> str:
    """The winner against the source, where the line can be located."""
    winner = proof.winner
    if winner is None or winner.outcome is not Outcome.PROVEN:
        return ""
    try:
        made = patch(winner.remedy, baseline.places, root)
    except Exception:  # whatever a source holds, what the trials have shown is not lost
        return ""
    return "" if made is None else made.text
