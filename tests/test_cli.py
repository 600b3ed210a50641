"""The command line and what `surefoot run` does around a script: watch, verdict, files, status.

What is watched and how it is shown is faked (`FAKES`): these tests are about the order of things,
the exit status, and that no failure of surefoot's own reaches the script. Even torch is a file of
a few lines beside the script, so that a process costs a fifth of a second.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest
from click.testing import CliRunner

from surefoot.cli import cli
from surefoot.findings import Cause, Finding, Pathology, Report, Severity
from surefoot.run import Options, replace_text, when_imported

SOURCE = Path(__file__).parents[1] / "src"
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
ENVIRONMENT |= {"PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}

FAKES = """
import json, os, sys, time, types, warnings
from pathlib import Path
from surefoot.findings import Report

WISH = json.loads(os.environ["WISH"])

def act(place, *facts):
    with open(WISH["acts"], "a") as file:
        print(place, *facts, file=file)
    warnings.warn("a library of surefoot's is getting old")
    if place in WISH["fail"]:
        raise RuntimeError(f"{place}\\nis broken")

class Session:
    def __init__(self, *, folder, ignore=(), environment=None):
        act("init", folder, list(ignore), json.dumps(environment))
        self.problem = WISH["problem"]
    def start(self): act("start")
    def stop(self, ended="ended"):
        import logging
        act("stop", ended)
        if WISH["problem"]: logging.getLogger("surefoot").warning("aside: %s", 7)
    def report(self):
        act("report")
        return Report.from_json(WISH["report"])
    def data(self):
        act("data")
        return object() if WISH["data"] else None

def new_folder(runs, name, script):
    act("folder", runs, name, script)
    folder = runs / (name or Path(script).stem)
    folder.mkdir(parents=True)
    return folder

def save_report(data, path):
    act("page", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("<html>")
    return path

def print_verdict(report, *, console, report_path, folder):
    act("print", report_path, folder)
    console.print(f"VERDICT {report.verdict} {' '.join(report.missing)}", soft_wrap=True)
    while WISH["hang"] == "deaf":  # only the kernel can end this
        try:
            console.print("DEAF")
            time.sleep(60)
        except BaseException: pass
    while WISH["hang"]:
        time.sleep(60)

for name, member in {"watching.session": Session, "record": new_folder, "views.report": save_report,
                     "views.terminal": print_verdict}.items():
    fake = types.ModuleType(f"surefoot.{name}")
    setattr(fake, member.__name__, member)
    sys.modules[fake.__name__] = fake

from surefoot.cli import main
main()
"""

HEALTHY = Report(steps=9, surefoot="0")


def ill(severity: Severity) -> Report:
    """A report with one finding of this severity."""
    return Report((Finding("SF000", Pathology.SPIKE, Cause.UNKNOWN, severity, "It broke."),), 9)


class Stage:
    """A folder with a fake torch, and runs of scripts in it under the fakes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "torch.py").write_text("import os\nTHREADS = os.environ.get('OMP_NUM_THREADS')\n")
        (folder.parent / "fakes.py").write_text(FAKES)
        self._acts = folder.parent / "acts"
        self._wish: dict[str, Any] = {
            "acts": str(self._acts), "fail": [], "problem": None, "data": True, "hang": "",
            "report": HEALTHY.to_json(),
        }  # fmt: skip

    @property
    def acts(self) -> list[str]:
        """What surefoot asked of the fakes, one act a line."""
        return self._acts.read_text().splitlines() if self._acts.exists() else []

    def names(self) -> list[str]:
        """The first word of each act."""
        return [line.split()[0] for line in self.acts]

    def script(self, source: str) -> str:
        (self.folder / "train.py").write_text(source)
        return "train.py"

    def popen(self, source: str, *options: str, **wish: Any) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, str(self.folder.parent / "fakes.py"), "run", *options,
            self.script(source),
        ]  # fmt: skip
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment(**wish),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )

    def environment(self, **wish: Any) -> dict[str, str]:
        return {**ENVIRONMENT, "WISH": json.dumps({**self._wish, **wish})}

    def run(self, source: str, *options: str, **wish: Any) -> tuple[int, str, str]:
        with self.popen(source, *options, **wish) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out.decode(), err.decode()

    def python(self, source: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, self.script(source)],
            cwd=self.folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr


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


