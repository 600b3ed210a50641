"""Patches of the optimizer, the steps and the shapes of source that they must leave intact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from patch_fixture import TRAINING, Project, dedent, noted, remedy

SCALE = remedy("learning_rate.scale", factor=0.1)
CLIP = remedy("clipping.norm", max_norm=0.01)


def with_optimizer(call: str, head: str = "") -> str:
    text = dedent(TRAINING).replace("torch.optim.SGD(model.parameters(), lr=3.0)", call)
    return text.replace("torch.manual_seed(0)\n", f"torch.manual_seed(0)\n{head}\n")


@pytest.mark.parametrize("tool", ["patch", "git"])
@pytest.mark.parametrize(
    ("call", "head", "line"),
    [
        ("torch.optim.SGD(model.parameters(), lr=3.0)", "", "lr=0.3)"),
        ("torch.optim.SGD(model.parameters(), lr=3)", "", "lr=0.3)"),
        ("torch.optim.SGD(model.parameters(), 3.0)", "", "(), 0.3)"),
        ("torch.optim.SGD(model.parameters(), lr=rate)", "rate = 3.0", "lr=0.1 * rate)"),
        ("torch.optim.SGD(model.parameters(), lr=a + b)", "a, b = 1, 2", "lr=0.1 * (a + b))"),
        ("torch.optim.SGD(model.parameters(), lr=(a + b))", "a, b = 1, 2", "(0.1 * (a + b)))"),
        ("torch.optim.SGD(params=model.parameters(), lr=3.0)", "", "lr=0.3)"),
        ("Rule(model.parameters(), lr=3.0)", "Rule = torch.optim.SGD", "lr=0.3)"),
        ("torch.optim.SGD([dict(params=model.parameters())], lr=3.0)", "", "lr=0.3)"),
    ],
)  # fmt: skip
def test_the_learning_rate_is_scaled_where_it_stands(
    tmp_path: Path, call: str, head: str, line: str, tool: str
) -> None:
    project = Project(tmp_path, with_optimizer(call, head).encode())
    names = project.mended(SCALE, tool)
    assert names["optimizer"].param_groups[0]["lr"] == pytest.approx(0.3, rel=1e-12)
    assert len(project.lines) == 2 and project.lines[1].endswith(line)


def test_a_learning_rate_that_is_not_given_becomes_a_share_of_the_default(tmp_path: Path) -> None:
    project = Project(tmp_path, with_optimizer("torch.optim.Adam(model.parameters())").encode())
    assert project.mended(SCALE)["optimizer"].param_groups[0]["lr"] == 1e-4  # Adam's is 1e-3
    assert project.lines[1] == "+optimizer = torch.optim.Adam(model.parameters(), lr=0.0001)"


def test_groups_written_out_are_scaled_each(tmp_path: Path) -> None:
    call = """torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 2.0}, {"params": model[2].parameters()}], lr=3.0
    )"""
    names = Project(tmp_path, with_optimizer(call).encode()).mended(SCALE)
    assert [g["lr"] for g in names["optimizer"].param_groups] == pytest.approx([0.2, 0.3])


@pytest.mark.parametrize(
    ("call", "head"),
    [
        ("torch.optim.SGD(model.parameters(), **how)", "how = {'lr': 3.0}"),
        ("torch.optim.SGD(*what)", "what = [model.parameters(), 3.0]"),
        ("torch.optim.SGD(groups, lr=3.0)", "groups = [dict(params=[*model.parameters()], lr=3)]"),
        ("made(model)", "made = lambda m: torch.optim.SGD(m.parameters(), *[3.0])"),
        ("Rule(model.parameters())", "from functools import partial\n"
         "Rule = partial(torch.optim.SGD, lr=3.0)"),
    ],
)  # fmt: skip
def test_a_rate_that_is_not_written_there_is_left(tmp_path: Path, call: str, head: str) -> None:
    source = with_optimizer(call).replace("optimizer =", f"{head}\noptimizer =", 1)
    assert Project(tmp_path, source.encode()).patch(SCALE) is None


@pytest.mark.parametrize(
    "more",
    [
        "schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=9)",
        "for group in optimizer.param_groups:\n    group['lr'] = 1.0",
    ],
)
def test_a_rate_that_is_set_later_is_left(tmp_path: Path, more: str) -> None:
    source = dedent(TRAINING).replace("x, y =", f"{more}\nx, y =")
    assert Project(tmp_path, source.encode()).patch(SCALE) is None


MULTILINE = """optimizer = torch.optim.AdamW(
    model.parameters(),   # all of them
    lr=3e-2,  # größer als üblich
    betas=(0.9, 0.999),
)  # done"""
SHAPES = {
    "comments": MULTILINE,
    "one line": "optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2, betas=(0.9, 0.999),)",
    "non-ASCII before": 'ü = f"ä{1}€"; optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)',
    "brackets": "optimizer = (torch.optim\n    .AdamW(model.parameters(), lr=(3e-2)))",
    "backslash": "optimizer = \\\n    torch.optim.AdamW(model.parameters(), lr=3e-2)",
    "in a block": "if True:\n\toptimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)",
}


