"""A frame of `surefoot watch`: its numbers by hand, and what it shows of runs that went wrong."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from rich.console import Console

from surefoot.findings import Report
from surefoot.record.data import Event, RunData
from surefoot.views.following import State, frame
from surefoot.views.vitals import Against, vitals
from views_fixture import FIXTURES, HOSTILE, VANISHING, bare, healthy, statistics, table, whole

NAN = float("nan")


def small(norms: list[list[float]], nonfinite: list[list[float]] | None = None) -> RunData:
    """Two layers, `a` and `c`, of a weight and a bias each; `norms` [T, 4]."""
    layers = table(2, lambda i: "abc"[i])
    counts = np.array(nonfinite) if nonfinite else 0.0
    series = {"gradient": whole(statistics(np.array(norms), counts))}
    return RunData("small", Report(steps=len(norms)), layers, series)


def printed(
    data: RunData, state: State, width: int = 100, height: int | None = None, encoding: str = "utf8"
) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    console = Console(file=file, width=width, height=height, color_system=None)
    console.print(frame(data, state, console=console, height=height))
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


class TestVitals:
    """The numbers, each worked out by hand."""

    def test_norms_and_medians(self) -> None:
        # a: 3, 6, 30 and 4, 8, 40 give 5, 10, 50; c: 0, 0, 0 and 1, 1, 1 give 1; both: sqrt(a^2+1).
        rows = [[3, 4, 0, 1], [6, 8, 0, 1], [30, 40, 0, 1]]
        now = vitals(small([[float(x) for x in row] for row in rows]))
        a, c = now.layers
        assert (a.name, a.gradient) == ("a", Against(50.0, 10.0))
        assert a.gradient.factor == 5.0
        assert (c.name, c.gradient) == ("c", Against(1.0, 1.0))
        assert now.gradient is not None
        assert now.gradient.now == pytest.approx(2501**0.5, rel=1e-7)
        assert now.gradient.usual == pytest.approx(101**0.5, rel=1e-7)
        assert now.step == 2

    def test_steps_that_were_not_finite_are_not_usual(self) -> None:
        data = small(
            [[1.0, 0, 1, 0], [90.0, 0, 1, 0], [3.0, 0, 1, 0], [5.0, 0, 1, 0]],
            [[0.0] * 4, [5.0, 0, 0, 0], [0.0] * 4, [5.0, 0, 0, 0]],
        )
        now = vitals(data)
        a, c = now.layers
        assert (a.name, a.broken, c.broken) == ("a", True, False)
        assert a.gradient.usual == 2.0  # of 1 and 3
        assert now.gradient is not None
        assert np.isnan(now.gradient.now)
        assert now.gradient.usual == pytest.approx((2**0.5 + 10**0.5) / 2, rel=1e-7)

    def test_who_stands_out(self) -> None:
        """A finding's layer, then what is broken, zero, and far from its median either way."""
        layers = table(5, lambda i: f"l{i // 2}")
        norms = np.ones((5, 10))
        norms[:, 1::2] = 0
        norms[-1, ::2] = [3.0, 0.2, 0.0, 1.0, NAN]
        norms[-1, 9] = NAN
        counts = np.zeros((5, 10))
        counts[-1, 6] = 1
        data = RunData("x", Report(), layers, {"gradient": whole(statistics(norms, counts))})
        assert [layer.name for layer in vitals(data).layers] == ["l3", "l2", "l1", "l0", "l4"]
        finding = replace(VANISHING, layer="l0")
        found = vitals(replace(data, report=Report((finding,)))).layers
        assert [(layer.name, layer.finding) for layer in found[:2]] == [("l0", 1), ("l3", 0)]
        assert [layer.finding for layer in found[1:]] == [0, 0, 0, 0]

    def test_updates_are_the_largest_of_a_layers_parameters(self) -> None:
        ratios = whole(np.array([[9.0, 9, 9, 9], [1e-3, 2e-3, NAN, NAN]]), np.array([0, 2]))
        data = small([[1.0, 1, 1, 1]] * 3)
        now = vitals(replace(data, series={**data.series, "update_ratio": ratios}))
        by_name = {layer.name: layer.update for layer in now.layers}
        assert by_name["a"] == pytest.approx(2e-3)
        assert np.isnan(by_name["c"])

    def test_loss_and_rates(self) -> None:
        data = small([[1.0, 1, 1, 1]])
        losses = whole(np.array([[NAN], [2.5], [0.5], [np.inf], [1.5]]))
        rates = whole(np.array([[0.1, 0.1, 0.2]]))
        now = vitals(replace(data, series={"loss": losses, "learning_rate": rates}))
        assert now.loss == (1.5, 0.5, 2.5)
        assert now.rates == (np.float32(0.1), np.float32(0.2))
        assert (now.gradient, now.layers, now.step) == (None, (), 4)

    def test_nothing_was_recorded(self) -> None:
        now = vitals(bare())
        assert (now.step, now.loss, now.gradient, now.rates, now.layers) == (
            None, None, None, (), (),
        )  # fmt: skip

    def test_acts_of_a_guard_that_no_report_tells_of_yet(self) -> None:
        acts = (
            Event(7, "guard", {"rung": "skip", "reason": "NaN", "parameter": "a.weight"}),
            Event(8, "alarm", {"rung": "skip"}),
            Event(9, "guard", {"rung": "skip", "reason": "NaN", "parameter": None}),
            Event(9, "guard", {"rung": "clip", "reason": "large"}),
        )
        words = printed(replace(healthy(), events=acts), State(True))
        assert "The guard held back 2 steps, clipped 1 step; first at step 7: NaN" in words
        assert "guard" not in printed(healthy(), State(True))


