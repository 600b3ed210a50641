"""What `surefoot run` does around a script: watch, verdict, files, exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli_fixture import HEALTHY, Stage, ill
from surefoot.findings import Report, Severity
from surefoot.run import when_imported


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    (tmp_path / "work").mkdir()
    return Stage(tmp_path / "work")


class TestVerdict:
    """The ordinary way: watched from the import of torch, judged at the end."""

    def test_order_of_things(self, stage: Stage) -> None:
        status, out, err = stage.run("print('before')\nimport torch\nprint('after')", "--name", "a")
        assert (status, out) == (0, "before\nafter\n")
        assert err == "VERDICT healthy \n"
        assert stage.names() == [
            "folder", "init", "start", "stop", "report", "data", "page", "print",
        ]  # fmt: skip
        folder = stage.folder / "runs" / "a"
        assert stage.acts[-1] == f"print {folder / 'report.html'} {folder}"

    def test_what_the_session_is_told(self, stage: Stage) -> None:
        stage.run("import torch", "--runs", "elsewhere", "--ignore", "SF1")
        place, ignore = stage.acts[1].split()[1:3]
        environment = json.loads(stage.acts[1].split(" ", 3)[3])
        assert place == str(stage.folder / "elsewhere" / "train")
        assert ignore == "['SF1']"
        assert environment["argv"] == ["train.py"]
        assert environment["cwd"] == str(stage.folder)

    def test_script_changes_folder(self, stage: Stage) -> None:
        status, _, _ = stage.run(
            "import os, torch; os.mkdir('x'); os.chdir('x'); os.rmdir('../x')", "--json", "r.json"
        )
        assert status == 0
        assert (stage.folder / "runs" / "train" / "report.html").exists()
        assert json.loads((stage.folder / "r.json").read_text())["verdict"] == "healthy"

    def test_script_deletes_the_run_folder(self, stage: Stage) -> None:
        status, _, err = stage.run("import torch, shutil; shutil.rmtree('runs')")
        assert (status, err) == (0, "VERDICT healthy \n")
        assert (stage.folder / "runs" / "train" / "report.html").exists()

    def test_without_a_record(self, stage: Stage) -> None:
        stage.run("import torch", "--no-record")
        assert stage.acts[0].startswith("init None")
        assert stage.names() == ["init", "start", "stop", "report", "print"]
        assert sorted(p.name for p in stage.folder.iterdir()) == ["torch.py", "train.py"]

    def test_quiet(self, stage: Stage) -> None:
        status, _, err = stage.run("import torch", "--quiet", "--json", "r.json")
        assert (status, err) == (0, "")
        assert (stage.folder / "r.json").exists()
        assert "page" in stage.names()
        assert "print" not in stage.names()

    def test_problem_is_said_even_when_quiet(self, stage: Stage) -> None:
        _, _, err = stage.run("import torch", "--quiet", problem="the disk was full at step 7.")
        assert err == "surefoot: aside: 7\nsurefoot: the disk was full at step 7.\n"

    def test_own_log_stays_out_of_the_scripts(self, stage: Stage) -> None:
        source = "import logging, sys, torch\nlogging.basicConfig(stream=sys.stdout, level=0)\n"
        _, out, err = stage.run(source + "logging.info('mine')", "--quiet", problem="x")
        assert (out, err) == ("INFO:root:mine\n", "surefoot: aside: 7\nsurefoot: x\n")

    @pytest.mark.parametrize(
        ("last_line", "ended"),
        [
            ("pass", "ended"),
            ("exit(4)", "ended"),
            ("1 / 0", "raised"),
            ("raise KeyboardInterrupt", "interrupted"),
        ],
    )
    def test_how_it_ended(self, stage: Stage, last_line: str, ended: str) -> None:
        stage.run(f"import torch\n{last_line}", "--quiet")
        assert f"stop {ended}" in stage.acts

    def test_nothing_seen(self, stage: Stage) -> None:
        silent = Report(missing=("No backward was called.",), surefoot="0").to_json()
        _, _, err = stage.run("import torch", report=silent, data=False)
        assert err == "VERDICT inconclusive No backward was called.\n"
        assert stage.acts[-1].startswith("print None")
        assert not (stage.folder / "runs" / "train" / "report.html").exists()

    def test_no_torch(self, stage: Stage) -> None:
        status, _, err = stage.run("print(1)", "--json", "r.json")
        assert status == 0
        assert "VERDICT inconclusive This program never imported torch" in err
        assert stage.names() == ["print"]
        assert json.loads((stage.folder / "r.json").read_text())["verdict"] == "inconclusive"
        assert not (stage.folder / "runs").exists()

    def test_torch_unseen(self, stage: Stage) -> None:
        _, _, err = stage.run("import sys; sys.meta_path.pop(0); import torch")
        assert "VERDICT inconclusive torch was imported where surefoot could not notice it" in err

    def test_verdict_follows_the_output_in_a_shared_log(self, stage: Stage) -> None:
        command = [sys.executable, "../fakes.py", "run", stage.script("import torch; print('out')")]
        done = subprocess.run(
            command, cwd=stage.folder, env=stage.environment(), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == "out\nVERDICT healthy \n"

    def test_uncaught_exception(self, stage: Stage) -> None:
        source = "import torch\n1 / 0"
        expected = stage.python(source)
        status, out, err = stage.run(source)
        assert (status, out, err) == (*expected[:2], expected[2] + "VERDICT healthy \n")


class TestImportOfTorch:
    """torch is imported by the script, when the script does it, and as if nobody looked."""

    @pytest.mark.parametrize(
        "source",
        [
            "import os; os.environ['OMP_NUM_THREADS'] = '3'; import torch; print(torch.THREADS)",
            "import torch as t; print(type(t.__loader__), vars(t.__loader__), t)",
            "import importlib.util as u; print(u.find_spec('torch').origin)",
            "import sys, torch; print([type(f) for f in sys.meta_path])",
            "import sys\nif 'torch' not in sys.modules: print('not yet')\nimport torch",
        ],
    )
    def test_same_as_python(self, stage: Stage, source: str) -> None:
        assert stage.run(source, "--quiet") == stage.python(source)

    def test_looking_for_torch_is_not_importing_it(self, stage: Stage) -> None:
        stage.run("import importlib.util as u; u.find_spec('torch')", "--quiet")
        assert stage.names() == []

    @pytest.mark.parametrize("error", ["OSError('libcuda')", "ImportError('half')"])
    def test_torch_that_cannot_be_imported(self, stage: Stage, error: str) -> None:
        (stage.folder / "torch.py").write_text(f"def load():\n    raise {error}\nload()\n")
        source = "def go():\n    import torch\ngo()"
        assert stage.run(source, "--quiet") == stage.python(source)
        assert stage.names() == []

    def test_second_attempt_at_the_import(self, stage: Stage) -> None:
        text = "import sys\nif not hasattr(sys, 'again'):\n    sys.again = 1; raise ImportError"
        (stage.folder / "torch.py").write_text(text)
        stage.run("try: import torch\nexcept ImportError: import torch", "--quiet")
        assert stage.names()[:3] == ["folder", "init", "start"]

    def test_already_imported(self) -> None:
        calls: list[int] = []
        with when_imported("json", lambda: calls.append(1)):
            assert calls == [1]
        assert calls == [1]

    def test_leaves_no_finder_behind(self) -> None:
        before = list(sys.meta_path)
        with when_imported("never_imported", lambda: None):
            assert len(sys.meta_path) == len(before) + 1
        assert sys.meta_path == before

    def test_threads_import_once(self, stage: Stage) -> None:
        stage.run(
            "import threading\ndef go(): import torch\n"
            "ts = [threading.Thread(target=go) for _ in range(8)]\n"
            "[t.start() for t in ts]; [t.join() for t in ts]",
            "--quiet",
        )
        assert stage.names().count("start") == 1


class TestExitStatus:
    """The script's own, save where --fail-on was asked for and the script succeeded."""

    @pytest.mark.parametrize("limit", ["advice", "harmful", "fatal"])
    @pytest.mark.parametrize("severity", list(Severity))
    def test_fail_on(self, stage: Stage, limit: str, severity: Severity) -> None:
        order = ["advice", "harmful", "fatal"]
        expected = 3 if order.index(severity) >= order.index(limit) else 0
        got = stage.run("import torch", "--fail-on", limit, report=ill(severity).to_json())
        assert got[0] == expected

    @pytest.mark.parametrize(
        ("source", "expected"), [("exit(5)", 5), ("exit('x')", 1), ("1 / 0", 1), ("exit(256)", 3)]
    )
    def test_own_status_wins(self, stage: Stage, source: str, expected: int) -> None:
        report = ill(Severity.FATAL).to_json()
        assert stage.run(f"import torch; {source}", "--fail-on", "advice", report=report)[0] == (
            expected
        )

    @pytest.mark.parametrize("report", [HEALTHY, Report(missing=("x",))])
    def test_nothing_found_does_not_fail(self, stage: Stage, report: Report) -> None:
        assert stage.run("import torch", "--fail-on", "advice", report=report.to_json())[0] == 0

    def test_without_fail_on_findings_change_nothing(self, stage: Stage) -> None:
        assert stage.run("import torch", report=ill(Severity.FATAL).to_json())[0] == 0
