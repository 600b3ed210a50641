"""How `surefoot run` tells of its progress at a real terminal, and leaves the script's words be."""

from __future__ import annotations

import re
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli_fixture import FAKES, Stage
from surefoot.findings import Cause, Finding, Pathology, Severity
from surefoot.progress import Progress, remark, title
from surefoot.voice import Voice
from terminal_fixture import REMARK, TITLE, Terminal

RUN = ("-m", "surefoot", "run")
# Trains for about SECONDS; its own output has a bar, colours, a partial line and both streams.
TRAINS = """
import os, sys, time, torch
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
sgd = torch.optim.SGD(model.parameters(), lr=0.01)
print("begin\\x1b[32m green \\x1b[0m", end="", flush=True)
print("a" * 200, file=sys.stderr)
for step in range(90):
    x = torch.randn(8, 4)
    sgd.zero_grad()
    (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
    sgd.step()
    print(f"\\r{step:3d}%|{'#' * (step // 5):20s}| \\u00e9", end="", file=sys.stderr, flush=True)
    time.sleep(0.02)
print("\\nend")
"""


def python(folder: Path, source: str) -> bytes:
    """What the script writes to a terminal under python alone."""
    (folder / "train.py").write_text(source)
    with Terminal(folder, "train.py") as terminal:
        assert terminal.end() == 0
    return terminal.seen


def without_ours(seen: bytes) -> bytes:
    return TITLE.sub(b"", REMARK.sub(b"", seen))


def finding(rule: str = "SF301", **changes: Any) -> Finding:
    facts: dict[str, Any] = {
        "pathology": Pathology.EXPLODING, "cause": Cause.LEARNING_RATE_TOO_HIGH,
        "severity": Severity.FATAL, "sentence": "x", "first_step": 312, "layer": "encoder.4",
    }  # fmt: skip
    return Finding(rule, **{**facts, **changes})


class TestTerminal:
    """With a terminal, a real training and the real session."""

    def test_title_comes_and_goes_and_nothing_else_is_touched(self, tmp_path: Path) -> None:
        expected = python(tmp_path, TRAINS)
        begun = time.monotonic()
        with Terminal(tmp_path, *RUN, "--name", "a", "train.py") as terminal:
            status = terminal.end()
        took = time.monotonic() - begun
        training, end, verdict = terminal.seen.partition(b"\nend\n")
        titles = TITLE.findall(terminal.seen)
        assert status == 0
        assert b"HEALTHY" in verdict or b"INCONCLUSIVE" in verdict
        assert without_ours(training + end) == expected
        assert re.fullmatch(
            rb"\x1b\[22;0t\x1b\]0;surefoot: step \d+ - loss [\d.e-]+( - healthy so far)?\x07",
            titles[0],
        )
        assert titles[-1] == b"\x1b[23;0t"
        assert terminal.seen.count(b"\x1b[22;0t") == terminal.seen.count(b"\x1b[23;0t") == 1
        # 90 steps of 20 ms and more: about four titles, and never more than two a second.
        assert 2 <= len(titles) - 1 <= 2 * took
        steps = [int(re.findall(rb"step (\d+)", words)[0]) for words in titles[:-1]]
        assert steps == sorted(steps)
        assert 0 < steps[0] <= steps[-1] <= 90

    @pytest.mark.zoo
    def test_ctrl_c_gives_the_title_back(self, tmp_path: Path) -> None:
        (tmp_path / "train.py").write_text(TRAINS.replace("range(90)", "range(10**9)"))
        ended = []  # what torch has loaded decides whether python dies of the signal or ends with 1
        for words, seen in ((), b" 9%|"), (RUN, b"\x1b]0;surefoot: step"):
            with Terminal(tmp_path, *words, "train.py") as terminal:
                terminal.until(seen)
                terminal.press(b"\x03")
                ended.append(terminal.end())
        assert ended[0] == ended[1] and ended[0] in (1, -signal.SIGINT)
        before, pop, after = terminal.seen.partition(b"\x1b[23;0t")
        assert b"KeyboardInterrupt" in before
        assert pop
        assert not TITLE.findall(after)
        assert b"watched" in after

    def test_what_goes_wrong_is_said_once(self, tmp_path: Path) -> None:
        """A rate far too high: a line of its own behind the bar, and the title says it too."""
        source = TRAINS.replace("lr=0.01", "lr=3.0").replace(
            "for step",
            "from surefoot.watching.interim import Interim\n"
            "Interim.now_and_then = Interim.look  # at every step\nfor step",
        )
        (tmp_path / "train.py").write_text(source)
        with Terminal(tmp_path, *RUN, "--name", "a", "train.py") as terminal:
            assert terminal.end() == 0
        training, _, verdict = terminal.seen.partition(b"\nend\n")
        lines = REMARK.findall(training)[1:]
        assert 1 <= len(lines) <= 5
        for line in lines:
            assert re.search(
                rb"surefoot: step \d+: [a-zA-Z ]+.*\(.+\); surefoot watch runs/a\n", line
            )
        assert b"(learning rate too high)" in b"".join(lines)
        assert re.search(rb"\x1b\]0;surefoot: step \d+ - loss \S+ - [a-zA-Z ]{8,}\x07", training)
        assert b"healthy so far\x07" not in training.partition(b"learning rate too high")[2]
        assert b"UNSTABLE" in verdict


