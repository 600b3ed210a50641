"""No failure of surefoot's own reaches the script, and no file is left half written."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_fixture import Stage, ill
from surefoot.files import replace_text
from surefoot.findings import Cause, Finding, Pathology, Report, Severity


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    (tmp_path / "work").mkdir()
    return Stage(tmp_path / "work")


class TestOwnFailures:
    """Whatever breaks in surefoot: one line that says what is lost, and the script's own status."""

    @pytest.mark.parametrize(
        ("place", "line"),
        [
            ("init", "surefoot: could not begin to watch: RuntimeError: init is broken"),
            ("start", "surefoot: could not begin to watch: RuntimeError: start is broken"),
            ("folder", "nothing of this run will be kept"),
            ("stop", "the verdict failed: RuntimeError: stop is broken"),
            ("report", "the verdict failed: RuntimeError: report is broken"),
            ("data", "there is no HTML report: RuntimeError: data is broken"),
            ("page", "there is no HTML report: RuntimeError: page is broken"),
            ("print", "the verdict is not in full: RuntimeError: print is broken"),
        ],
    )
    def test_one_line(self, stage: Stage, place: str, line: str) -> None:
        status, out, err = stage.run("import torch; print('on'); exit(4)", fail=[place])
        assert (status, out) == (4, "on\n")
        own = [x for x in err.splitlines() if x.startswith("surefoot: ") and "verdict: " not in x]
        assert len(own) == 1
        assert line in own[0]
        assert "Traceback" not in err

    def test_verdict_is_given_in_words_when_the_view_fails(self, stage: Stage) -> None:
        words = "It broke."
        finding = Finding("SF000", Pathology.SPIKE, Cause.UNKNOWN, Severity.FATAL, words, root=True)
        _, _, err = stage.run("import torch", fail=["print"], report=Report((finding,)).to_json())
        assert "surefoot: verdict: unstable. It broke.\n" in err

    def test_no_place_for_runs(self, stage: Stage) -> None:
        (stage.folder / "file").write_text("")
        status, _, err = stage.run("import torch", "--runs", "file/runs")
        assert status == 0
        assert "nothing of this run will be kept" in err
        assert "--runs" in err
        assert "VERDICT healthy" in err

    def test_json_that_cannot_be_written(self, stage: Stage) -> None:
        (stage.folder / "file").write_text("")
        status, _, err = stage.run("import torch", "--json", "file/r.json")
        assert status == 0
        assert "the report was not written as JSON" in err
        assert "VERDICT" in err

    @pytest.mark.parametrize(
        "mischief",
        [
            "import warnings; warnings.simplefilter('error')",
            "import sys; sys.stdout = sys.stderr = None",
            "import sys; sys.stderr.close()",
            "import os; os.close(2)",
            "import os; os.close(0); os.close(1)",
            "import os; os.dup2(os.open('log', os.O_CREAT | os.O_WRONLY), 2)",
            "import sys; sys.path.clear(); sys.argv = None",
            "import builtins, sys; del builtins.input; sys.meta_path.clear()",
            "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
            "import os; os.environ.clear()",
            "import sys; sys.modules.pop('torch'); del sys.modules['__main__']",
        ],
    )
    def test_mischief_of_the_script(self, stage: Stage, mischief: str) -> None:
        """The verdict still comes, to the stderr of the start, and the status is the script's."""
        status, _, err = stage.run(f"import torch\n{mischief}")
        assert status == 0
        assert stage.names()[-1] == "print"
        assert err == "VERDICT healthy \n"

    def test_words_never_land_in_a_file_of_the_script(self, stage: Stage) -> None:
        """All of stderr's descriptors are closed, and their numbers given to the script's file."""
        status, _, err = stage.run(
            "import os, torch\nos.closerange(2, 64)\n"
            "mine = [os.open('data', os.O_CREAT | os.O_WRONLY) for _ in range(60)]"
        )
        assert (status, err) == (0, "")
        assert (stage.folder / "data").read_bytes() == b""

    def test_recursion_limit(self, stage: Stage) -> None:
        status, _, err = stage.run("import torch, sys; sys.setrecursionlimit(20)")
        assert status == 0
        assert "Traceback" not in err

    def test_atexit_of_the_script(self, stage: Stage) -> None:
        _, out, err = stage.run("import torch, atexit; atexit.register(print, 'bye')")
        assert (out, err) == ("bye\n", "VERDICT healthy \n")

    def test_one_verdict_however_many_processes(self, stage: Stage) -> None:
        status, out, err = stage.run(
            "import os, torch\nchild = os.fork()\n"
            "if child: print(os.waitpid(child, 0)[1])\nelse: raise SystemExit(0)",
            "--fail-on",
            "advice",
            report=ill(Severity.FATAL).to_json(),
        )
        assert (status, out, err.count("VERDICT")) == (3, "0\n", 1)
        assert stage.names().count("stop") == 1

    def test_torch_in_a_forked_child_only(self, stage: Stage) -> None:
        stage.run("import os\nif os.fork() == 0:\n    import torch\nelse: os.wait()", "--quiet")
        assert stage.names() == []


class TestReplaceText:
    """A file is there whole, or as it was."""

    def test_replaces_through_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").write_text("old")
        (tmp_path / "link").symlink_to("real")
        replace_text(tmp_path / "link", "new\udcff")
        assert (tmp_path / "real").read_text() == "new\\udcff"
        assert (tmp_path / "link").is_symlink()
        assert len(list(tmp_path.iterdir())) == 2

    def test_old_text_survives_a_failure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "r.json").write_text("old")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            replace_text(tmp_path / "r.json", "new")
        assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]

    def test_a_device_is_written_to_and_stays(self) -> None:
        replace_text(Path("/dev/null"), "words")
        assert not Path("/dev/null").is_file()
