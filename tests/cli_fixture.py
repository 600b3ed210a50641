"""What the tests of the command line share: a stage on which all but the run itself is faked.

What is watched and how it is shown is faked (`FAKES`): these tests are about the order of things,
the exit status, and that no failure of surefoot's own reaches the script. Even torch is a file of
a few lines beside the script, so that a process costs a fifth of a second.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from surefoot.findings import Cause, Finding, Pathology, Report, Severity

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
    def __init__(self, *, folder, ignore=(), environment=None, forensics=True, guard=False):
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
