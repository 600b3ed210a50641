"""Patches of the model's own source: initialisations, activations, the output, residuals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from patch_fixture import TRAINING, Project, dedent, remedy

CLASSY = """
    import torch
    import torch.nn.functional as F
    from torch import nn


    class Block(nn.Module):
        \"\"\"One block: ä, ö, ü.\"\"\"

        def __init__(self, width):
            super().__init__()
            self.fc = nn.Linear(width, width)  # größer

        def forward(self, x, mask=None):
            \"\"\"Words.\"\"\"
            return torch.sigmoid(self.fc(x))


    class Net(nn.Module):
        def __init__(self, act=nn.Sigmoid):
            super().__init__()
            self.stem = nn.Linear(4, 128)
            self.act = act()
            self.blocks = nn.ModuleList(Block(128) for _ in range(3))
            self.head = nn.Linear(128, 3)

        def forward(self, x):
            x = self.act(self.stem(x))
            for block in self.blocks:
                x = block(x)
            x = F.sigmoid(x)
            return torch.sigmoid(self.head(x))


    torch.manual_seed(0)
    model = Net()
    x = torch.randn(16, 4)
    out = model(x)
"""


def std(module: nn.Module) -> float:
    assert isinstance(module.weight, torch.Tensor)
    return module.weight.std().item() * module.weight[0].numel() ** 0.5


RELU_NET = """
    from torch import nn
    model = nn.Sequential(nn.Linear(400, 400), nn.ReLU(), nn.Conv1d(1, 50, 400)).to("cpu")
"""


@pytest.mark.parametrize(
    ("name", "gain"),
    [
        ("init.kaiming_normal", 2**0.5),
        ("init.kaiming_uniform", 2**0.5),
        ("init.normal", 1.0),
        ("init.orthogonal", 2**0.5),
    ],
)
def test_weights_are_drawn_behind_the_model(tmp_path: Path, name: str, gain: float) -> None:
    model = Project(tmp_path, RELU_NET).mended(remedy(name))["model"]
    # relative standard error of n draws: 1 / sqrt(2 n), n = 20,000 at least
    assert std(model[0]) == pytest.approx(gain, rel=0.03)
    assert std(model[2]) == pytest.approx(gain, rel=0.03)
    assert not model[0].bias.any() and not model[2].bias.any()


def test_what_the_script_draws_in_between_does_not_undo_it(tmp_path: Path) -> None:
    source = "import torch\n" + dedent(RELU_NET)
    source += "for p in model.parameters():\n    nn.init.normal_(p, std=3.0)\n"
    source += "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    project = Project(tmp_path, source.encode())
    model = project.mended(remedy("init.kaiming_normal"))["model"]
    assert std(project.before["model"][0]) > 10
    assert std(model[0]) == pytest.approx(2**0.5, rel=0.03)


def test_orthogonal_is_orthogonal(tmp_path: Path) -> None:
    weight = Project(tmp_path, RELU_NET).mended(remedy("init.orthogonal"))["model"][0].weight
    assert torch.allclose(weight @ weight.T, 2 * torch.eye(400), atol=1e-3)


@pytest.mark.parametrize("name", ["init.xavier_normal", "init.xavier_uniform"])
def test_xavier_with_tanh(tmp_path: Path, name: str) -> None:
    source = dedent(RELU_NET).replace("ReLU", "Tanh")
    model = Project(tmp_path, source.encode()).mended(remedy(name))["model"]
    # E[tanh(z)^2] = 0.3943, E[tanh'(z)^2] = 0.4644 by numerical integration
    gain = (0.3943**-0.5 + 0.4644**-0.5) / 2
    assert model[0].weight.std().item() == pytest.approx(gain * 400**-0.5, rel=0.01)


@pytest.mark.parametrize("target", ["blocks.*", "blocks.1", "stem", "head.*"])
def test_only_the_target_is_drawn(tmp_path: Path, target: str) -> None:
    project = Project(tmp_path, CLASSY)
    prescribed = remedy("init.kaiming_normal", target)
    if target == "head.*":  # names nothing
        assert project.patch(prescribed) is None
        return
    new, old = project.mended(prescribed)["model"], project.before["model"]
    changed = {
        n for n, p in new.named_parameters() if not torch.equal(p, old.get_parameter(n))
    }  # fmt: skip
    weights = {"stem.weight", "head.weight", *(f"blocks.{i}.fc.weight" for i in range(3))}
    meant = {w for w in weights if w.startswith(target.rstrip("*"))}
    assert changed == meant | {w.replace("weight", "bias") for w in meant}


def test_names_that_the_script_uses_are_left_alone(tmp_path: Path) -> None:
    source = "layer = name = 7\n" + dedent(RELU_NET)
    names = Project(tmp_path, source.encode()).mended(remedy("init.normal", "0"))
    assert (names["layer"], names["name"]) == (7, 7)
    assert std(names["model"][0]) == pytest.approx(1.0, rel=0.03)


def test_a_model_without_a_variable(tmp_path: Path) -> None:
    """Drawn at the end of its class' __init__; a Sequential has none."""
    source = dedent(CLASSY).replace(
        "model = Net()", "def build():\n    return Net()\nmodel = build()"
    )
    model = Project(tmp_path, source.encode()).mended(remedy("init.normal", "blocks"))["model"]
    assert std(model.blocks[2].fc) == pytest.approx(1.0, rel=0.03)
    (tmp_path / "bare").mkdir()
    source = dedent(RELU_NET).replace("model = ", "make = lambda: ") + "model = make()\n"
    assert Project(tmp_path / "bare", source.encode()).patch(remedy("init.normal")) is None


