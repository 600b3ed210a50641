"""What holds for every remedy of the book, and for the table that leads to them."""

from __future__ import annotations

import ast
import copy
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import surefoot
from remedies_fixture import guard
from surefoot.findings import Cause, Finding, Pathology, Remedy, Severity
from surefoot.remedies import (
    TREATMENTS,
    FirstCall,
    NotApplicable,
    Subject,
    Treatment,
    decision,
    prescribed,
    treatment,
)

SOURCE = Path(decision.__file__).resolve().parents[1]
# The first half of a name, and the folder of surefoot/remedies that it lies in.
FOLDERS = {
    "init": "initialization",
    "guard": "clipping",
    "gradients": "optimizer",
    "input": "scaling",
    "target": "scaling",
    "loss": "scaling",
    "dtype": "precision",
    "amp": "precision",
}
GROUPS = {name.partition(".")[0] for name in TREATMENTS}
every = pytest.mark.parametrize("kind", TREATMENTS.values(), ids=lambda kind: kind.name)


def found(cause: Cause, *remedies: Remedy, layer: str | None = None) -> Finding:
    return Finding(
        "SF101", Pathology.SPIKE, cause, Severity.HARMFUL, "", layer, True, remedies=remedies
    )


# -- what each says of itself --------------------------------------------------------------------


@every
def test_it_says_all_that_is_asked_of_it(kind: type[Treatment]) -> None:
    said = [
        kind.why,
        kind.guarantee,
        kind.cost,
        kind.source,
        *kind.limits,
        *kind.conflicts.values(),
    ]
    assert isinstance(kind.limits, tuple) and kind.limits
    for words in said:
        assert words and words == words.strip()
        assert not words.endswith(".")  # explain() ends the sentence
    assert kind.formula == kind.formula.strip()
    assert vars(kind)["__doc__"]
    lines = kind().explain().splitlines()
    assert lines[0] == f"{kind.name}: {kind.why}."
    assert len(lines) == 4 + bool(kind.formula) + len(kind.limits)