TRAINS = """
import atexit, signal, torch
atexit.register(lambda: print("atexit", signal.getsignal(signal.SIGINT).__name__, flush=True))
print("ready", flush=True)
while True: signal.pause()
"""


class TestInterrupt:
    """Ctrl-C ends the training, not the verdict; the second one ends everything."""

    def test_verdict_then_death_by_signal(self, stage: Stage) -> None:
        with stage.popen(TRAINS, "--fail-on", "advice", report=ill(Severity.FATAL).to_json()) as p:
            assert p.stdout is not None
            assert p.stdout.readline() == b"ready\n"
            p.send_signal(signal.SIGINT)
            out, err = (x.decode() for x in p.communicate(timeout=60))
        assert p.returncode == -signal.SIGINT
        assert out == "atexit default_int_handler\n"
        traceback, _, verdict = err.partition("KeyboardInterrupt\n")
        assert traceback.startswith("Traceback (most recent call last):\n")
        assert "surefoot" not in traceback
        assert traceback.count("File") == 1
        assert verdict == "VERDICT unstable \n"

    def test_second_interrupt_ends_a_deaf_verdict(self, stage: Stage) -> None:
        with stage.popen(TRAINS, hang="deaf") as p:
            assert p.stdout is not None
            assert p.stdout.readline() == b"ready\n"
            p.send_signal(signal.SIGINT)
            assert p.stderr is not None
            while p.stderr.readline() != b"DEAF\n":
                pass
            p.send_signal(signal.SIGINT)
            try:
                out, err = p.communicate(timeout=20)
            finally:
                p.kill()
        assert p.returncode == -signal.SIGINT
        assert (out, err) == (b"", b"")

    def test_interrupted_verdict_of_a_finished_script(self, stage: Stage) -> None:
        source = "import torch, atexit; atexit.register(print, 'atexit')"
        with stage.popen(source, hang="listening") as p:
            assert p.stderr is not None
            assert p.stderr.readline().startswith(b"VERDICT")
            p.send_signal(signal.SIGINT)
            out, err = (x.decode() for x in p.communicate(timeout=60))
        assert (p.returncode, out) == (0, "atexit\n")
        assert err == "surefoot: interrupted before the verdict was complete.\n"

    def test_handler_of_the_script(self, stage: Stage) -> None:
        source = TRAINS.replace(
            'print("ready', 'signal.signal(signal.SIGINT, lambda *_: exit(6))\nprint("ready'
        )
        with stage.popen(source) as p:
            assert p.stdout is not None
            assert p.stdout.readline() == b"ready\n"
            p.send_signal(signal.SIGINT)
            _, err = p.communicate(timeout=60)
        assert (p.returncode, err) == (6, b"VERDICT healthy \n")

    def test_sigterm_is_final(self, stage: Stage) -> None:
        with stage.popen(TRAINS) as p:
            assert p.stdout is not None
            assert p.stdout.readline() == b"ready\n"
            p.terminate()
            _, err = p.communicate(timeout=60)
        assert (p.returncode, err) == (-signal.SIGTERM, b"")

    def test_the_key_itself(self, stage: Stage) -> None:
        """At a terminal: the key is pressed, the shell's child dies of SIGINT after the verdict."""
        command = [sys.executable, str(stage.folder.parent / "fakes.py"), "run"]
        command.append(stage.script(TRAINS))
        environment = stage.environment()
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(stage.folder)
            os.execve(command[0], command, environment)
        seen = b""
        for chunk in _chunks(terminal):
            seen += chunk
            if b"ready" in seen and b"^C" not in seen:
                os.write(terminal, b"\x03")
        status = os.waitpid(child, 0)[1]
        os.close(terminal)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGINT
        assert seen.index(b"KeyboardInterrupt") < seen.index(b"VERDICT") < seen.index(b"atexit")