@pytest.mark.parametrize(
    ("name", "kind", "function"),
    [
        ("activation.relu", nn.ReLU, "relu"),
        ("activation.gelu", nn.GELU, "gelu"),
        ("activation.selu", nn.SELU, "selu"),
    ],
)
@pytest.mark.parametrize("tool", ["patch", "git"])
def test_hidden_activations_are_replaced(
    tmp_path: Path, name: str, kind: type[nn.Module], function: str, tool: str
) -> None:
    project = Project(tmp_path, CLASSY)
    names = project.mended(remedy(name, replaces=("sigmoid", "tanh"), reinitialise=False), tool)
    model, act = names["model"], getattr(nn.functional, function)
    assert type(model.act) is kind
    x = act(model.stem(names["x"]))
    for block in model.blocks:
        x = act(block.fc(x))
    expected = torch.sigmoid(model.head(act(x)))  # the output's is left
    assert torch.allclose(names["out"], expected, atol=1e-6)
    assert len(project.lines) == 6


def test_with_the_weights_that_belong_to_it(tmp_path: Path) -> None:
    names = Project(tmp_path, CLASSY).mended(remedy("activation.relu", reinitialise=True))
    model = names["model"]
    assert [std(b.fc) for b in model.blocks] == pytest.approx([2**0.5] * 3, rel=0.03)
    assert std(model.stem) == pytest.approx(3**-0.5, rel=0.1)  # torch's own: it is fed by the data


def test_one_class_within_a_sequential(tmp_path: Path) -> None:
    source = dedent(TRAINING).replace("nn.Linear(8, 3))", "nn.Linear(8, 3), nn.Sigmoid())")
    project = Project(tmp_path, source.encode())
    model = project.mended(remedy("activation.relu"))["model"]
    assert [type(m).__name__ for m in model] == ["Linear", "ReLU", "Linear", "Sigmoid"]
    assert len(project.lines) == 2


def test_dead_units_get_a_slope(tmp_path: Path) -> None:
    source = dedent(TRAINING).replace("nn.Sigmoid()", "nn.ReLU(inplace=True)")
    model = Project(tmp_path, source.encode()).mended(remedy("activation.leaky_relu", "0"))["model"]
    assert isinstance(model[1], nn.LeakyReLU) and model[1].negative_slope == 0.01


@pytest.mark.parametrize(
    "change",
    [
        ("torch.sigmoid(self.fc(x))", "torch.sigmoid(self.fc(x)) * x"),  # a gate
        ("torch.sigmoid(self.fc(x))", "self.fc(x)"),
    ],
)
def test_a_gate_is_left(tmp_path: Path, change: tuple[str, str]) -> None:
    source = dedent(CLASSY).replace(*change)
    assert Project(tmp_path, source.encode()).patch(remedy("activation.relu", "blocks")) is None