@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("tool", ["patch", "git"])
@pytest.mark.parametrize("shape", SHAPES)
def test_settings_are_changed_and_formatting_stays(
    tmp_path: Path, shape: str, ending: str, tool: str
) -> None:
    source = dedent(TRAINING).replace(
        "optimizer = torch.optim.SGD(model.parameters(), lr=3.0)", SHAPES[shape]
    )
    project = Project(tmp_path, source.replace("\n", ending).encode())
    asked = remedy("optimizer.settings", beta1=None, beta2=0.95, eps=1e-6)
    group = project.mended(asked, tool)["optimizer"].param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (3e-2, (0.9, 0.95), 1e-6)
    data = project.script.read_bytes()
    assert data.count(b"\r\n") == (data.count(b"\n") if ending == "\r\n" else 0)
    # Whatever is put in, taken out again, leaves what was there.
    text = data.decode().replace("\r\n", "\n").replace(", eps=1e-06", "")
    text = text.replace("0.95", "0.999")
    if "betas" not in SHAPES[shape]:
        text = text.replace(", betas=(0.9, 0.999)", "")
    assert text == source


@pytest.mark.parametrize(
    ("name", "parameters", "key", "value"),
    [
        ("optimizer.eps", {"eps": 1e-7}, "eps", 1e-7),
        ("optimizer.eps", {}, "eps", 1e-8),
        ("optimizer.beta2", {"beta2": 0.9}, "betas", (0.9, 0.9)),
        ("optimizer.weight_decay", {"weight_decay": 0.5}, "weight_decay", 0.5),
    ],
)
def test_one_setting(
    tmp_path: Path, name: str, parameters: dict[str, Any], key: str, value: Any
) -> None:
    call = "torch.optim.Adam(model.parameters(), 0.01, (0.9, 0.99), eps=1e-3)"
    project = Project(tmp_path, with_optimizer(call).encode())
    group = project.mended(remedy(name, **parameters))["optimizer"].param_groups[0]
    assert group[key] == value and len(project.lines) == 2


def test_an_optimizer_without_the_setting_is_left(tmp_path: Path) -> None:
    assert Project(tmp_path).patch(remedy("optimizer.eps", eps=1e-8)) is None


# -- backward and step --------------------------------------------------------------------------


def norm(model: nn.Module) -> float:
    return float(sum(p.grad.square().sum() for p in model.parameters()) ** 0.5)


def test_clipping_comes_behind_the_backward(tmp_path: Path) -> None:
    project = Project(tmp_path)
    names = project.mended(CLIP)
    assert norm(project.before["model"]) > 0.02 and norm(names["model"]) <= 0.01001
    assert project.lines == [
        "+    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)",
    ]


def test_each_parameter_is_clipped_by_itself(tmp_path: Path) -> None:
    names = Project(tmp_path).mended(remedy("clipping.parameter_norm", max_norm=0.005))
    norms = [float(p.grad.norm()) for p in names["model"].parameters()]
    assert max(norms) == pytest.approx(0.005, rel=1e-3)
    assert sorted(norms)[-2] == pytest.approx(0.005, rel=1e-3)


def test_elements_are_clipped(tmp_path: Path) -> None:
    names = Project(tmp_path).mended(remedy("clipping.value", max_value=1e-3))
    every = torch.cat([p.grad.flatten() for p in names["model"].parameters()])
    assert float(every.abs().max()) == pytest.approx(1e-3)


