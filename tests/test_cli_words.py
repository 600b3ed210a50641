"""The words of the command line: what is understood, and what is answered."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import ClassVar

import click
import pytest
from click.testing import CliRunner

from cli_fixture import ENVIRONMENT, SOURCE
from surefoot.cli import cli
from surefoot.cli.view import NEEDED
from surefoot.run import Options


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
        assert got.forensics
        assert got.fail_on is None

    def test_steps_are_not_run_again_if_that_is_forbidden(self, script: str) -> None:
        assert not options("--no-forensics", script).forensics
        assert not options(script).guard
        assert options("--guard", "--dry-run", script).dry_run

    def test_a_page_is_asked_for_and_handed_on(self, script: str) -> None:
        assert not options(script).view
        assert options("--view", script).view
        assert "--view" in options("--view", script).words()
        assert "--view" not in options(script).words()

    def test_a_page_that_could_not_be_is_refused_before_the_training(
        self, script: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(click.UsageError, match="without --no-record"):
            options("--view", "--no-record", script)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(click.ClickException, match=r"pip install 'surefoot\[view\]'"):
            options("--view", script)

    def test_what_a_page_needs_is_what_its_extra_installs(self) -> None:
        project = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text())
        extra = project["project"]["optional-dependencies"]["view"]
        named = {re.split("[<>=]", words)[0].replace("-", "_") for words in extra}
        assert named == {"markdown_it_py" if n == "markdown_it" else n for n in NEEDED}

    def test_surface_is_frozen(self) -> None:
        """A new command or option is a deliberate change of this list."""
        surface = {
            name: sorted(p.opts[0] for p in command.params)
            for name, command in cli.commands.items()
        }
        assert surface == {
            "prove": [
                "--budget", "--json", "--patch", "--quiet", "--ray", "--remedy",
                "--seeds", "--steps", "--workers", "-o", "target",
            ],
            "run": [
                "--dry-run", "--fail-on", "--guard", "--ignore", "--json", "--name",
                "--no-forensics", "--no-record", "--quiet", "--runs", "--view", "-m", "arguments",
                "script",
            ],
            "check": ["--fail-on", "--ignore", "--json", "--quiet", "-o", "target"],
            "benchmark": ["--json", "--seconds", "target"],
            "report": ["-o", "run"],
            "explain": ["name"],
            "export": ["--force", "-o", "run"],
            "view": ["--host", "--no-browser", "--port", "runs"],
            "watch": ["--fail-on", "--once", "run"],
            "lab": ["--json", "--seed", "-o", "name"],
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
        monkeypatch.setattr("surefoot.cli.shared.known_rules", lambda: ["SF101", "SF102"])
        with pytest.raises(click.BadParameter, match=r"no rule SF999\. Known rules: SF101, SF102"):
            options("--ignore", "SF999", "--ignore", "SF101", script)
        assert options("--ignore", "SF101", "--ignore", "SF102", script).ignore == (
            "SF101",
            "SF102",
        )

    def test_rules_that_cannot_be_asked_for(
        self, script: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("surefoot.cli.shared.known_rules", lambda: [])
        assert options("--ignore", "SF999", script).ignore == ("SF999",)


def fake_modules(monkeypatch: pytest.MonkeyPatch, **modules: dict[str, object]) -> None:
    for name, members in modules.items():
        fake = types.ModuleType(f"surefoot.{name.replace('__', '.')}")
        vars(fake).update(members)
        monkeypatch.setitem(sys.modules, fake.__name__, fake)


class Good:
    """A remedy, as far as `surefoot explain` asks."""

    conflicts: ClassVar = {"residual": "one is enough"}
    defaults: ClassVar = {"std": 0.02}

    def explain(self) -> str:
        return "init.good: helps."

    def code(self) -> str:
        return "for w in weights:\n    w *= 2"


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
            remedies={"TREATMENTS": {"init.good": Good, "clipping.good": Good}},
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

    def test_explain_a_remedy(self) -> None:
        result = CliRunner().invoke(cli, ["explain", "Init.good"])
        assert result.exit_code == 0
        assert result.output == (
            "init.good: helps.\nNot with residual: one is enough.\nParameters: std = 0.02.\n\n"
            "    for w in weights:\n        w *= 2\n"
        )

    @pytest.mark.parametrize(
        ("word", "answer"),
        [
            ("SF9", "Known rules: SF101. Known remedies: clipping.good, init.good."),
            ("sf10", "Did you mean SF101?"),
            ("init.god", "Did you mean init.good?"),
            ("clipping", "Did you mean clipping.good?"),
        ],
    )
    def test_explain_unknown(self, word: str, answer: str) -> None:
        result = CliRunner().invoke(cli, ["explain", word])
        assert result.exit_code == 2
        assert f"no rule or remedy {word!r}. {answer}" in result.output


@pytest.mark.parametrize("name", ["init.kaiming_normal", "clipping.agc"])
def test_explain_prints_the_book(name: str) -> None:
    """The real registries: what the class says of itself, with its code."""
    from surefoot.remedies import TREATMENTS

    result = CliRunner().invoke(cli, ["explain", name])
    assert result.exit_code == 0
    assert result.output.startswith(TREATMENTS[name]().explain())
    assert result.output.endswith(f"    {TREATMENTS[name]().code()}\n")
