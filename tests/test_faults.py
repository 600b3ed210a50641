"""`./dev faults`: the command starts, and what it says of a run is so."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("sklearn")


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It is a package of the repository, not of the library."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).resolve().parents[1]), *sys.path])
    yield
    for name in [n for n in sys.modules if n.partition(".")[0] == "faults"]:
        del sys.modules[name]


def test_it_starts() -> None:
    from faults.__main__ import main

    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0, done.output
    assert "--markdown" in done.output


def test_a_fault_that_passes_is_survived_and_without_a_guard_it_is_not() -> None:
    from faults import Job
    from faults.run import run

    guarded = run(Job("one_nan_batch", "surefoot", "SGD", 0))
    bare = run(Job("one_nan_batch", "nothing", "SGD", 0))
    assert guarded.accuracy > 90 > 20 > bare.accuracy
    assert guarded.trail[:100] == bare.trail[:100] and guarded.acted == 100


def test_a_fault_that_stays_is_halted_with_its_cause() -> None:
    from faults import Job
    from faults.run import run

    assert run(Job("nan_for_good", "surefoot", "AdamW", 0)).halted == "nonfinite_input"