class TestFrame:
    """What is shown, in which words."""

    @pytest.mark.parametrize("width", [60, 80, 140])
    @pytest.mark.parametrize("name", list(FIXTURES))
    def test_fits(self, name: str, width: int) -> None:
        words = printed(FIXTURES[name](), State(True), width, height=36)
        lines = words.splitlines()
        assert len(lines) <= 36
        assert max(map(len, lines)) <= width
        assert words.replace("\n", "").isprintable()

    def test_rows_follow_the_height(self) -> None:
        tall, low = (
            printed(healthy(), State(True), 80, height).count("layers.") for height in (40, 16)
        )
        assert tall == 12
        assert 1 <= low < 8

    def test_names_are_text_to_the_letter(self) -> None:
        """No markup of rich's, no escape of the terminal's; what tells them apart is kept."""
        words = printed(FIXTURES["hostile"](), State(True), 200)
        assert "<script>alert(1)" in words
        assert ".18" in words
        assert "\x1b" not in words
        assert HOSTILE not in words
        layers = table(2, lambda i: f"[red]{i}[/red]")
        data = replace(small([[1.0, 1, 1, 1]]), layers=layers, name="[bold]x")
        assert "[red]0[/red]" in printed(data, State(True))
        assert "[bold]x" in printed(data, State(True))

    def test_ascii_terminal(self) -> None:
        words = printed(FIXTURES["long_names"](), State(True), 80, encoding="ascii")
        assert "lowest 2.29 - first 2.30" in words

    def test_states(self) -> None:
        assert "WAITING  for the first step" in printed(bare(), State(True))
        assert "no step was recorded" in printed(bare(), State(False))
        live, over = printed(healthy(), State(True)), printed(healthy(), State(False))
        assert "HEALTHY so far  nothing wrong found in 300 steps" in live
        assert "HEALTHY  nothing wrong found in 300 steps" in over
        assert "· over" in over
        assert "· over" not in live
        cut_off = printed(healthy(), State(False, cut_off=True), 140)
        assert "Cut off: no process of this machine goes on with it" in cut_off
        assert "HEALTHY so far" in cut_off
        assert "NO VERDICT  too early to say" in printed(FIXTURES["inconclusive"](), State(True))

    def test_pace(self) -> None:
        started = datetime.now(UTC) - timedelta(hours=1, minutes=2, seconds=3)
        words = printed(healthy(), State(True, started, 37.25))
        assert "299 · 37.2 steps/s · 1:02:0" in words
        ahead = State(True, datetime.now(UTC) + timedelta(days=1))  # the clock was set
        assert "0:00:00 elapsed" in printed(healthy(), ahead)

    def test_findings_say_what_where_when_and_why(self) -> None:
        words = " ".join(printed(FIXTURES["vanishing"](), State(True), 140).split())
        assert (
            "1 fatal SF101 vanishing gradients · starts at layers.18 · since step 0 · cause: "
            "saturating activation" in words
        )
        assert "2 harmful SF301 stalled training · since step 200" in words
        assert "follows from SF101" in words

    def test_more_findings_than_are_shown(self) -> None:
        data = replace(healthy(), report=Report((VANISHING,) * 11, 300))
        assert "and 3 more" in printed(data, State(True))

    def test_broken_and_zero(self) -> None:
        data = small(
            [[1.0, 0, 1, 0], [1.0, 0, 1, 0], [2.0, 0, 0, 0]],
            [[0.0] * 4, [0.0] * 4, [3.0, 0, 0, 0]],
        )
        rows = [line.split() for line in printed(data, State(True)).splitlines()]
        assert ["a", "NaN/inf"] in rows
        assert ["c", "0", "0x", "zero"] in rows
        assert "now not finite · median 1.41" in printed(data, State(True))