def test_a_limit_that_is_there_is_changed(tmp_path: Path) -> None:
    line = "    nn.utils.clip_grad_norm_(model.parameters(), 5.0)\n    optimizer.step()"
    source = dedent(TRAINING).replace("    optimizer.step()", line)
    project = Project(tmp_path, source.encode())
    assert norm(project.mended(CLIP)["model"]) <= 0.01001
    assert project.lines[1] == "+    nn.utils.clip_grad_norm_(model.parameters(), 0.01)"


ELSEWHERE = """
    # nothing of torch is imported here: clipping needs it
    from model import Net, fit
    import data

    model = Net()
    fit(model, data.x)
"""
NET = """
    from torch import nn, optim


    class Net(nn.Module):
        @property
        def size(self): return 1
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 1)
        def forward(self, x):
            return self.fc(x)


    def fit(model, x):
    \topt = optim.SGD(model.parameters(), lr=0.1)
    \tfor i in range(2):
    \t\topt.zero_grad()
    \t\tmodel(100 * x).sum().backward()
    \t\topt.step()"""  # tabs, and no newline at the end
DATA = "import torch\nx = torch.ones(3, 4)\n"


@pytest.mark.parametrize("tool", ["patch", "git"])
def test_model_and_training_in_other_files(tmp_path: Path, tool: str) -> None:
    project = Project(tmp_path, ELSEWHERE, model=NET, data=DATA)
    sites, _ = noted(project.script)
    assert Path(sites.calls["model"].file).name == "train.py"
    assert Path(sites.calls["optimizer"].file).name == "model.py"
    names = project.mended(CLIP, tool)
    assert norm(names["model"]) == pytest.approx(0.01, rel=1e-3)
    assert project.lines == [
        "+import torch",
        "+\t\ttorch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)",
    ]
    assert not (project.folder / "model.py").read_bytes().endswith(b"\n")


def test_what_is_put_behind_a_last_line_without_a_newline(tmp_path: Path) -> None:
    source = dedent(TRAINING).replace("        optimizer.step()\n", "")
    source = source.replace("    optimizer.step()\n", "").rstrip("\n")
    assert source.endswith("loss.backward()")
    for tool in ("patch", "git"):
        (tmp_path / tool).mkdir()
        project = Project(tmp_path / tool, source.encode())
        assert norm(project.mended(CLIP, tool)["model"]) <= 0.01001
        assert project.script.read_text().endswith("0.01)")


ACCUMULATING = """
    import torch
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    for i in range(8):
        (model(torch.ones(1, 3)).sum() * 100).backward()
        if i % 4 == 3:
            optimizer.step()
            seen.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item())
"""
STEP, SEEN = ACCUMULATING.splitlines()[-2:]
LATE = (f"{STEP}\n{SEEN}", f"{SEEN}\n{STEP}")


def test_where_backwards_accumulate_it_is_the_step_that_is_served(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "zero").mkdir()
    project = Project(tmp_path / "clip", ACCUMULATING)
    clipped = project.mended(CLIP)["seen"]
    line = "torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)"
    assert project.lines == [f"+        {line}"]
    assert clipped == pytest.approx([0.01, 0.01], rel=1e-3)
    project = Project(tmp_path / "zero", ACCUMULATING.replace(*LATE))
    zeroed = project.mended(remedy("gradients.zero"))["seen"]
    first, second = project.before["seen"]
    assert second == pytest.approx(2 * first) and zeroed == pytest.approx([first, first])


def test_gradients_are_zeroed_before_the_backward(tmp_path: Path) -> None:
    source = dedent(TRAINING).replace("    optimizer.zero_grad()\n", "")
    project = Project(tmp_path, source.encode())
    names = project.mended(remedy("gradients.zero"))
    assert project.lines == ["+    optimizer.zero_grad()"]
    torch.manual_seed(0)
    same = {}
    exec(dedent(TRAINING), same)
    assert torch.equal(names["model"][0].weight, same["model"][0].weight)
    assert not torch.equal(project.before["model"][0].weight, same["model"][0].weight)


def test_gradients_are_zeroed_in_a_closure(tmp_path: Path) -> None:
    source = """
        import torch
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=1)
        def closure():
            loss = model(torch.ones(1, 3)).sum() ** 2
            loss.backward()
            return loss
        for _ in range(2):
            optimizer.step(closure)
    """
    project = Project(tmp_path, source)
    project.mended(remedy("gradients.zero"))
    assert project.lines == ["+    optimizer.zero_grad()"]