class TestAround:
    """What is trained is faked: a session of three steps, beside whatever the script does."""

    @pytest.fixture
    def stage(self, tmp_path: Path) -> Stage:
        (tmp_path / "work").mkdir()
        stage = Stage(tmp_path / "work")
        seen = (
            "self.trainings = [types.SimpleNamespace(step=3, loss=1.5)]\n"
            "        self.interim = types.SimpleNamespace(standing=())\n        "
        )
        place = "self.problem = WISH"
        assert place in FAKES
        (tmp_path / "fakes.py").write_text(FAKES.replace(place, seen + place))
        return stage

    def run(self, stage: Stage, source: str, *options: str, **environment: str | None) -> Any:
        """(exit status, all that was seen) of a script that ends after a second."""
        words = ("../fakes.py", "run", *options, stage.script(source))
        wish = {"WISH": stage.environment()["WISH"]}
        with Terminal(stage.folder, *words, **wish, **environment) as terminal:
            return terminal.end(), terminal.seen

    LASTS = "import sys, time, torch\nprint('begun', flush=True)\ntime.sleep(0.8)\n"
    OURS = b"\x1b[22;0t\x1b]0;surefoot: step 3 - loss 1.50 - healthy so far\x07"

    def test_first_words_say_where_it_is_kept(self, stage: Stage) -> None:
        source = "print('a', flush=True)\nimport torch\nprint('b')"
        _, seen = self.run(stage, source, "--name", "my run")
        line = b"recording to runs/my run; follow it with: surefoot watch 'runs/my run'\n"
        begin = b"a\n" + b" " * 100 + b"\rsurefoot: " + line + b"b\n"
        assert seen.startswith(begin)

    def test_without_a_record_there_is_nothing_to_follow(self, stage: Stage) -> None:
        _, seen = self.run(stage, self.LASTS, "--no-record")
        assert seen == b"begun\n" + self.OURS + b"\x1b[23;0tVERDICT healthy \n"

    @pytest.mark.parametrize(
        ("options", "environment"),
        [(["--quiet"], {}), ([], {"TERM": "dumb"}), ([], {"TERM": None}), ([], {"TERM": "linux"})],
    )
    def test_no_title_where_none_is_wanted_or_known(
        self, stage: Stage, options: list[str], environment: dict[str, str | None]
    ) -> None:
        status, seen = self.run(stage, self.LASTS, *options, **environment)
        first = b"surefoot: recording to runs/train; follow it with: surefoot watch runs/train\n"
        expected = b"begun\n" if options else first + b"begun\nVERDICT healthy \n"
        assert status == 0
        assert re.sub(rb"(?m)^(/|Report|Run folder).*\n", b"", seen) == expected

    @pytest.mark.parametrize(
        ("last", "status"), [("1 / 0", 1), ("sys.exit(7)", 7), ("raise KeyboardInterrupt", -2)]
    )
    def test_title_is_given_back_however_it_ends(
        self, stage: Stage, last: str, status: int
    ) -> None:
        got, seen = self.run(stage, self.LASTS + last)
        assert got == status
        assert self.OURS in seen
        assert b"\x1b[23;0tVERDICT" in seen
        assert seen.count(b"\x1b]0;") == seen.count(b"\x1b[23;0t") == 1

    def test_forked_child_writes_nothing(self, stage: Stage) -> None:
        """It is there for two titles after the fork, and ends as python would end it."""
        fork = "import os\nif not os.fork():\n    time.sleep(1.2)\n    print('CHILD')\n"
        _, seen = self.run(stage, f"{self.LASTS}{fork}else:\n    os.wait()\n    print('PARENT')")
        rest = seen.partition(self.OURS)[2]
        assert rest == b"CHILD\nPARENT\n\x1b[23;0tVERDICT healthy \n"

    def test_job_in_the_background_is_not_stopped_for_a_title(self, stage: Stage) -> None:
        """Under `stty tostop` a word of ours would stop a script that says none itself."""
        script = stage.script("import os, time, torch\ntime.sleep(0.8)\nos._exit(9)")
        words = (
            "import subprocess, sys, termios; state = termios.tcgetattr(2); "
            "state[3] |= termios.TOSTOP; termios.tcsetattr(2, termios.TCSANOW, state); "
            "job = subprocess.Popen([sys.executable, *sys.argv[1:]], process_group=0); "
            "print(job.wait(20), flush=True)"
        )
        run = ("../fakes.py", "run", script)
        with Terminal(stage.folder, "-c", words, *run, WISH=stage.environment()["WISH"]) as seen:
            assert seen.end() == 0
        assert seen.seen == b"9\n"

    def test_script_that_closes_stderr(self, stage: Stage) -> None:
        """A file that is given its numbers gets no title either."""
        source = (
            "import os, torch, time\nos.closerange(2, 64)\n"
            "mine = [os.open('data', os.O_CREAT | os.O_WRONLY) for _ in range(60)]\n"
            "time.sleep(0.8)"
        )
        status, seen = self.run(stage, source)
        assert status == 0
        assert b"\x1b" not in seen
        assert (stage.folder / "data").read_bytes() == b""

    def test_stderr_that_is_no_terminal_gets_no_word(self, stage: Stage) -> None:
        """Though standard output is one, which stays the script's alone."""
        words = (
            "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '../fakes.py', "
            f"'run', '{stage.script(self.LASTS)}'], stderr=open('log', 'w')))"
        )
        with Terminal(stage.folder, "-c", words, WISH=stage.environment()["WISH"]) as terminal:
            assert terminal.end() == 0
        assert terminal.seen == b"begun\n"
        assert (stage.folder / "log").read_bytes() == b"VERDICT healthy \n"


