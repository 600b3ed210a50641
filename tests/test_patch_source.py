"""Where things were built and called; and sources of which there must be no patch."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import runpy
import threading
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

import surefoot
from modes_fixture import fresh_compiler as fresh_compiler
from modes_fixture import patched_by_torch as patched_by_torch
from patch_fixture import TRAINING, Project, dedent, noted, remedy, run
from surefoot.remedies import Subject
from surefoot.trial.edits import EDITS, edit_of
from surefoot.trial.edits.optimizer import scaled
from surefoot.trial.edits.text import Text, Unplaced
from surefoot.trial.patch import Patch, patch
from surefoot.trial.source import Place, Places, Sites, yours

SCALE = remedy("learning_rate.scale", factor=0.1)
PATCHED = [
    (nn.Module, "__init__"),
    (torch.optim.Optimizer, "__init__"),
    (torch.optim.Optimizer, "zero_grad"),
    (torch.autocast, "__init__"),
    (torch.autograd, "backward"),
    (nn.utils, "clip_grad_norm_"),
]

SPREAD = """
    import torch
    from torch import nn
    
    def linear(width):
        return nn.Linear(width, width)
    
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = linear(2); self.b = nn.Sigmoid(); self.c = nn.Tanh()
            self.d = nn.TransformerEncoderLayer(4, 1, 8)
        @torch.no_grad()
        def forward(self, x):
            return self.c(self.b(self.a(x)))
    
    class Wide(Net):
        def __init__(self):
            self.before = 1
            super().__init__()
    
    model = Wide(
    )
    optimizer = torch.optim.Adam(
        model.parameters()
    )
    optimizer.zero_grad()
    with torch.autocast("cpu"):
        loss = model.a(torch.ones(1, 2)).sum()
    (loss
     * 2).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
"""


def test_places(tmp_path: Path) -> None:
    project = Project(tmp_path, SPREAD)
    sites, _ = noted(project.script)
    lines = project.script.read_text().splitlines()

    def line(text: str) -> int:
        return next(i for i, row in enumerate(lines, 1) if text in row)

    at = {name: place.line for name, place in sites.calls.items()}
    assert at == {
        "model": line("model = Wide("),
        "optimizer": line("torch.optim.Adam("),
        "zero_grad": line("zero_grad"),
        "autocast": line("autocast"),
        "backward": line("* 2).backward"),
        "clip_grad_norm_": line("clip_grad_norm_"),
    }
    assert sites.optimizer == "Adam" and not sites.grouped
    assert sites.modules["a"].line == line("return nn.Linear")
    row = lines[sites.modules["b"].line - 1]
    assert row.encode()[: sites.modules["b"].end_column].endswith(b"nn.Sigmoid()")
    assert row.encode()[: sites.modules["c"].end_column].endswith(b"nn.Tanh()")
    assert sites.modules["b"].direct and not sites.modules["d.linear1"].direct
    assert sites.modules["d.linear1"].line == sites.modules["d"].line
    assert sites.forwards[""].line == line("@torch.no_grad")
    assert set(sites.digests) == {str(project.script)}
    assert {Path(p.file).name for p in sites.modules.values()} == {"train.py"}


def test_all_is_restored() -> None:
    before = [getattr(owner, name) for owner, name in PATCHED]
    places = Places()
    places.install()
    places.install()
    assert all(getattr(o, n) is not f for (o, n), f in zip(PATCHED, before, strict=True))
    places.remove()
    places.remove()
    assert [getattr(owner, name) for owner, name in PATCHED] == before


def test_others_who_patched_later_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    original = nn.Module.__init__
    monkeypatch.setattr(nn.Module, "__init__", original)  # put back at the end
    with Places() as places:
        inner = nn.Module.__init__

        def theirs(self: nn.Module, *args: object, **kwargs: object) -> None:
            inner(self, *args, **kwargs)

        nn.Module.__init__ = theirs
        assert places.sites([nn.Identity()]).modules[""].file == __file__
    assert nn.Module.__init__ is theirs
    late = nn.Identity()
    assert not places.sites([late]).modules  # ours only passes through


def test_nothing_is_kept_alive() -> None:
    with Places() as places:
        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        refs = [weakref.ref(model), weakref.ref(optimizer), weakref.ref(model.weight)]
        for _ in range(100):
            nn.Identity()
        assert len(places._built) < 10
        copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        assert [type(c) for c in copies] == [nn.Linear, nn.Linear]
        del model, optimizer, copies
        gc.collect()
        assert not any(ref() for ref in refs) and not places._built


def test_an_optimizer_that_is_gone_is_still_known() -> None:
    def fit(model: nn.Module) -> None:
        torch.optim.Adagrad(model.parameters())

    with Places() as places:
        model = nn.Linear(2, 2)
        fit(model)
        gc.collect()
        assert places.sites([model]).optimizer == "Adagrad"
        assert not places.sites([nn.Linear(2, 2)]).optimizer


def test_what_surefoot_calls_by_itself_has_no_place() -> None:
    with Places() as places:
        model = nn.Linear(2, 1)
        file = Path(surefoot.__file__).parent / "probes" / "replay.py"
        code = compile("model(x).sum().backward()", str(file), "exec")
        exec(code, {"model": model, "x": torch.ones(1, 2)})
        assert model.weight.grad is not None and not places._calls["backward"]


def test_several_places_are_no_place() -> None:
    with Places() as places:
        model = nn.Linear(2, 1)
        model(torch.ones(1, 2)).sum().backward()
        assert "backward" in places.sites([model]).calls
        for _ in range(3):
            model(torch.ones(1, 2)).sum().backward()
        assert "backward" not in places.sites([model]).calls


def test_failures_of_ours_stay_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("surefoot.trial.source._spot", broken)
    with Places() as places, torch.autocast("cpu"):
        model = nn.Linear(2, 1)
        torch.optim.SGD(model.parameters(), lr=0.1).zero_grad()
        model(torch.ones(1, 2)).sum().backward()
    assert not places.sites([model]).calls


def test_threads_and_a_watch_beside_it(tmp_path: Path) -> None:
    """Backwards that surefoot calls by itself are not the user's."""
    with Places() as places:
        project = Project(tmp_path, TRAINING)
        thread = threading.Thread(target=nn.Identity)
        thread.start()
        thread.join()
        source = dedent(TRAINING).replace(
            "x, y =", "import surefoot\nw = surefoot.watch(model, optimizer).start()\nx, y ="
        )
        project.script.write_text(source + "w.stop()\n")
        names = runpy.run_path(str(project.script))
        sites = places.sites([names["model"]])
    place = sites.calls["backward"]
    assert source.splitlines()[place.line - 1] == "    loss.backward()"
    assert sites.calls["optimizer"].direct and sites.modules["1"].direct


