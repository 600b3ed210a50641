"""What Prometheus scrapes, read back by prometheus_client's own parser."""

from __future__ import annotations

import math
import urllib.request
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import surefoot
from outputs_fixture import build, step
from surefoot.findings import Guarded
from surefoot.integrations.prometheus import Prometheus, content_type, exposition
from surefoot.record.data import RunData
from surefoot.record.metrics import run_metrics
from views_fixture import all_nan, healthy, nonfinite, vanishing

pytest.importorskip("prometheus_client")
Key = tuple[str, tuple[tuple[str, str], ...]]


def parsed(text: bytes) -> dict[str, Any]:
    """The families by name; the parser refuses what Prometheus would."""
    from prometheus_client.parser import text_string_to_metric_families

    families = list(text_string_to_metric_families(text.decode()))
    assert len({f.name for f in families}) == len(families)
    return {f.name: f for f in families}


def samples(text: bytes) -> dict[Key, float]:
    """Every sample; a series that is there twice is a failure."""
    found: dict[Key, float] = {}
    for family in parsed(text).values():
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def test_all_runs_with_their_numbers() -> None:
    runs = [replace(vanishing(), name="first"), replace(healthy(), name="second")]
    got = samples(exposition(runs))
    for data in runs:
        run = (("run", data.name),)
        for name, value in run_metrics(data).items():
            assert got[name.replace("/", "_"), run] == value
        assert got["surefoot_steps_total", run] == data.report.steps
    assert got["surefoot_findings", (("run", "first"),)] == 2
    assert got["surefoot_healthy", (("run", "second"),)] == 1
    rules = {dict(labels)["rule"] for (name, labels) in got if name == "surefoot_finding"}
    assert rules == {"SF101", "SF301"}


def test_conventions() -> None:
    """HELP and TYPE of every family, underscores, counters that end in _total."""
    guarded = replace(healthy().report, guard=Guarded({"clip": 3}, 0, "why"))
    text = exposition([replace(healthy(), report=guarded)], layers=True)
    families = parsed(text)
    assert all(f.documentation and f.type in ("gauge", "counter") for f in families.values())
    counters = {f.name for f in families.values() if f.type == "counter"}
    assert counters == {
        "surefoot_steps", "surefoot_clipped", "surefoot_skipped", "surefoot_rolled_back",
    }  # fmt: skip
    assert b'surefoot_clipped_total{run="' in text
    assert b"# TYPE surefoot_gradient_norm gauge" in text
    assert content_type().startswith("text/plain")


def test_layers_have_series_of_their_own() -> None:
    data = healthy()
    got = samples(exposition([data], layers=True))
    expected = run_metrics(data, layers=True)
    for name, value in expected.items():
        if name.startswith("surefoot/gradient_norm/"):
            labels = ("layer", name.split("/", 2)[2]), ("run", data.name)
            assert got["surefoot_layer_gradient_norm", labels] == value
    plain = [name for name, _ in got if name == "surefoot_gradient_norm"]
    assert len(plain) == 1


def test_hostile_names() -> None:
    names = [
        'a"} 1\nevil_metric 2',
        "back\\slash",
        "esc\x1b[2J",
        "half\udc80pair",
        "half\udc81pair",
    ]
    got = samples(exposition([replace(healthy(), name=name) for name in names]))
    runs = [dict(labels)["run"] for (name, labels) in got if name == "surefoot_steps_total"]
    assert runs == [
        'a"} 1 evil_metric 2',
        "back\\slash",
        "esc\ufffd[2J",
        "half\ufffdpair",
        "half\ufffdpair-2",
    ]
    assert not any(name.startswith("evil") for name, _ in got)


@pytest.mark.parametrize("make", [nonfinite, all_nan])
def test_what_is_not_finite(make: Any) -> None:
    got = samples(exposition([make()]))
    expected = run_metrics(make())
    for name, value in expected.items():
        key = name.replace("/", "_"), (("run", make().name),)
        assert got[key] == pytest.approx(value, nan_ok=True)


def test_no_run_and_no_step() -> None:
    assert exposition([]) == b""
    empty = RunData("early", replace(healthy().report, steps=0), healthy().layers, {})
    got = samples(exposition([empty]))
    assert got["surefoot_steps_total", (("run", "early"),)] == 0
    assert not any("loss" in name for name, _ in got)


def test_a_training_that_serves_its_own() -> None:
    """Scraped over HTTP while it trains, as Prometheus does."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    server, thread = start_http_server(0, "127.0.0.1", registry=registry)
    address = f"http://127.0.0.1:{server.server_port}/metrics"
    try:
        model, optimizer = build()
        with (
            surefoot.watch(model, optimizer) as watch,
            Prometheus(watch, registry, run="mine", layers=True),
        ):
            for k in range(3):
                loss = step(model, optimizer)
                with urllib.request.urlopen(address) as answer:
                    got = samples(answer.read())
                assert got["surefoot_steps_total", (("run", "mine"),)] == k + 1
                assert got["surefoot_loss", (("run", "mine"),)] == loss
                norm = watch.metrics()["surefoot/gradient_norm"]
                assert got["surefoot_gradient_norm", (("run", "mine"),)] == norm
        with urllib.request.urlopen(address) as answer:
            assert answer.read() == b""
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)


def test_one_on_a_registry() -> None:
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    first = Prometheus(surefoot.watch(*build()), registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Prometheus(surefoot.watch(*build()), registry)
    first.finish()
    first.finish()
    Prometheus(surefoot.watch(*build()), registry)


def test_group_rates() -> None:
    data = healthy()
    rates = data.series["learning_rate"]
    wide = np.tile([[0.1, 0.2]], (len(rates), 1)).astype(np.float32)
    series = {**data.series, "learning_rate": type(rates)(rates.steps, wide, wide, wide)}
    got = samples(exposition([replace(data, series=series)], layers=True))
    labels = ("group", "1"), ("run", data.name)
    assert math.isclose(got["surefoot_group_learning_rate", labels], 0.2, rel_tol=1e-6)


def test_a_failure_of_its_own_leaves_the_rest_of_the_scrape(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    def broken(*_: Any) -> None:
        raise RuntimeError("injected")

    registry = CollectorRegistry()
    Gauge("mine", "of the user", registry=registry).set(7)
    model, optimizer = build()
    with surefoot.watch(model, optimizer) as watch, Prometheus(watch, registry) as output:
        step(model, optimizer)
        assert "surefoot_loss" in parsed(generate_latest(registry))
        monkeypatch.setattr(surefoot.Watch, "metrics", broken)
        for _ in range(2):
            assert samples(generate_latest(registry)) == {("mine", ()): 7}
    assert output.problem == "RuntimeError: injected"
    said = [r.getMessage() for r in caplog.records if r.name == "surefoot"]
    assert said == [
        "surefoot writes no more to Prometheus, the training goes on: RuntimeError: injected"
    ]


def test_a_registry_that_knows_it_no_more_ends_no_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    model, optimizer = build()
    with surefoot.watch(model, optimizer) as watch, Prometheus(watch, registry) as output:
        step(model, optimizer)
        registry.unregister(output._collector)
    output.finish()
    assert output.problem is not None and output.problem.startswith("KeyError")
    assert caplog.text.count("the training goes on") == 1