class Deaf(Voice):
    """A terminal that keeps what it is told."""

    def __init__(self) -> None:
        self.terminal = self.titled = True
        self.told: list[str] = []
        self.front = True

    def write(self, text: str) -> None:
        self.told.append(text)

    def in_front(self) -> bool:
        return self.front

    def interject(self, sentence: str) -> None:
        self.told.append(sentence)


def session(step: int = 1, loss: float | None = 1.0, **interim: Any) -> Any:
    training = SimpleNamespace(step=step, loss=loss)
    return SimpleNamespace(
        trainings=[training],
        interim=SimpleNamespace(**{"standing": None, "asked": False, **interim}),
    )


class TestProgress:
    """What is said when, without a terminal."""

    def looks(self, progress: Progress, times: int = 1) -> None:
        for _ in range(times):
            progress._look()

    def test_a_rule_is_said_once_a_symptom_never_and_five_at_most(self) -> None:
        found = [finding(f"SF{k}", first_step=k) for k in range(101, 109)]
        found.insert(0, finding("SF201", follows="SF101"))
        voice = Deaf()
        self.looks(Progress(voice, session(standing=tuple(found))), 3)
        said = [words for words in voice.told if not words.startswith("\x1b")]
        assert said == [remark(one) for one in found[1:6]]

    def test_unchanged_title_is_not_written_again(self) -> None:
        voice = Deaf()
        self.looks(Progress(voice, session()), 3)
        assert voice.told == ["\x1b[22;0t\x1b]0;surefoot: step 1 - loss 1\x07"]

    def test_background_job_holds_its_words_back(self) -> None:
        voice = Deaf()
        progress = Progress(voice, session(standing=(finding(),)))
        voice.front = False
        self.looks(progress)
        assert voice.told == []
        voice.front = True
        self.looks(progress)
        assert len(voice.told) == 2

    def test_of_several_trainings_the_one_with_most_steps(self) -> None:
        voice, both = Deaf(), session()
        both.trainings.append(SimpleNamespace(step=70, loss=0.5))
        self.looks(Progress(voice, both))
        assert "step 70 - loss 0.500" in voice.told[0]

    def test_leaves_no_thread_and_stops_twice(self) -> None:
        voice = Deaf()
        progress = Progress(voice, session())
        progress.stop()  # before it began
        progress.start()
        assert any(t.name == "surefoot-progress" and t.daemon for t in threading.enumerate())
        end = time.monotonic() + 20
        while not voice.told and time.monotonic() < end:
            time.sleep(0.02)
        progress.stop()
        progress.stop()
        assert not any(t.name == "surefoot-progress" for t in threading.enumerate())
        assert voice.told[-1] == "\x1b[23;0t"
        assert voice.told.count("\x1b[23;0t") == 1

    @pytest.mark.parametrize("broken", [SimpleNamespace(), session(step="x"), session(loss="\x1b")])  # type: ignore[arg-type]
    def test_never_raises(self, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("surefoot.progress._EVERY", 0.0)
        voice = Deaf()
        progress = Progress(voice, broken)
        progress.start()
        time.sleep(0.05)
        progress.stop()
        assert not any("\x1b]0;" in words and "\x1b" in words[16:] for words in voice.told)

    def test_nothing_in_a_name_ends_the_line_or_begins_an_escape(self) -> None:
        hostile = finding(layer="a\x07b\x1b]0;c\x9d\u202e\nd" + "e" * 300)
        words = remark(hostile, "surefoot watch runs/a")
        assert words.isprintable()
        assert len(words) < 160
        assert words.endswith("(learning rate too high); surefoot watch runs/a")

    def test_words(self) -> None:
        assert remark(finding()) == (
            "step 312: exploding gradients, starting at encoder.4 (learning rate too high)"
        )
        assert remark(finding(layer=None, first_step=4000), "see") == (
            "step 4,000: exploding gradients (learning rate too high); see"
        )
        worst = (finding(severity=Severity.HARMFUL), finding(pathology=Pathology.NONFINITE))
        assert title(12, float("nan"), worst) == (
            "surefoot: step 12 - loss NaN - NaN or infinite values"
        )