@pytest.mark.filterwarnings("ignore")
def test_compiled_code_sees_nothing_of_it(patched_by_torch: None, fresh_compiler: None) -> None:
    with Places() as places:

        @torch.compile(backend="eager", fullgraph=True)
        def f(x: torch.Tensor) -> torch.Tensor:
            return layer(x) * 2

        layer = nn.Linear(2, 2)
        assert torch.equal(f(torch.ones(2)), layer(torch.ones(2)) * 2)
        f(torch.ones(2)).sum().backward()
    sites = places.sites([layer])
    assert "backward" in sites.calls and sites.modules[""].direct  # though torch has patched it


def test_the_users_class_below_a_wrapped_one(tmp_path: Path) -> None:
    project = Project(tmp_path, SPREAD)
    with Places() as places:
        model = run(project.script)["model"]
        plain = places.sites([model])
        subject = Subject([model])
        subject.wrap(model, lambda inner, *args: inner(*args))
        assert places.sites([model]).forwards == plain.forwards != {}
        subject.undo()


def test_whose_a_file_is(tmp_path: Path) -> None:
    assert yours(str(tmp_path / "train.py")) and yours("<ipython-input-3-abc>")
    packages = tmp_path / "site-packages" / "timm" / "create.py"
    for file in (torch.__file__, nn.__file__, os.__file__, surefoot.__file__, str(packages)):
        assert not yours(file)
    assert not yours("<frozen runpy>")


# -- no patch -----------------------------------------------------------------------------------


def test_a_cell_of_a_notebook_has_no_patch() -> None:
    for file in ("<ipython-input-3-abc>", "/tmp/ipykernel_1/2.py"):
        with Places() as places:
            names: dict[str, object] = {}
            exec(compile(dedent(TRAINING), file, "exec"), names)
        model = names["model"]
        assert isinstance(model, nn.Module)
        sites = places.sites([model])
        assert sites.calls["optimizer"].file == file
        for name in EDITS:
            assert patch(remedy(name.replace("*", "relu")), sites) is None


def test_a_source_that_has_changed_since_has_no_patch(tmp_path: Path) -> None:
    project = Project(tmp_path)
    sites, _ = noted(project.script)
    assert patch(SCALE, sites, project.folder) is not None
    text = project.script.read_text()
    project.script.write_text(text + "# one more line\n")
    assert patch(SCALE, sites, project.folder) is None
    # And without the digests: nothing that stands where something else stood is touched.
    bare = Sites.from_json({**sites.to_json(), "digests": {}})
    assert patch(SCALE, bare, project.folder) is not None
    project.script.write_text("import os\n" + text)
    assert patch(SCALE, bare, project.folder) is None
    project.script.write_text("import (\n")
    assert patch(SCALE, bare, project.folder) is None
    project.script.unlink()
    assert patch(SCALE, bare, project.folder) is None
    assert patch(SCALE, sites, project.folder) is None


