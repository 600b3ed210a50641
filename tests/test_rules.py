"""The book of rules: its form, and its verdicts on the corpus.

Every rule names a case in which it must speak and one in which it must not; a rule that names none
fails. The fast cases are judged whole; tests/test_corpus.py counts the rest.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import re
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `pytest` without `python -m`

from corpus import Entry, load, mark
from corpus.run import judge_early, watched

import surefoot.diagnosis.rules as book
from surefoot.diagnosis.rules import RULES
from surefoot.findings import Cause, Pathology, Report, Severity, Verdict
from surefoot.watching.session import Session

CASES: dict[str, Entry] = {name: entry for name, entry in load().items() if entry.runs}
FAST = [e for e in CASES.values() if e.fast]
FAULTY = [e for e in CASES.values() if not e.healthy]

# rule: (a case in which it must give a harmful finding, one in which it must say nothing)
RIGS: dict[str, tuple[str, str]] = {
    "SF101": ("vanishing_sigmoid_8", "mlp_tanh_momentum"),
    "SF102": ("exploding_weights_x3_15", "mlp_tanh_momentum"),
    "SF103": ("exploding_rnn_relu_radius", "lstm_rows"),
    "SF104": ("collapsed_relu_40", "residual_mlp_ln_30"),
    "SF105": ("dead_relu_bias", "mlp_relu_sgd"),
    "SF107": ("shattered_bn_rescaled_32", "residual_mlp_ln_30"),
    "SF106": ("exploding_transformer_std_one", "gpt_tied"),
    "SF108": ("saturated_tanh_weights", "some_saturated_tanh"),
    "SF201": ("nan_batch_mlp", "tiny_batches"),
    "SF202": ("huge_batch_mlp_sgd", "tiny_batches"),
    "SF203": ("scale_collapses_undefined", "half_scaler_settles"),
    "SF204": ("underflow_small_loss", "half_small_gradients"),
    "SF205": ("digits_fused_adamw/bfloat16_small_steps", "digits_bfloat16_weights"),
    "SF301": ("lr_high_mlp_sgd_x100", "tiny_batches"),
    "SF302": ("lr_low_mlp_x1e-04", "converged_long_ago"),
    "SF303": ("loss_sum_mlp", "sum_reduction_adjusted"),
    "SF304": ("input_x1000_mlp", "raw_pixels"),
    "SF306": ("stale_moment_adam", "weight_lowered_short_memory"),
    "SF307": ("stalled_weight_decay", "decay_that_helps"),
    "SF308": ("betas_swapped_adam", "weight_lowered_short_memory"),
    "SF401": ("not_zeroed_sgd", "accumulation_of_four"),
    "SF402": ("graph_cut_detach", "frozen_backbone"),
    "SF404": ("only_the_last_layer", "frozen_backbone"),
    "SF403": ("softmax_before_cross_entropy", "multilabel_bce"),
}
# Heard before training only: their cases are in test_check.py.
BEFORE = {"SF305"}
# Heard under a guard only: fires and stays silent in test_guard_rollback.py.
GUARDED = {"SF501"}
HEARD = [rule for rule in RULES if rule not in BEFORE | GUARDED]


@cache
def judged(name: str) -> Report:
    """The report on a case with seed 0; each case is trained once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the training itself is warned of is its own matter
        return watched(CASES[name], 0)[0]


def described(report: Report) -> str:
    """The findings for a failure's message."""
    lines = [
        f"{f.rule} {f.severity} root={f.root} {f.layer}: {f.sentence}" for f in report.findings
    ]
    return "\n".join([str(report.verdict), *lines])


def test_every_rule_is_in_the_book() -> None:
    files = {p.stem for p in Path(book.__path__[0]).glob("*.py")} - {"__init__"}
    assert len(RULES) == len(files), "a file without a place in RULES, or two rules with one id"


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_a_page(rule: str) -> None:
    page = RULES[rule].page
    assert re.fullmatch(r"SF\d{3}", rule)
    assert RULES[rule].id == rule
    for section in ("What", "Why", "Evidence", "Remedies", "Source"):
        assert f"**{section}.**" in page, f"the page of {rule} has no {section}"


def constants(module: ast.Module) -> Iterator[str]:
    """The names of a module's constants that hold numbers."""
    for node in module.body:
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            pairs = (
                zip(target.elts, node.value.elts, strict=True)
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                else [(target, node.value)]
            )
            for name, value in pairs:
                numbers = [n for n in ast.walk(value) if isinstance(n, ast.Constant)]
                calls = any(isinstance(n, ast.Call | ast.Dict) for n in ast.walk(value))
                number = any(isinstance(n.value, int | float) for n in numbers)
                if (
                    isinstance(name, ast.Name)
                    and number
                    and (not calls or "math" in ast.dump(value))
                ):
                    yield name.id