def _chunks(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # Linux says EIO when the other side has closed
            return
        if not chunk:
            return
        yield chunk


def options(*arguments: str) -> Options:
    """What `surefoot run ...` understood."""
    result = cli.main(["run", *arguments], prog_name="surefoot", standalone_mode=False)
    assert isinstance(result, Options)
    return result


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    return "train.py"


class TestWords:
    """What is typed, and what is answered to what cannot be meant."""

    def test_everything_after_the_script_is_the_scripts(self, script: str) -> None:
        words = ["--json", "x", "-m", "--runs", "--", "--help", "", "-"]
        got = options("--quiet", script, *words)
        assert got.quiet
        assert got.json is None
        assert got.arguments == tuple(words)

    def test_everything_after_the_module_is_the_modules(self) -> None:
        got = options("--name", "a", "-m", "project.train", "--name", "b", "-m", "c")
        assert (got.program.target, got.name) == ("project.train", "a")
        assert got.arguments == ("--name", "b", "-m", "c")

    def test_defaults(self, script: str) -> None:
        got = options(script)
        assert got == Options(program=got.program)
        assert got.runs == Path("runs")
        assert got.record
        assert got.fail_on is None

    def test_surface_is_frozen(self) -> None:
        """A new command or option is a deliberate change of this list."""
        surface = {
            name: sorted(p.opts[0] for p in command.params)
            for name, command in cli.commands.items()
        }
        assert surface == {
            "run": [
                "--fail-on", "--ignore", "--json", "--name", "--no-record", "--quiet", "--runs",
                "-m", "arguments", "script",
            ],
            "report": ["-o", "run"],
            "explain": ["rule"],
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["run"], "Missing argument 'SCRIPT'"),
            (["run", "-m"], "Missing argument 'SCRIPT'"),
            (["run", "trian.py"], "Did you mean train.py?"),
            (["run", "--json", "-", "train.py"], "standard output belongs to the script"),
            (["run", "--name", "a/b", "train.py"], "the name of one folder"),
            (["run", "--name", "..", "train.py"], "the name of one folder"),
            (["run", "--fail-on", "bad", "train.py"], "'advice', 'harmful', 'fatal'"),
            (["run", "--fial-on", "fatal", "train.py"], "--fail-on"),
        ],
    )
    def test_bad_words(self, script: str, words: list[str], message: str) -> None:
        with pytest.raises(click.ClickException) as caught:
            cli.main(words, prog_name="surefoot", standalone_mode=False)
        assert message in caught.value.format_message()
        assert caught.value.exit_code == 2

    def test_errors_through_the_real_door(self, script: str) -> None:
        """Status 2, words on stderr, nothing on stdout, and no torch behind it."""
        code = "import sys; sys.modules['torch'] = None; from surefoot.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "run", "trian.py"],
            env=ENVIRONMENT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, "")
        assert "can't open file" in done.stderr
        assert "Did you mean train.py?" in done.stderr

    @pytest.mark.parametrize("words", [["--version"], ["--help"], ["run", "--help"]])
    def test_answers_without_torch(self, words: list[str]) -> None:
        code = "import sys; sys.modules['torch'] = None; from surefoot.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            env=ENVIRONMENT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert "surefoot" in done.stdout

    def test_unknown_rule(self, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("surefoot.cli._known_rules", lambda: ["SF101", "SF102"])
        with pytest.raises(click.BadParameter, match=r"no rule SF999\. Known rules: SF101, SF102"):
            options("--ignore", "SF999", "--ignore", "SF101", script)
        assert options("--ignore", "SF101", "--ignore", "SF102", script).ignore == (
            "SF101",
            "SF102",
        )

    def test_rules_that_cannot_be_asked_for(
        self, script: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("surefoot.cli._known_rules", lambda: [])
        assert options("--ignore", "SF999", script).ignore == ("SF999",)


def fake_modules(monkeypatch: pytest.MonkeyPatch, **modules: dict[str, object]) -> None:
    for name, members in modules.items():
        fake = types.ModuleType(f"surefoot.{name.replace('__', '.')}")
        vars(fake).update(members)
        monkeypatch.setitem(sys.modules, fake.__name__, fake)


class TestReportAndExplain:
    """The two commands that read and print."""

    RULE: ClassVar = {"id": "SF101", "title": "They vanish", "page": "\n**What.** Shrinking.\n"}

    class RecordError(Exception):
        pass

    @pytest.fixture(autouse=True)
    def _fakes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def read_run(folder: Path) -> str:
            if not folder.exists():
                raise self.RecordError(f"{folder} is no run folder")
            return "data"

        fake_modules(
            monkeypatch,
            record={"read_run": read_run, "RecordError": self.RecordError},
            views__report={"save_report": lambda data, path: Path(path).write_text(data)},
            diagnosis={"RULES": {"SF101": types.SimpleNamespace(**self.RULE)}},
        )

    def test_report(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(cli, ["report", str(tmp_path)])
        assert (result.exit_code, result.output) == (0, f"{tmp_path / 'report.html'}\n")
        assert (tmp_path / "report.html").read_text() == "data"

    def test_report_elsewhere(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(cli, ["report", str(tmp_path), "-o", str(tmp_path / "x.html")])
        assert result.exit_code == 0
        assert (tmp_path / "x.html").exists()

    def test_no_such_run(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(cli, ["report", str(tmp_path / "none")])
        assert result.exit_code == 1
        assert "none is no run folder" in result.output

    def test_no_place_for_the_report(self, tmp_path: Path) -> None:
        place = tmp_path / "gone" / "x.html"
        result = CliRunner().invoke(cli, ["report", str(tmp_path), "-o", str(place)])
        assert result.exit_code == 1
        assert f"cannot write {place}" in result.output

    def test_explain(self) -> None:
        result = CliRunner().invoke(cli, ["explain", "sf101"])
        assert result.output == "# SF101: They vanish\n\n**What.** Shrinking.\n"

    def test_explain_unknown(self) -> None:
        result = CliRunner().invoke(cli, ["explain", "SF9"])
        assert result.exit_code == 2
        assert "Known rules: SF101" in result.output


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


REAL = """
import sys, torch
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
adam = torch.optim.Adam(model.parameters())
for step in range(10**9):
    x = torch.randn(16, 4)
    adam.zero_grad()
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    loss.backward()
    adam.step()
    if step < 20:
        print(float(loss).hex(), flush=True)
    if step == 20 and "short" in sys.argv:
        sys.exit(4)
"""

WORKERS = """
import torch
from torch.utils.data import DataLoader, Dataset
torch.set_num_threads(1)
class Squares(Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return torch.tensor([float(i) ** 2]), __name__
if __name__ == "__main__":
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-4)
    for how in ("fork", "spawn"):
        for x, names in DataLoader(Squares(), 4, True, num_workers=2, multiprocessing_context=how):
            sgd.zero_grad()
            model(x).square().mean().backward()
            sgd.step()
            print(x.tolist(), names, float(model.weight).hex())
"""


class TestReal:
    """With torch, the real session and the real views: that the pieces fit."""

    def both(self, folder: Path, source: str, *words: str) -> list[tuple[int, str, str]]:
        """What python and surefoot make of the script."""
        (folder / "train.py").write_text(source)
        return [
            (done.returncode, done.stdout, done.stderr)
            for command in ([], ["-m", "surefoot", "run", "--json", "r.json"])
            for done in [
                subprocess.run(
                    [sys.executable, *command, "train.py", *words],
                    cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=100,
                )
            ]
        ]  # fmt: skip

    def test_same_numbers_and_a_verdict(self, tmp_path: Path) -> None:
        python, ours = self.both(tmp_path, REAL, "short")
        assert ours[:2] == python[:2]
        assert python[0] == 4
        report = Report.from_json(json.loads((tmp_path / "r.json").read_text()))
        assert report.steps == 21
        assert str(report.verdict).upper() in ours[2]
        (folder,) = (tmp_path / "runs").iterdir()
        assert {"report.html", "run.json", "run.sqlite"} <= {p.name for p in folder.iterdir()}

    def test_interrupt(self, tmp_path: Path) -> None:
        (tmp_path / "train.py").write_text(REAL)
        with subprocess.Popen(
            [sys.executable, "-m", "surefoot", "run", "--json", "r.json", "train.py"],
            cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None
                for _ in range(20):
                    assert process.stdout.readline()
                process.send_signal(signal.SIGINT)
                err = process.communicate(timeout=60)[1].decode()
            finally:
                process.kill()
        assert process.returncode == -signal.SIGINT
        traceback, _, rest = err.partition("KeyboardInterrupt\n")
        assert "src/surefoot" not in traceback
        report = Report.from_json(json.loads((tmp_path / "r.json").read_text()))
        assert report.steps >= 20
        assert str(report.verdict).upper() in rest

    @pytest.mark.slow
    def test_workers_of_a_data_loader(self, tmp_path: Path) -> None:
        python, ours = self.both(tmp_path, WORKERS)
        assert ours[:2] == python[:2]
        assert python[1].count("__mp_main__") == 2 * 4
        report = Report.from_json(json.loads((tmp_path / "r.json").read_text()))
        assert report.steps == 4