def test_a_scaled_loss_is_unscaled_first(tmp_path: Path) -> None:
    source = dedent(TRAINING).replace("loss.backward()", "scaler.scale(loss).backward()")
    source = source.replace("optimizer.step()", "scaler.step(optimizer)\n    scaler.update()")
    source = source.replace("x, y", "scaler = torch.amp.GradScaler('cpu', init_scale=64.0)\nx, y")
    project = Project(tmp_path, source.encode())
    assert norm(project.mended(CLIP)["model"]) <= 0.01001
    assert project.lines[0] == "+    scaler.unscale_(optimizer)"


def test_guard(tmp_path: Path) -> None:
    bad = dedent(TRAINING).replace("model(x), y)", "model(x * float('nan')), y)")
    project = Project(tmp_path, bad.encode())
    names = project.mended(remedy("guard.skip"))
    assert project.lines == [
        "+import surefoot",
        "+guard = surefoot.guard(optimizer, model=model, clip=None, rollback=False)",
    ]
    assert not project.before["model"][0].weight.isfinite().all()
    assert names["model"][0].weight.isfinite().all()
    names["guard"].remove()


def test_a_clipping_of_the_guards(tmp_path: Path) -> None:
    code = 'guard = surefoot.guard(optimizer, model, clip="agc", skip=False)'
    project = Project(tmp_path)
    names = project.mended(remedy("clipping.agc", code=code))
    assert project.lines[1].endswith(
        "surefoot.guard(optimizer, model=model, clip='agc', skip=False)"
    )
    assert names["guard"].clipped == 3
    names["guard"].remove()


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("dtype.bfloat16", 'torch.autocast("cpu", dtype=torch.float16)', torch.bfloat16),
        ("dtype.bfloat16", 'torch.autocast("cpu", torch.float16)', torch.bfloat16),
        ("dtype.float32", 'torch.autocast("cpu", dtype=torch.bfloat16)', torch.float32),
    ],
)
def test_autocast(tmp_path: Path, name: str, before: str, after: torch.dtype) -> None:
    source = dedent(TRAINING).replace(
        "    loss = nn", f"    with {before}:\n        out = model(x)\n    loss = nn"
    )
    project = Project(tmp_path, source.encode())
    assert project.mended(remedy(name))["out"].dtype is after
    assert project.before["out"].dtype is not after


def test_the_mean_of_a_loss(tmp_path: Path) -> None:
    source = dedent(TRAINING).replace("model(x), y)", "model(x), y, reduction='sum')")
    source = source.replace("lr=3.0", "lr=0.0")
    project = Project(tmp_path, source.encode())
    loss = project.mended(remedy("loss.mean"))["loss"].item()
    assert loss == pytest.approx(project.before["loss"].item() / 16, rel=1e-5)
    assert Project(tmp_path / "project").patch(remedy("loss.mean")) is None  # a mean already


def test_bytes_and_line_ends(tmp_path: Path) -> None:
    """What stands before a change on its line is counted in bytes; inserted lines end as others."""
    call = SHAPES["non-ASCII before"]
    source = dedent(TRAINING).replace(
        "optimizer = torch.optim.SGD(model.parameters(), lr=3.0)", call
    )
    for name, prescribed in (("scale", SCALE), ("clip", CLIP)):
        (tmp_path / name).mkdir()
        project = Project(tmp_path / name, source.replace("\n", "\r\n").encode())
        names = project.mended(prescribed)
        data = project.script.read_bytes()
        assert data.count(b"\r\n") == data.count(b"\n") == len(project.lines) % 2 + 12
        rate = names["optimizer"].param_groups[0]["lr"]
        assert rate == pytest.approx(3e-3 if name == "scale" else 3e-2)


def test_an_argument_in_brackets_of_its_own(tmp_path: Path) -> None:
    call = "torch.optim.Adam((model.parameters())  # (all)\n)"
    project = Project(tmp_path, with_optimizer(call).encode())
    assert project.mended(SCALE)["optimizer"].param_groups[0]["lr"] == 1e-4


def test_what_else_steps_is_no_optimizer(tmp_path: Path) -> None:
    source = dedent(TRAINING).replace("    optimizer.zero_grad()\n", "")
    source = source.replace("    optimizer.step()", "    env.step()\n    optimizer.step()")
    source = source.replace("x, y =", "class env: step = staticmethod(print)\nx, y =")
    project = Project(tmp_path, source.encode())
    project.mended(remedy("gradients.zero"))
    assert project.lines == ["+    optimizer.zero_grad()"]