def test_a_line_that_builds_others_as_well_is_left(tmp_path: Path) -> None:
    source = """
        from torch import nn
        layers = []
        for i in range(3):
            layers += [nn.Linear(4, 4), nn.Sigmoid()]
        model = nn.Sequential(*layers)
    """
    assert Project(tmp_path, source).patch(remedy("activation.relu")) is None  # the output's too


OUTPUTS = {
    "torch.softmax(self.head(x), dim=1)": "self.head(x)",
    "F.softmax(self.head(x), dim=1)": "self.head(x)",
    "self.head(x).softmax(dim=1)": "self.head(x)",
    "self.head(x).softmax(1)": "self.head(x)",
    "torch.softmax(\n            self.head(x), dim=1\n        )": "self.head(x)",
    "F.softmax(self.head(\n            x), 1)": "(self.head(\n            x))",
    "torch.sigmoid(self.head(x))": "self.head(x)",
}


@pytest.mark.parametrize("written", OUTPUTS)
def test_the_output_gives_raw_scores(tmp_path: Path, written: str) -> None:
    source = dedent(CLASSY).replace("torch.sigmoid(self.head(x))", written)
    project = Project(tmp_path, source.encode())
    names = project.mended(remedy("output.logits"))
    assert f"        return {OUTPUTS[written]}\n" in project.script.read_text()
    assert names["out"].min() < 0 or names["out"].max() > 1 or names["out"].sum(1).sub(1).any()


@pytest.mark.parametrize(
    "tail",
    [
        ", nn.Softmax(dim=1))",
        ",\n    nn.Softmax(dim=1),  # gone with it\n)",
        ",  # stays\n    nn.Softmax(dim=1)\n)",
    ],
)
def test_the_outputs_module_is_taken_out(tmp_path: Path, tail: str) -> None:
    source = dedent(TRAINING).replace("nn.Linear(8, 3))", f"nn.Linear(8, 3){tail}")
    project = Project(tmp_path, source.encode())
    model = project.mended(remedy("output.logits"))["model"]
    assert [type(m).__name__ for m in model] == ["Linear", "Sigmoid", "Linear"]
    assert ("# stays" in tail) == ("# stays" in project.script.read_text())


def test_an_output_that_is_an_attribute_becomes_the_identity(tmp_path: Path) -> None:
    source = dedent(CLASSY).replace("torch.sigmoid(self.head(x))", "self.softmax(self.head(x))")
    head = "        self.head = nn.Linear(128, 3)\n"
    source = source.replace(head, f"{head}        self.softmax = nn.Softmax(dim=1)\n")
    names = Project(tmp_path, source.encode()).mended(remedy("output.logits"))
    assert type(names["model"].softmax) is nn.Identity


def test_the_logarithm_of_an_output(tmp_path: Path) -> None:
    source = dedent(CLASSY).replace("torch.sigmoid(self.head(x))", "F.softmax(self.head(x), 1)")
    out = Project(tmp_path, source.encode()).mended(remedy("output.log_softmax"))["out"]
    assert torch.allclose(out.exp().sum(1), torch.ones(16))


def test_a_loss_that_has_no_activation_before_it(tmp_path: Path) -> None:
    assert Project(tmp_path).patch(remedy("output.logits")) is None


@pytest.mark.parametrize("target", [None, "blocks", "blocks.*", "blocks.2.fc"])
def test_blocks_get_a_residual(tmp_path: Path, target: str | None) -> None:
    names = Project(tmp_path, CLASSY).mended(remedy("residual.rezero", target))
    model = names["model"]
    scales = [n for n, p in model.named_parameters() if n.endswith("residual_scale") and p == 0]
    assert scales == [f"blocks.{i}.residual_scale" for i in range(3)]
    x = torch.randn(5, 128)
    assert torch.equal(model.blocks[0](x), x)
    with torch.no_grad():
        model.blocks[0].residual_scale.fill_(0.5)
    assert torch.allclose(model.blocks[0](x), x + 0.5 * model.blocks[0].fc(x).sigmoid())


LOOPED = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])
            self.head = nn.Linear(8, 3)
        def forward(self, x):
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return self.head(x)

    model = Net()
