"""The lab's entries: listed without PyTorch, complete, and what they show is what they claim."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from surefoot.cli import cli
from surefoot.lab.entries import ENTRIES, FAMILIES, PATHOLOGY, PUBLISHED
from surefoot.lab.entry import (
    Entry,
    MissingExtra,
    Result,
    Row,
    Standing,
    UnknownEntry,
    load,
)
from surefoot.trial.proof import Outcome
from surefoot.views.words import clean

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "src" / "surefoot" / "lab"
NAMES = list(ENTRIES)
# Less than a second each on an idle machine; the others run in ./dev zoo.
QUICK = ["recurrent_bound", "clipping_cliff"]


@cache
def ran(name: str, seed: int = 0) -> Result:
    return load(name).run(seed)


def marked(names: list[str]) -> list[object]:
    return [n if n in QUICK else pytest.param(n, marks=pytest.mark.zoo) for n in names]


class TestList:
    """What there is, before anything is run."""

    def test_the_list_needs_no_torch(self) -> None:
        code = (
            "import sys; sys.modules['torch'] = None; from surefoot.cli import main; "
            "sys.argv = ['surefoot', 'lab']; main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert all(re.search(rf"^  {name} ", done.stdout, re.MULTILINE) for name in NAMES)
        assert all(words in done.stdout for words in FAMILIES.values())

    def test_every_module_that_runs_itself_is_listed(self) -> None:
        runs = {
            path.stem
            for path in FOLDER.glob("*.py")
            if "program.main(ENTRY)" in path.read_text(encoding="utf-8")
        }
        assert runs == set(ENTRIES)
        assert {listed.family for listed in ENTRIES.values()} == set(FAMILIES)

    @pytest.mark.parametrize("name", NAMES)
    def test_each_is_complete(self, name: str) -> None:
        entry = load(name)
        assert entry.name == name
        assert entry.title == ENTRIES[name].title
        assert entry.claim.endswith(".")
        assert entry.source
        assert bool(entry.planted) == (entry.family == PATHOLOGY)

    @pytest.mark.parametrize("name", NAMES)
    def test_each_has_its_section(self, name: str) -> None:
        page = (ROOT / "docs" / "lab.md").read_text(encoding="utf-8")
        section = page.partition(f"### {ENTRIES[name].title}\n")[2].partition("\n##")[0]
        assert load(name).claim in " ".join(section.split())
        assert f"surefoot lab {name}" in section

    def test_an_unknown_name_is_answered(self) -> None:
        with pytest.raises(UnknownEntry, match="did you mean shattered"):
            load("shatered")
        answer = CliRunner().invoke(cli, ["lab", "shatered"])
        assert answer.exit_code == 2
        assert "did you mean shattered?" in answer.output

    def test_a_missing_library_is_named_with_its_command(self) -> None:
        entry = Entry("shattered", "A claim.", "", lambda seed: ran(QUICK[0]), (), ("no_such_lib",))
        with pytest.raises(MissingExtra, match=r"no_such_lib.*pip install 'surefoot\[lab\]'"):
            entry.run()


class TestRow:
    """When a number is what its source says."""

    @pytest.mark.parametrize(
        ("row", "holds"),
        [
            (Row("", "", 2.0, 2.1, 0.1 + 1e-9), True),
            (Row("", "", 2.0, 2.2, 0.1), False),
            (Row("", "", 2.0, 1.9, bound="<"), True),
            (Row("", "", 2.0, 2.0, bound="<"), False),
            (Row("", "", 2.0, 2.1, 5.0, bound="<"), False),
            (Row("", "", 2.0, 2.1, bound=">"), True),
            (Row("", "", 2.0, math.nan, 1e9), False),
            (Row("", "", 2.0, math.nan, bound="<"), False),
            (Row("", "", 2.0, math.inf, 1e9), False),
        ],
    )
    def test_bounds(self, row: Row, holds: bool) -> None:
        assert row.holds is holds

    def test_a_number_out_of_bounds_is_said(self) -> None:
        whole = ran("clipping_cliff")

        def wrong(seed: int) -> Result:
            row = Row("an impossible number", "nowhere", 1.0, 2.0)
            return Result(Standing.BORNE_OUT, "All is well.", (row,), whole.figure)

        result = Entry("clipping_cliff", "A claim.", "", wrong).run(3)
        assert result.standing is Standing.NOT_REPRODUCED
        assert result.says.startswith("What was expected did not show with seed 3")
        assert "an impossible number" in result.says
        assert not result.holds


class TestTheory:
    """What the entries expect, against closed forms and other quadratures."""

    def test_chi_by_monte_carlo_and_closed_form(self) -> None:
        from surefoot.lab.wide import chi, variance

        z = np.random.default_rng(0).standard_normal(1_000_000)
        q = variance("tanh", 2.5, 0.3)
        assert 2.5**2 * np.mean(np.tanh(q**0.5 * z) ** 2) + 0.3**2 == pytest.approx(q, rel=3e-3)
        slopes = 1 - np.tanh(q**0.5 * z) ** 2
        assert chi("tanh", 2.5, 0.3) == pytest.approx(2.5**2 * np.mean(slopes**2), rel=5e-3)
        # weights so small that z is 0: the slope of a sigmoid is 1/4 there
        assert chi("sigmoid", 1e-6) == pytest.approx(1e-12 / 16, rel=1e-9)

    def test_kernels_of_relu(self) -> None:
        from surefoot.lab.wide import gates, signals

        u, w = np.random.default_rng(1).standard_normal((2, 1_000_000))
        v = 0.6 * u + 0.8 * w
        both = np.mean((u > 0) & (v > 0)) / 0.5
        product = np.mean(np.maximum(u, 0) * np.maximum(v, 0)) / 0.5
        assert gates(0.6) == pytest.approx(both, abs=3e-3)
        assert signals(0.6) == pytest.approx(product, abs=5e-3)
        assert (gates(1.0), signals(1.0)) == (1.0, 1.0)

    def test_growth_is_that_of_known_matrices(self) -> None:
        import torch
        from torch import nn

        from surefoot.lab.measures import alike, gradient_norms, growth

        layers = [nn.Linear(4, 4, bias=False) for _ in range(5)]
        for layer in layers:
            with torch.no_grad():
                layer.weight.copy_(3 * torch.eye(4))
        norms = gradient_norms(nn.Sequential(*layers), torch.randn(2, 4))
        assert growth(norms) == pytest.approx(9.0)
        assert alike(torch.ones(3, 2)) == pytest.approx(1.0)
        assert alike(torch.eye(4)) == pytest.approx(0.0)

    def test_sharpness_is_the_largest_eigenvalue_of_the_whole_hessian(self) -> None:
        import torch
        from torch.autograd.functional import hessian

        from surefoot.lab.measures import sharpness

        generator = torch.Generator().manual_seed(0)
        x, y, w = torch.randn(3, 8, 5, dtype=torch.float64, generator=generator)

        def loss(w: torch.Tensor) -> torch.Tensor:
            return (torch.tanh(x * w).sum(1) - y.sum(1)).square().mean()

        values = torch.linalg.eigvalsh(torch.as_tensor(hessian(loss, w[0])))
        largest = values[values.abs().argmax()]
        start = w[0].clone().requires_grad_()
        torch.manual_seed(0)
        assert sharpness(loss(start), [start], 200) == pytest.approx(float(largest), rel=1e-6)

    @pytest.mark.parametrize(
        ("length", "early", "late"), [(10, (1, 3), (4, 6)), (16, (1, 4), (8, 11))]
    )
    def test_the_class_of_a_sequence_is_the_order_of_its_two_letters(
        self, length: int, early: tuple[int, int], late: tuple[int, int]
    ) -> None:
        import torch

        from surefoot.lab.temporal_order import sequences

        generator = torch.Generator().manual_seed(0)
        given, classes = sequences(300, generator, length, early, late)
        assert given.shape == (300, length, 6)
        assert given.sum(2).eq(1).all()
        letters = given.argmax(2).numpy()
        places = set()
        for row, wanted in zip(letters, classes.tolist(), strict=True):
            first, second = np.flatnonzero(row < 2)
            assert wanted == 2 * row[first] + row[second]
            places.add((first, second))
        assert places == {(a, b) for a in range(*early) for b in range(*late)}

    def test_the_radius_scales_the_recurrent_weights_and_nothing_else(self) -> None:
        import torch

        from surefoot.lab.temporal_order import Recurrent

        made = []
        for radius in (1.0, 4.0):
            torch.manual_seed(3)
            made.append(dict(Recurrent(radius).named_parameters()))
        one, four = made
        for name, weights in one.items():
            times = 4 if name == "rnn.weight_hh_l0" else 1
            assert torch.allclose(four[name], times * weights, rtol=1e-6)
        # Girko's circular law: the eigenvalues fill a disc, of mean square radius^2 / 2
        values = torch.linalg.eigvals(one["rnn.weight_hh_l0"].detach())
        assert float(values.abs().square().mean()) == pytest.approx(0.5, abs=0.15)

    def test_growth_over_time_is_that_of_a_power(self) -> None:
        from surefoot.lab.recurrent_weights import _growth

        assert _growth([math.log10(3.0**t) for t in range(7, 0, -1)]) == pytest.approx(9.0)

    def test_recurrent_weights_are_named_from_the_first_steps(self) -> None:
        from surefoot.findings import Cause
        from surefoot.lab.recurrent_weights import _LARGE
        from surefoot.lab.temporal_order import Recurrent, training
        from surefoot.lab.trials import watched

        root = watched(training(lambda: Recurrent(_LARGE), 0, 0.05, 24), 24).report.root
        assert root is not None
        assert (root.cause, root.layer) == (Cause.RECURRENT_WEIGHTS, "rnn")
        sound = watched(training(lambda: Recurrent(1.0), 0, 0.05, 24), 24).report
        assert not [f for f in sound.findings if f.cause is Cause.RECURRENT_WEIGHTS]

    @pytest.mark.parametrize("pre", [True, False])
    def test_a_layers_gradient_is_that_of_its_matrix(self, pre: bool) -> None:
        import torch

        from surefoot.lab.layer_norm_place import Block

        torch.manual_seed(0)
        blocks = [Block(pre), Block(pre)]
        loss = torch.nn.Sequential(*blocks)(torch.randn(1, 1, 128)).square().sum()
        for block in blocks:
            made, weight = torch.autograd.grad(
                loss, [block.made, block.second.weight], retain_graph=True
            )
            product = float(made.norm() * block.fed.detach().norm())
            assert product == pytest.approx(float(weight.norm()), rel=1e-5)

    def test_the_theory_of_layer_norms_place(self) -> None:
        from surefoot.lab.layer_norm_place import _sum, _theory

        # the gradient of cross-entropy at 50 scores N(0, 1), drawn
        scores = np.random.default_rng(0).standard_normal((50_000, 50))
        chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        chances[:, 0] -= 1
        size = np.sqrt(np.square(chances).sum(1).mean())
        assert _theory(1.5) == pytest.approx(size * 8 / 1.5**0.5, rel=5e-3)
        # back through two sums a layer, each of them over the stream's mean square before it
        square, factors = 1.0, []
        for added in (1.0, 0.5) * 20:
            factors.append(1 + added / square)
            square += added
        assert square == _sum(20)
        back = float(np.prod(factors[2:])) ** 0.5  # from the last layer to behind the first one
        assert _theory(square) * back == pytest.approx(_theory(_sum(1)))

    def test_the_end_of_a_course(self) -> None:
        from surefoot.lab.trials import typical

        assert typical([9.0] * 95 + [1.0, 2.0, 3.0, 4.0, 5.0] * 1) == pytest.approx(9.0)
        assert typical([9.0] * 50 + [1.0] * 50) == 1.0
        assert typical([1.0, math.nan]) == math.inf
        assert typical([1.0, math.inf]) == math.inf


class TestResults:
    """Each entry, run."""

    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("name", marked(NAMES))
    def test_its_numbers_hold(self, name: str) -> None:
        result = ran(name)
        wrong = [(r.name, r.expected, r.measured) for r in result.rows if not r.holds]
        assert not wrong
        assert result.rows
        assert result.standing is not Standing.NOT_REPRODUCED
        assert result.figure.data
        text = json.dumps(result.to_json(), allow_nan=False)
        assert json.loads(text)["holds"] is True
        assert result.says == clean(result.says)

    @pytest.mark.timeout(600)
    @pytest.mark.parametrize(
        "name", marked([n for n, e in ENTRIES.items() if e.family == PATHOLOGY])
    )
    def test_surefoot_names_what_was_planted_and_the_cure_helps(self, name: str) -> None:
        result = ran(name)
        assert result.finding is not None
        assert result.finding.cause in load(name).planted
        assert result.failure
        assert result.cure
        for proof in result.proofs:
            winner = proof.winner
            assert winner is not None, proof.sentence
            assert winner.effect is not None
            assert winner.effect.high is not None
            assert winner.effect.high < winner.effect.none

    @pytest.mark.zoo
    @pytest.mark.timeout(600)
    def test_clipping_cures_neither_vanishing_nor_an_exploding_initialisation(self) -> None:
        proofs = ran("clipping_tether").proofs
        outcomes = [{t.remedy.remedy: t.outcome for t in proof.trials} for proof in proofs]
        assert [o["clipping.norm"] for o in outcomes] == [Outcome.DID_NOT_HELP] * 2
        assert outcomes[0]["init.kaiming_normal"] is Outcome.PROVEN
        assert outcomes[1]["activation.relu"] is Outcome.PROVEN

    def test_the_process_keeps_its_random_numbers(self) -> None:
        import torch

        torch.manual_seed(7)
        before = torch.get_rng_state()
        load("clipping_cliff").run(1)
        assert torch.equal(before, torch.get_rng_state())

    def test_the_seed_decides(self) -> None:
        def values(seed: int) -> list[float]:
            return [r.measured for r in load("recurrent_bound").run(seed).rows]

        assert values(1) == values(1)
        assert values(1) != values(2)


class TestProgram:
    """The command line."""

    @pytest.mark.parametrize(
        "start",
        [
            pytest.param(["surefoot", "lab", "clipping_cliff"], marks=pytest.mark.zoo),
            ["surefoot.lab.clipping_cliff"],
        ],
    )
    def test_runs_in_a_process(self, start: list[str], tmp_path: Path) -> None:
        page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
        done = subprocess.run(
            [sys.executable, "-m", *start, "-o", str(page), "--json", str(numbers), "--seed", "2"],
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        assert "THE CLAIM IS BORNE OUT" in done.stdout
        data = json.loads(numbers.read_text(encoding="utf-8"))
        assert data["entry"] == "clipping_cliff"
        assert data["family"] == PUBLISHED
        assert data["seed"] == 2
        assert [row["holds"] for row in data["rows"]] == [True] * 3
        html = page.read_text(encoding="utf-8")
        assert html.startswith("<!doctype html>")
        outside = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
        assert not re.search(r"(src|href|url)\s*[=(]|https?:", outside)
        assert 'id="figure-entry"' in html

    def test_json_alone_on_standard_output(self) -> None:
        answer = CliRunner().invoke(cli, ["lab", "clipping_cliff", "--json", "-"])
        assert answer.exit_code == 0
        assert json.loads(answer.stdout)["standing"] == "borne out"

    def test_a_number_out_of_bounds_is_status_1(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from surefoot.lab import clipping_cliff

        monkeypatch.setattr(clipping_cliff, "_STEPS", 0)  # no descent, so no difference
        answer = CliRunner().invoke(cli, ["lab", "clipping_cliff"])
        assert answer.exit_code == 1

    def test_a_file_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        where = tmp_path / "file" / "page.html"
        answer = CliRunner().invoke(cli, ["lab", "clipping_cliff", "-o", str(where)])
        assert answer.exit_code == 1
        assert "cannot write" in answer.output

    @pytest.mark.zoo
    def test_a_pathology_as_page(self) -> None:
        from surefoot.lab.paged import render_result

        entry = load("learning_rate_high")
        html = render_result(entry, ran("learning_rate_high"))
        for words in ("Failure and diagnosis", "Cure and proof", "learning_rate.scale"):
            assert words in html
        assert html.count('class="plot"') == 2
