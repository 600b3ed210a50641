"""Run folders made of the runs in `views_fixture`, for whatever reads folders: the page, follow."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from starlette.testclient import TestClient

from surefoot.page.app import create
from surefoot.record import Writer
from surefoot.record.data import RunData
from views_fixture import FIXTURES, Page, renamed, vanishing

SHOWN = ("vanishing", "healthy", "nonfinite", "hostile", "long_names", "one_step", "bare", "deep")


def record(data: RunData, folder: Path) -> Path:
    """Write a run into a folder that is not there yet, as a training would have, and end it.

    The run's name is the folder's. Of a thinned bucket its highest values are written.
    """
    begin(data, folder).close(data.report)
    return folder


def begin(data: RunData, folder: Path) -> Writer:
    """The same up to its end: the run is live until the writer is closed."""
    folder.mkdir(parents=True)
    writer = Writer(folder, data.environment)
    writer.declare(0, data.layers, {name: s.high.shape[1] for name, s in data.series.items()})
    rows: dict[int, dict[str, np.ndarray]] = {}
    for name, series in data.series.items():
        for step, row in zip(series.steps.tolist(), series.high, strict=True):
            rows.setdefault(step, {})[name] = row
    for step in sorted(rows):
        writer.put(0, step, rows[step])
    for flow in data.flows:
        writer.flow(0, flow)
    for event in data.events:
        writer.event(0, event)
    writer.report(0, data.report)
    return writer


@cache
def recorded() -> Path:
    """Every one of `FIXTURES`, recorded once for all tests of this process: not to be touched.

    Those of `SHOWN` come first, and so are the older ones.
    """
    root = Path(tempfile.mkdtemp(prefix="surefoot-recorded-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for name in dict.fromkeys([*SHOWN, *FIXTURES]):
        record(FIXTURES[name](), root / name)
    return root


def put(root: Path, names: Iterable[str] = FIXTURES) -> Path:
    """Copies of the recorded runs of these names, in a folder that may be there already."""
    for name in names:
        shutil.copytree(recorded() / name, root / name)
    return root


@dataclass(frozen=True)
class Site:
    """A page that is served, and what to ask it."""

    client: TestClient

    def ask(self, address: str, code: int = 200) -> Page:
        """A page as a browser would see it, of which nothing of a run is an element."""
        answer = self.client.get(address)
        assert answer.status_code == code, address
        page = Page(answer.text)
        tags = [tag for tag, _ in page.elements]
        assert not any(page.scripts), "a script inside the page"
        assert not {"img", "iframe", "object"} & set(tags)
        assert tags.count("h1") <= 1
        return page


def shelf(root: Path) -> Site:
    """The runs of `SHOWN`, then one whose layers share a name, and one that cannot be read."""
    put(root, SHOWN)
    record(renamed(vanishing(), lambda _: "same"), root / "same")
    (root / "broken").mkdir()
    (root / "broken" / "run.sqlite").write_bytes(b"no database" * 100)
    return Site(TestClient(create(root), base_url="http://localhost"))


def links(page: Page) -> list[str]:
    """Where the page's links lead, in their order."""
    return [str(a.get("href")) for a in page.every("a")]