"""


@pytest.mark.parametrize("target", [None, "layers", "layers.*"])
@pytest.mark.parametrize("several", [False, True])
def test_layers_called_in_a_loop_get_residuals(
    tmp_path: Path, target: str | None, several: bool
) -> None:
    source = dedent(LOOPED)
    if several:
        source = source.replace(
            "x = torch.tanh(layer(x))", "x = layer(x)\n            x = x.tanh()"
        )
    project = Project(tmp_path, source.encode())
    model = project.mended(remedy("residual.rezero", target))["model"]
    x = torch.randn(5, 8)
    assert torch.equal(model(x), model.head(x))
    assert sum(n.endswith("residual_scale") for n, _ in model.named_parameters()) == 4
    with torch.no_grad():
        model.layers[1].residual_scale.fill_(2.0)
    assert torch.allclose(model(x), model.head(x + 2 * model.layers[1](x).tanh()))


def test_a_share_without_a_parameter(tmp_path: Path) -> None:
    model = Project(tmp_path, LOOPED).mended(remedy("residual.identity"))["model"]
    x = y = torch.randn(5, 8)
    for layer in model.layers:
        y = y + layer(y).tanh() / 2  # four blocks
    assert torch.allclose(model(x), model.head(y), atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x = torch.tanh(layer(x))", "x, y = layer(x), 1"),
        ("x = torch.tanh(layer(x))", "y = x = layer(x)"),
        ("x = torch.tanh(layer(x))", "x = layer(layer(x))"),
        ("nn.Linear(8, 8) for", "nn.Linear(8, 8 + 0 * _) for"),  # fits still: see below
        ("for _ in range(4)]", "for _ in range(4)] + [nn.Linear(8, 5), nn.Linear(5, 8)]"),
    ],
)
def test_loops_that_take_none(tmp_path: Path, old: str, new: str) -> None:
    source = dedent(LOOPED).replace(old, new)
    made = Project(tmp_path, source.encode()).patch(remedy("residual.rezero"))
    assert (made is None) == ("0 *" not in new)


def test_recurrent_matrices_are_orthogonal_gate_by_gate(tmp_path: Path) -> None:
    source = """
        import torch
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = torch.nn.LSTM(4, 16, num_layers=2)
                self.head = torch.nn.Linear(16, 2)
            def forward(self, x): return self.head(self.rnn(x)[0])
        torch.manual_seed(0)
        model = Net()
    """
    project = Project(tmp_path, source)
    model = project.mended(remedy("init.orthogonal", "rnn"))["model"]
    for weight in (model.rnn.weight_hh_l0, model.rnn.weight_hh_l1):
        for gate in weight.split(16):
            assert torch.allclose(gate @ gate.T, torch.eye(16), atol=1e-5)
    before = project.before["model"]
    assert torch.equal(model.head.weight, before.head.weight)
    assert torch.equal(model.rnn.weight_ih_l0, before.rnn.weight_ih_l0)


def test_an_input_that_is_assigned_anew_is_saved(tmp_path: Path) -> None:
    forward = "x = self.fc(x)\n        return torch.sigmoid(x) + 1"
    source = dedent(CLASSY).replace("return torch.sigmoid(self.fc(x))", forward)
    project = Project(tmp_path, source.encode())
    block = project.mended(remedy("residual.rezero", "blocks"))["model"].blocks[0]
    x = torch.randn(5, 128)
    with torch.no_grad():
        block.residual_scale.fill_(1.0)
    assert torch.allclose(block(x), x + block.fc(x).sigmoid() + 1)
    assert "+        skip = x" in project.lines


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("nn.Linear(width, width)", "nn.Linear(width, 3)"),  # not as wide
        ("return torch.sigmoid(self.fc(x))", "return self.fc(x), 1"),
        ("return torch.sigmoid(self.fc(x))", "x += 1; return self.fc(x)"),
        ("return torch.sigmoid(self.fc(x))", "return x if mask else x\n        return self.fc(x)"),
    ],
)
def test_blocks_that_take_no_residual(tmp_path: Path, old: str, new: str) -> None:
    source = dedent(CLASSY).replace(old, new)
    source = source.replace("out = model(x)\n", "")
    assert Project(tmp_path, source.encode()).patch(remedy("residual.rezero", "blocks")) is None