@every
def test_its_name_is_its_group_and_method(kind: type[Treatment]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*\.[a-z0-9]+(_[a-z0-9]+)*", kind.name)
    group = kind.name.partition(".")[0]
    assert kind.__module__.split(".")[:3] == ["surefoot", "remedies", FOLDERS.get(group, group)]


@every
def test_its_code_is_python(kind: type[Treatment]) -> None:
    code = kind().code()
    assert code.strip() == code
    assert all(len(line) <= 160 for line in code.splitlines())
    assert ast.parse(textwrap.dedent(code)).body or code.startswith("#")


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return value[:1]
    if isinstance(value, int):
        return 2 * value + 1
    return 0.5 if value is None else value / 2


@every
def test_it_is_prescribed_as_data(kind: type[Treatment]) -> None:
    """Through the JSON of a report and back: the same remedy, with the same parameters."""
    changed = {name: other(value) for name, value in kind.defaults.items()}
    for made in (kind(), kind("encoder.*", **changed)):
        text = json.dumps(found(Cause.UNKNOWN, made.remedy()).to_json(), allow_nan=False)
        back = treatment(Finding.from_json(json.loads(text)).remedies[0])
        assert type(back) is kind and back.target == made.target
        assert json.dumps(back.parameters) == json.dumps(made.parameters)
    assert kind().remedy().parameters == {}
    assert kind().remedy("because").why == "because" and kind().remedy().why == kind.why


@every
def test_a_parameter_that_it_has_not_is_refused(kind: type[Treatment]) -> None:
    known = ", ".join(kind.defaults) or "none"
    message = f"expected parameters of {kind.name} ({known}), got spped"
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(spped=1)
    with pytest.raises(ValueError, match="spped"):
        treatment(Remedy(kind.name, None, "", parameters={"spped": 1}))


@every
def test_its_conflicts_are_with_what_there_is(kind: type[Treatment]) -> None:
    assert set(kind.conflicts) <= TREATMENTS.keys() | GROUPS
    assert kind.name not in kind.conflicts


def test_the_book_is_in_order() -> None:
    assert all(name == kind.name for name, kind in TREATMENTS.items())
    assert len(TREATMENTS) == len(set(TREATMENTS.values()))
    with pytest.raises(ValueError, match=r"got 'init\.kaimng'; known are activation\.gelu, "):
        treatment(Remedy("init.kaimng", None, ""))


# -- who names them -----------------------------------------------------------------------------


def named(path: Path) -> Iterator[str]:
    """The remedies that a file prescribes by name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "id", getattr(node.func, "attr", None))
            first = node.args[0]
            if called in ("prescribed", "Remedy") and isinstance(first, ast.Constant):
                yield str(first.value)


def test_what_the_rules_prescribe_is_in_the_book() -> None:
    names = {name for path in (SOURCE / "diagnosis").rglob("*.py") for name in named(path)}
    assert {"init.rescale", "optimizer.rebuild", "clipping.norm"} <= names
    assert names <= TREATMENTS.keys()


def test_what_the_table_names_is_in_the_book() -> None:
    names = {r if isinstance(r, str) else r[0] for row in decision._NEXT.values() for r in row}
    names |= {name for row in decision._NOT.values() for name, _ in row}
    assert len(names) > 20 and names <= TREATMENTS.keys()
    assert {part.rstrip(".") for part in decision._WHOLE} <= GROUPS


def key(remedy: Remedy) -> str:
    values = {**TREATMENTS[remedy.remedy].defaults, **remedy.parameters}
    return json.dumps([remedy.remedy, remedy.target, values], sort_keys=True)


PRESCRIBED = [
    (),
    (prescribed("learning_rate.scale", factor=0.1),),
    tuple(prescribed(name, "fc.3") for name in ("init.rescale", "activation.relu", "guard.skip")),
]


@pytest.mark.parametrize("cause", Cause)
@pytest.mark.parametrize("own", PRESCRIBED, ids=["nothing", "a rate", "three"])
def test_each_cause_leads_to_remedies(cause: Cause, own: tuple[Remedy, ...]) -> None:
    chosen = decision.candidates(found(cause, *own, layer="fc.3"))
    assert 0 < len(chosen) <= 6
    assert len({key(r) for r in chosen}) == len(chosen)
    for remedy in chosen:
        assert treatment(remedy).name == remedy.remedy
        assert remedy.why and remedy.code
    names = [r.remedy for r in chosen]
    assert names[: len(own)] == [r.remedy for r in own]
    refused = dict(decision.unhelpful(found(cause)))
    assert refused.keys() <= TREATMENTS.keys() and all(refused.values())
    assert not refused.keys() & set(names) - {r.remedy for r in own}


# -- what each leaves behind ---------------------------------------------------------------------


def bits(value: Any) -> Any:
    """A tensor's content, byte by byte."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().reshape(-1).clone().view(torch.uint8).tolist()


def traces(models: list[nn.Module], optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """All that a remedy may have changed."""
    modules = [m for model in models for m in model.modules()]
    tensors = [t for model in models for t in (*model.parameters(), *model.buffers())]
    hooks = [dict(v) for m in modules for k, v in vars(m).items() if k.endswith("_hooks")]
    groups = optimizer.param_groups if optimizer is not None else []
    held = [{k: v if k != "params" else [id(p) for p in v] for k, v in g.items()} for g in groups]
    own = vars(optimizer) if optimizer is not None else {}
    hooks += [dict(v) for k, v in own.items() if k.endswith("_hooks")]
    return {
        "classes": [type(m) for m in modules],
        "attributes": [sorted(vars(m)) for m in modules],
        "training": [m.training for m in modules],
        "names": [name for model in models for name in model.state_dict()],
        "tensors": [(id(t), t.dtype, t.requires_grad, id(t.grad)) for t in tensors],
        "gradients": [None if t.grad is None else bits(t.grad) for t in tensors],
        "values": [bits(t) for t in tensors],
        "hooks": [len(h) for h in hooks],
        "groups": copy.deepcopy(held),
        "state": [bits(t) for t in tree_leaves(own.get("state", {}))],
        "random": torch.get_rng_state().tolist(),
        "functions": [torch.log, torch.sqrt, torch.Tensor.detach, torch.Tensor.__truediv__],
        "grad mode": torch.is_grad_enabled(),
    }


def tried(kind: type[Treatment], subject: Subject) -> str:
    """Why it cannot be applied there, empty where it was; taken back either way."""
    optimizer = subject.optimizers[0] if subject.optimizers else None
    before = traces(subject.models, optimizer)
    words = ""
    try:
        kind().apply(subject)
    except NotApplicable as reason:
        words = str(reason)
        assert words and not words.endswith(".")  # a clause
    finally:
        subject.undo()
    after = traces(subject.models, optimizer)
    assert after == before
    assert not subject.adopted
    return words


# What only changes how a forward computes is in force on any module.
WITHOUT_WEIGHTS = {
    "data.clean",
    "dtype.bfloat16",
    "dtype.float32",
    "graph.connect",
    "input.standardise",
    "operation.mask",
}


@every
def test_with_nothing_to_act_on_it_leaves_nothing(kind: type[Treatment]) -> None:
    """No weights, no optimizer, no batch and no guard: it says why, or it is taken back."""
    net = nn.Identity()
    words = tried(kind, Subject([net]))
    assert bool(words) == (kind.name not in WITHOUT_WEIGHTS), words
    x = torch.tensor([1.0, -2.0])
    assert net(x) is x


# For other networks, or in want of numbers that a rule would give.
ELSEWHERE = {
    "amp.master_weights",
    "data.one_batch",
    "dtype.float32",
    "graph.connect",
    "init.delta_orthogonal",
    "init.depth_scaled",
    "init.fixup",
    "loss.mean",
    "output.linear",
    "target.standardise",
}


@every
def test_taken_back_it_leaves_nothing(kind: type[Treatment]) -> None:
    """On a network that most can be applied to, with all that one may need at hand."""
    torch.manual_seed(3)
    hidden = [layer for _ in range(4) for layer in (nn.Linear(8, 8), nn.ReLU())]
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), *hidden, nn.Linear(8, 3), nn.Softmax(1))
    with torch.no_grad():
        net.get_parameter("2.weight").mul_(3)
    settings: Any = {"betas": (0.99, 0.9), "eps": 1e-3, "weight_decay": 0.5}
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, **settings)
    x, y = torch.randn(16, 6), torch.eye(3)[torch.arange(16) % 3]
    (net(x) - y).square().mean().backward()
    optimizer.step()
    expected = net(x)
    subject = Subject([net], [optimizer], FirstCall(net, (x,)), guard)
    subject.live = True
    subject.loss = lambda k: (net(x) - y).square().mean()
    words = tried(kind, subject)
    assert bool(words) == (kind.name in ELSEWHERE), words
    assert torch.equal(net(x), expected)


@pytest.mark.parametrize("cause", list(Cause))
def test_asked_again_the_table_says_the_same(cause: Cause) -> None:
    """A report has the candidates of a finding; who tries them asks the table once more."""
    rate = TREATMENTS["learning_rate.scale"](factor=0.02).remedy()
    finding = Finding("SF1", Pathology.EXPLODING, cause, Severity.HARMFUL, "", remedies=(rate,))
    once = decision.candidates(finding)
    assert once and decision.candidates(replace(finding, remedies=once)) == once


def test_of_weights_that_are_all_zero_the_first_remedy_is_one_that_can_be_applied() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(16, 16), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(16, 4))
    with torch.no_grad():
        for i in (2, 4):
            net.get_parameter(f"{i}.weight").zero_()
            net.get_parameter(f"{i}.bias").zero_()
    x, y = torch.randn(64, 16), torch.arange(64) % 4
    root = surefoot.check(net, (x, y), nn.CrossEntropyLoss()).root
    assert root is not None and root.remedies
    subject = Subject([net], [], FirstCall(net, (x,)))
    treatment(root.remedies[0]).apply(subject)
    assert net.get_parameter("2.weight").any()