def test_where_python_does_not_tell_columns(tmp_path: Path) -> None:
    """As under -X no_debug_ranges: a line and the name of what is called must do."""
    project = Project(tmp_path)
    sites, _ = noted(project.script)
    data = sites.to_json()
    for key in ("optimizer", "model", "backward"):
        data[key] = data[key][:2]
    data["modules"] = {name: place[:2] for name, place in data["modules"].items()}
    names = ["learning_rate.scale", "clipping.norm", "init.normal", "activation.relu"]
    made = {name: patch(remedy(name), data, project.folder) for name in names}
    whole = {name: patch(remedy(name), sites, project.folder) for name in names}
    assert made == whole and None not in whole.values()


def test_a_file_that_may_only_be_read_has_one(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.script.chmod(0o444)
    assert isinstance(project.patch(SCALE), Patch)


def test_another_encoding_has_none(tmp_path: Path) -> None:
    source = "# coding: latin-1\n# \xe4\n" + dedent(TRAINING)
    project = Project(tmp_path, source.encode("latin-1"))
    assert project.patch(SCALE) is None


def test_a_byte_order_mark_stays(tmp_path: Path) -> None:
    source = b"\xef\xbb\xbf" + dedent(TRAINING).encode()
    project = Project(tmp_path, source)
    names = project.mended(SCALE)
    assert names["optimizer"].param_groups[0]["lr"] == pytest.approx(0.3)
    assert project.script.read_bytes().startswith(b"\xef\xbb\xbfimport")


def test_what_a_library_builds_has_none(tmp_path: Path) -> None:
    library = """
        import torch
        def make(model, lr): return torch.optim.SGD(model.parameters(), lr=lr)
        class Trainer:
            def __init__(self): self.model = torch.nn.Linear(2, 2)
    """
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "lib_of_others.py").write_text(dedent(library))
    source = f"""
        import sys
        sys.path.insert(0, {str(folder)!r})
        import lib_of_others
        trainer = lib_of_others.Trainer()
        model = trainer.model
        optimizer = lib_of_others.make(model, lr=3.0)
        sys.path.remove({str(folder)!r})
    """
    project = Project(tmp_path, source)
    assert project.patch(SCALE) is None
    assert project.patch(remedy("init.normal")) is None


@pytest.mark.parametrize("name", ["input.standardise", "init.lsuv", "amp.grad_scaler", "nothing"])
def test_what_only_a_person_can_write(tmp_path: Path, name: str) -> None:
    assert Project(tmp_path).patch(remedy(name)) is None


def test_paths_are_relative_to_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(tmp_path / "a b" if (tmp_path / "a b").mkdir() is None else tmp_path)
    sites, _ = noted(project.script)
    made = patch(SCALE, sites.to_json(), tmp_path)
    assert made is not None and made.files == ("a b/project/train.py",) and made.edits == 1
    assert made.text.startswith("--- a/a b/project/train.py\t\n+++ b/a b/project/train.py\t\n@@ ")
    assert patch(SCALE, sites, tmp_path / "elsewhere") is None
    monkeypatch.chdir("/")
    assert patch(SCALE, sites) is not None
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    made = patch(SCALE, sites)  # the file is not below here: relative to its own folder
    assert made is not None and made.files == ("train.py",) and made.root == str(project.folder)


def test_changes_at_one_place_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("f(1)\n")
    text = Text(str(file))
    text.replace(2, 3, "2")
    text.replace(2, 3, "2")
    assert text.result() == b"f(2)\n" and text.edits == 1
    with pytest.raises(Unplaced):
        text.replace(2, 3, "3")
    with pytest.raises(Unplaced):
        text.replace(0, 4, "g()")
    with pytest.raises(Unplaced):
        text.call(Place(str(file), 7))
    text.replace(0, 1, "(")
    with pytest.raises(Unplaced):
        text.result()


def test_numbers_are_written_short(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("[3.0, 3, 1e-4, True, -1.0, a, f(x), a or b, a.b]\n")
    text = Text(str(file))
    elements = text.tree.body[0].value.elts
    assert [scaled(text, e, 0.1) for e in elements] == [
        "0.3", "0.3", "1e-05", "0.1 * (True)", "0.1 * (-1.0)", "0.1 * a", "0.1 * f(x)",
        "0.1 * (a or b)", "0.1 * a.b",
    ]  # fmt: skip


def test_every_edit_says_what_it_does() -> None:
    assert all(edit.__doc__ for edit in EDITS.values())
    assert edit_of("residual.prenorm") is None
