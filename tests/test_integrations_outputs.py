"""The outputs: what real dashboards hold afterwards, and that none of them stops a training."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import surefoot
from outputs_fixture import STEPS, WRITTEN, build, step, train
from surefoot.findings import Cause, Evidence, Finding, Pathology, Remedy, Report, Severity
from surefoot.integrations.mlflow import MLflow
from surefoot.integrations.output import Output
from surefoot.integrations.tensorboard import TensorBoard
from surefoot.integrations.told import COLUMNS, markdown, rows
from surefoot.integrations.trackio import Trackio
from surefoot.integrations.wandb import Wandb


class Kept(Output):
    """Keeps what it is told to write; `broken`: which of its parts raise."""

    name = "the list"

    def __init__(self, watch: surefoot.Watch, broken: str = "", **options: Any) -> None:
        super().__init__(watch, **options)
        self.broken = broken
        self.written: list[tuple[int, int | None, dict[str, float]]] = []
        self.told: list[tuple[int, Report]] = []
        self.calls = self.closed = 0

    def _write(self, values: dict[str, float], step: int, given: int | None) -> None:
        self.calls += 1
        self._break("write")
        self.written.append((step, given, values))

    def _tell(self, report: Report, step: int) -> None:
        self._break("tell")
        self.told.append((step, report))

    def _close(self) -> None:
        self.closed += 1
        self._break("close")

    def _break(self, part: str) -> None:
        if self.broken == part:
            raise OSError("the server\nis away")


class TestOutput:
    """What all of them do."""

    def test_every_so_many_steps_and_the_last(self) -> None:
        made: list[Kept] = []
        losses = train(lambda watch: made.append(Kept(watch, every=5)) or made[0], STEPS)
        steps = [at for at, _, _ in made[0].written]
        assert steps == WRITTEN
        assert [v["surefoot/loss"] for _, _, v in made[0].written] == [losses[k] for k in steps]
        assert made[0].written[-1][2]["surefoot/healthy"] == 1
        assert [(at, str(r.verdict)) for at, r in made[0].told] == [(22, "healthy")]
        assert made[0].closed == 1

    def test_accumulated_batches_count_once(self) -> None:
        """`log` is called for every batch, the optimizer steps after every fourth."""
        model, optimizer = build()
        with surefoot.watch(model, optimizer) as watch, Kept(watch, every=1) as out:
            out.log()
            for k in range(12):
                if k % 4 == 3:
                    step(model, optimizer)
                out.log()
        assert [at for at, _, _ in out.written] == [0, 1, 2, 2]  # the last is the verdict's

    def test_numbers_of_the_users_own(self) -> None:
        model, optimizer = build()
        with surefoot.watch(model, optimizer) as watch, Kept(watch, every=2) as out:
            for k in range(4):
                step(model, optimizer)
                out.log(100 + k)
        assert [given for _, given, _ in out.written] == [100, 102, 103]

    def test_layers_only_if_asked_for(self) -> None:
        for layers in (True, False):
            made: list[Kept] = []
            train(lambda w, on=layers: made.append(Kept(w, layers=on)) or made[0], 1)  # noqa: B023
            assert any(k.count("/") == 2 for k in made[0].written[0][2]) is layers

    def test_no_step_at_all(self) -> None:
        model, optimizer = build()
        with surefoot.watch(model, optimizer) as watch, Kept(watch) as out:
            out.log()
        assert out.written == []
        assert str(out.told[0][1].verdict) == "inconclusive"

    def test_after_the_watch_has_ended(self) -> None:
        model, optimizer = build()
        with surefoot.watch(model, optimizer) as watch:
            out = Kept(watch)
            step(model, optimizer)
        out.finish()
        out.finish()
        out.log()
        assert [at for at, _, _ in out.written] == [0]
        assert len(out.told) == 1

    @pytest.mark.parametrize("broken", ["write", "tell", "close"])
    def test_a_failure_is_said_once_and_stops_nothing(
        self, broken: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        made: list[Kept] = []
        losses = train(lambda watch: made.append(Kept(watch, broken, every=1)) or made[0], STEPS)
        plain = train(Kept, STEPS)
        assert losses == plain
        said = [r.getMessage() for r in caplog.records if r.name == "surefoot"]
        assert said == [
            "surefoot writes no more to the list, the training goes on: OSError: the server is away"
        ]
        assert made[0].calls == (1 if broken == "write" else STEPS + 1)
        assert made[0].closed == 1
        assert made[0].problem == "OSError: the server\nis away"

    def test_a_watch_that_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any) -> None:
            raise ValueError("no numbers")

        monkeypatch.setattr(surefoot.Watch, "metrics", fail)
        made: list[Kept] = []
        assert len(train(lambda w: made.append(Kept(w)) or made[0], 3)) == 3
        assert made[0].problem == "ValueError: no numbers"

    def test_it_changes_no_number(self) -> None:
        model, optimizer = build()
        plain = [step(model, optimizer) for _ in range(STEPS)]
        assert train(lambda watch: Kept(watch, every=1, layers=True), STEPS) == plain

    def test_wrong_words(self) -> None:
        with pytest.raises(ValueError, match="every=0"):
            Kept(surefoot.watch(*build()), every=0)

    @pytest.mark.parametrize(
        ("module", "make"),
        [
            ("tensorboard", lambda watch: TensorBoard(watch, "logs")),
            ("wandb", Wandb),
            ("trackio", Trackio),
            ("mlflow", MLflow),
        ],
    )
    def test_a_library_that_is_missing(
        self, module: str, make: Callable[[surefoot.Watch], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ModuleNotFoundError, match=rf"pip install 'surefoot\[{module}\]'"):
            make(surefoot.watch(*build()))


HOSTILE = Finding(
    "SF101",
    Pathology.VANISHING,
    Cause.UNKNOWN,
    Severity.FATAL,
    "It *fades* from <script>alert(1)</script>\x1b[2J down",
    layer="a`b<i>",
    root=True,
    evidence=(Evidence("gain [x](y)", math.nan, "about 1"),),
    remedies=(Remedy("init.kaiming_normal", "a`b", "it _helps_"),),
)


class TestTold:
    """The words at the end."""

    def test_names_are_no_markup(self) -> None:
        text = markdown(Report((HOSTILE,), 7))
        assert "<script>" not in text
        assert "\x1b" not in text
        assert r"It \*fades\* from &lt;script&gt;" in text
        assert "`a'b<i>`" in text  # in a code span, where Markdown shows it as it is
        assert r"gain \[x\](y): NaN" in text
        assert "Remedy: `init.kaiming_normal` on `a'b`. It \\_helps\\_." in text

    def test_what_is_missing_is_said(self) -> None:
        assert markdown(Report(missing=("no loss was seen",))).splitlines() == [
            "**inconclusive** after 0 steps",
            "- no loss was seen",
        ]

    def test_rows(self) -> None:
        (row,) = rows(Report((HOSTILE,)))
        assert dict(zip(COLUMNS, row, strict=True)) == {
            "severity": "fatal",
            "rule": "SF101",
            "layer": "a`b<i>",
            "first_step": 0,
            "sentence": "It *fades* from <script>alert(1)</script>\ufffd[2J down",
            "remedy": "init.kaiming_normal",
        }


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore")
class TestTensorBoard:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("tensorboard")

    def events(self, folder: Path) -> Any:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        return EventAccumulator(str(folder)).Reload()

    def test_a_folder(self, tmp_path: Path) -> None:
        losses = train(lambda w: TensorBoard(w, tmp_path, every=5, layers=True), STEPS)
        events = self.events(tmp_path)
        got = [(e.step, e.value) for e in events.Scalars("surefoot/loss")]
        assert got == [(k, losses[k]) for k in WRITTEN]
        assert len(events.Scalars("surefoot/gradient_norm/2")) == len(WRITTEN)
        text = events.Tensors("surefoot/report/text_summary")[0].tensor_proto.string_val[0]
        assert text.startswith(b"**healthy** after 23 steps")

    def test_a_writer_of_yours_stays_open(self, tmp_path: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        model, optimizer = build()
        with SummaryWriter(str(tmp_path)) as writer:
            with surefoot.watch(model, optimizer) as watch:
                out = TensorBoard(watch, writer, every=1)
                for _ in range(3):
                    step(model, optimizer, math.nan)
                    out.log()
                out.finish()
            writer.add_scalar("mine", 1.0, 7)
        events = self.events(tmp_path)
        assert [e.step for e in events.Scalars("mine")] == [7]
        values = [e.value for e in events.Scalars("surefoot/loss")]
        assert len(values) == 3
        assert all(map(math.isnan, values))
        assert events.Scalars("surefoot/healthy")[-1].value == 0