@pytest.mark.parametrize("rule", RULES)
def test_every_threshold_of_a_rule_has_its_reason_on_the_page(rule: str) -> None:
    page = RULES[rule].page
    assert "**Thresholds.**" in page, f"the page of {rule} does not say where its numbers come from"
    file = Path(inspect.getfile(RULES[rule].judge))
    found = list(constants(ast.parse(file.read_text(encoding="utf-8"))))
    missing = [name for name in found if f"`{name}`" not in page]
    assert not missing, f"{file.name}: {missing} are not derived on the page"


def test_titles_are_unique() -> None:
    assert len({r.title for r in RULES.values()}) == len(RULES)


@pytest.mark.parametrize("rule", HEARD)
def test_every_rule_has_its_rigs(rule: str) -> None:
    assert rule in RIGS, f"name a case in which {rule} must fire, and one in which it must not"
    fires, silent = (CASES[name] for name in RIGS[rule])
    assert not fires.healthy
    assert fires.fast and silent.fast, "rigs belong to the fast cases"


def test_every_word_of_the_vocabulary_has_a_training_that_earns_it() -> None:
    tuned = [e for e in FAULTY if e.part == "tune"]
    seen = {p for e in tuned for p in e.pathologies} | {c for e in tuned for c in e.causes}
    missing = {*Pathology, *Cause} - seen - {Cause.UNKNOWN}
    assert not missing, f"no faulty training whose truth is one of {missing}"


@pytest.mark.parametrize("rule", HEARD)
def test_fires(rule: str) -> None:
    report = judged(RIGS[rule][0])
    harmful = {f.rule for f in report.findings if f.severity is not Severity.ADVICE}
    assert rule in harmful, described(report)


@pytest.mark.parametrize("rule", HEARD)
def test_stays_silent(rule: str) -> None:
    report = judged(RIGS[rule][1])
    assert rule not in {f.rule for f in report.findings}, described(report)


@pytest.mark.parametrize("entry", FAST, ids=lambda e: e.name)
def test_fast_verdicts(entry: Entry) -> None:
    report = judged(entry.name)
    assert mark(entry, report).right, described(report)


@pytest.mark.slow
@pytest.mark.parametrize(("momentum", "lr", "steps"), [(0.0, 2.0, 600), (0.5, 1.5, 800)])
def test_the_healthy_trainings_at_the_edge_are_there(
    momentum: float, lr: float, steps: int
) -> None:
    """Their curvature hovers at (2 + 2 momentum) / lr (Cohen et al. 2021), and the loss jumps."""
    from corpus.tune.healthy_edge import descent, score, sharpness

    made = functools.partial(torch.optim.SGD, lr=lr, momentum=momentum)
    model, pair, loss, losses = descent(0, optimizer=made, steps=steps, squared=True)
    assert lr * sharpness(model, pair, loss) / (2 + 2 * momentum) == pytest.approx(1, abs=0.03)
    assert sum(b > a for a, b in itertools.pairwise(losses)) > 0.05 * steps
    assert score(model, pair) < 0.1


class Enough(Exception):
    """The user has seen enough."""


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("biased_tanh", 12),
        ("char_lstm_clipped", 20),
        ("cnn_avgpool_flatten", 27),
        ("mlp_ten_torch_default", 20),
        ("plateau_then_learning", 30),
        ("digits_weight_norm", 80),
        ("mlp_ten_torch_default", 120),
        ("regression_unscaled_target", 13),
        ("raw_pixels_255", 20),
        ("large_eps_adam", 13),
    ],
)
def test_a_sound_training_that_is_cut_short_is_not_held_to_have_failed(
    name: str, steps: int
) -> None:
    """Of so few steps none of them has gained anything yet; to the end, all do."""
    taken = itertools.count(1)

    def count(*_: object) -> None:
        if next(taken) == steps:
            raise Enough

    hook = register_optimizer_step_post_hook(count)
    session = Session(folder=None)
    session.start()
    try:
        with pytest.raises(Enough):
            CASES[name].train(0)
    finally:
        hook.remove()
        session.stop()
    report = session.report()
    assert report.steps == steps
    assert report.verdict is Verdict.HEALTHY


@pytest.mark.parametrize(("rise", "verdict"), [(0.1, Verdict.HEALTHY), (0, Verdict.UNSTABLE)])
def test_a_warm_up_that_goes_on_is_not_too_slow(rise: float, verdict: Verdict) -> None:
    """A rate that is rising will be high enough, one that stays as it is will not."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)
    session = Session(folder=None, adopt=False)
    session.start()
    session.watch(model, optimizer)
    try:
        for step in range(120):
            x = torch.randn(32, 16)
            optimizer.param_groups[0]["lr"] = 1e-6 * (1 + rise * step)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), x[:, :8].argmax(1)).backward()
            optimizer.step()
        report = session.report()
    finally:
        session.stop()
    assert report.verdict is verdict, described(report)


@pytest.mark.parametrize(
    "name", ["lr_high_mlp_sgd_x100", "input_x1000_mlp", "eps_too_large_adam", "loss_sum_mlp"]
)
def test_a_fault_is_known_within_a_dozen_steps(name: str) -> None:
    (row,) = judge_early(CASES[name], 0, (13,))
    assert row.right, row
