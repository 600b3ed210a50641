"""Promise: whatever a stranger's file or words hold, the answer is in words.

Real artefacts are damaged at random (each damage from its number, so that it comes again): a file
is read or refused with RecordError, a command ends with a status and no traceback. For requests to
the page see test_page_fuzz.
"""

from __future__ import annotations

import copy
import io
import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

import surefoot.benchmark
import surefoot.page.server
from surefoot.cli import cli
from surefoot.guarding.guard import Guard
from surefoot.record import Follower, RecordError, list_runs, read_run
from surefoot.views.report import save_report
from surefoot.views.terminal import print_verdict
from test_promises_golden import FOLDER as GOLDEN

JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 10**400, 1e308, float("inf"), float("nan"), "", "x", "\x1b[31m\x00",
    "<script>alert(1)</script>", "\u202e" * 50, "x" * 100_000, [], {}, [[]], {"": None}, {"x": [1]},
)  # fmt: skip

pytestmark = pytest.mark.zoo  # half a minute


def mutated(chance: random.Random, tree: Any) -> Any:
    """A copy of a tree of JSON with one to three nodes replaced, removed or doubled."""
    tree = copy.deepcopy(tree)
    for _ in range(chance.randint(1, 3)):
        places = [(None, None), *_places(tree)]
        parent, key = chance.choice(places[1:] or places)
        if parent is None:
            return chance.choice(JUNK)
        act = chance.randrange(4)
        if act == 0:
            del parent[key]
        elif act == 1 and isinstance(parent, list):
            parent += [copy.deepcopy(parent[key])] * chance.choice([1, 100])
        else:
            parent[key] = copy.deepcopy(chance.choice(JUNK))
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    if not isinstance(tree, (dict, list)):
        return []
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    return [place for key in keys for place in ((tree, key), *_places(tree[key]))]


def damaged(chance: random.Random, data: bytes, page: int = 4096) -> bytes:
    """Bytes with a few of them flipped, a piece cut out or doubled, or two pages exchanged."""
    out = bytearray(data)
    kind = chance.randrange(5)
    if kind == 0:
        for _ in range(chance.choice([1, 3, 30])):
            out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del out[chance.randrange(len(out)) :]
    elif kind == 2:
        begin = chance.randrange(len(out))
        del out[begin : begin + chance.choice([1, 16, page])]
    elif kind == 3 and len(out) >= 2 * page:
        a, b = (chance.randrange(len(out) // page) * page for _ in range(2))
        out[a : a + page], out[b : b + page] = out[b : b + page], out[a : a + page]
    else:
        begin = chance.randrange(len(out))
        out[begin : begin + 64] = chance.randbytes(64)
    return bytes(out)


def read_or_refused(folder: Path, drawn: bool = False) -> bool:
    """Whether it is read; each way of reading says the same, and the verdict can be shown."""
    (summary,) = list_runs(folder.parent)
    assert summary.name == folder.name
    answers: list[bool | str] = []
    for read in (read_run, lambda path: Follower(path).poll()):
        try:
            read(folder)  # type: ignore[operator]
            answers.append(True)
        except RecordError as error:
            answers.append(str(folder) not in str(error) and f"no folder in: {error}")
    assert answers in ([True, True], [False, False]), answers
    if answers[0]:
        run = read_run(folder)
        print_verdict(run.report, console=Console(file=io.StringIO(), width=80))
        if drawn:
            save_report(run, folder / "report.html")
    return bool(answers[0])


def of_the_golden(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "runs" / "copy"))


def fuzz_database(folder: Path, seeds: range) -> int:
    (folder / "run.json").unlink()
    data = (folder / "run.sqlite").read_bytes()
    read = 0
    for seed in seeds:
        (folder / "run.sqlite").write_bytes(damaged(random.Random(seed), data))
        begun = time.monotonic()
        read += read_or_refused(folder, drawn=seed % 100 == 0)
        assert time.monotonic() - begun < 30, seed
    return read


def test_a_damaged_database(tmp_path: Path) -> None:
    read = fuzz_database(of_the_golden(tmp_path), range(500))
    assert 20 < read < 480  # some damage is of no account, and some is


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_damaged_database_again_and_again(tmp_path: Path) -> None:
    fuzz_database(of_the_golden(tmp_path), range(500, 6000))


@pytest.mark.parametrize("name", ["run.json", "proof.json"])
def test_a_damaged_text_beside_it(tmp_path: Path, name: str) -> None:
    folder = of_the_golden(tmp_path)
    data = (folder / name).read_bytes()
    tree = json.loads(data)
    read = 0
    for seed in range(200):
        chance = random.Random(seed)
        if seed % 2:
            (folder / name).write_bytes(damaged(chance, data))
        else:
            (folder / name).write_text(json.dumps(mutated(chance, tree)))
        read += read_or_refused(folder, drawn=seed == 0)
    if name == "proof.json":
        assert read == 200  # it is as if it were not there
    else:
        assert 5 < read < 195


# -- a guard's checkpoint --------------------------------------------------------------------------


def test_a_damaged_checkpoint_of_a_guard() -> None:
    """Refused or taken: the training goes on either way, and its weights stay finite."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def step() -> None:
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()

    with Guard([optimizer], [model]) as guard:
        for _ in range(20):
            step()
        whole = guard.state_dict()
    refused = 0
    for seed in range(40):
        with Guard([optimizer], [model]) as guard:
            try:
                guard.load_state_dict(mutated(random.Random(seed), whole))
            except Exception:
                refused += 1
                continue
            if guard._halted:
                continue  # it says that the run was to end
            step()
        assert all(p.isfinite().all() for p in model.parameters()), seed
    assert refused > 5


# -- the command line ------------------------------------------------------------------------------

COMMANDS = sorted(cli.commands)
OPTIONS = sorted(
    {o for c in cli.commands.values() for p in c.params for o in p.opts if o[0] == "-"}
)
WORDS = st.one_of(
    st.sampled_from([*COMMANDS, *OPTIONS, "--", "-", "--help", "good", "damaged", "empty", "file"]),
    st.sampled_from(["file.py", "file.py:f", "math:sin", "math:pi", "nowhere:f", "SF101", "-1"]),
    st.text(max_size=12),
    st.integers().map(str),
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stage")
    shutil.copytree(GOLDEN, root / "good")
    shutil.copytree(GOLDEN, root / "damaged")
    (root / "damaged" / "run.sqlite").write_bytes(b"no database" * 1000)
    (root / "empty").mkdir()
    (root / "file").write_bytes(bytes(range(256)))
    (root / "file.py").write_text("f = 1\n")
    return root


@settings(
    max_examples=120, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(command=st.sampled_from([*COMMANDS, ""]), words=st.lists(WORDS, max_size=5))
def test_no_words_make_a_traceback(
    stage: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: list[str]
) -> None:
    def too_long(*_: object, **__: object) -> None:
        raise surefoot.benchmark.Unmeasured("it would take a while")

    monkeypatch.chdir(stage)
    monkeypatch.setattr(surefoot.page.server, "serve", lambda *_, **__: None)
    monkeypatch.setattr(surefoot.benchmark, "benchmark", too_long)
    told = CliRunner().invoke(cli, [*([command] if command else []), *words])
    error = told.exception
    assert error is None or isinstance(error, SystemExit), (command, words, repr(error))
    assert told.exit_code in (0, 1, 2, 3), (command, words)
    assert "Traceback" not in told.output, (command, words)
