"""Take the pictures of README and documentation, opened in Chromium.

`./dev shots` runs the demo, tries its remedies (a minute), and photographs the report, the proof
and the views of the page. `./dev shots page-lab` takes one of them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Headless, offline, and as root inside containers.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
_SIGMOID = "depth=20&activation=sigmoid"


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture: where it is opened, how large, and the figures that must be drawn before."""

    address: str
    height: int = 1500
    width: int = 1280
    scheme: str = "light"
    figures: int = 1


# {page} is the live page's address, {report} and {proof} are files.
SHOTS = {
    "report": Shot("{report}"),
    "proof": Shot("{proof}"),
    "page-run": Shot("{page}run/demo", height=1100, figures=0),
    "page-layer": Shot("{page}run/demo/layer?name=hidden.6", scheme="dark"),
    "page-compare": Shot("{page}compare?run=demo&run=repaired", height=1300, figures=0),
    "page-lab": Shot(f"{{page}}lab?{_SIGMOID}", height=1300),
}


def chromium() -> str:
    """The browser's path; exits with the command that installs one."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit("expected Chromium, found none. On Debian: apt-get install chromium")
    return found


def surefoot(*words: str) -> None:
    """Run a command of surefoot, with its words on the terminal."""
    subprocess.run([sys.executable, "-m", "surefoot", *words], check=True, cwd=ROOT)


def record(runs: Path) -> dict[str, str]:
    """The demo, its proof, and the demo with its patch: (name, address) of report and proof."""
    here, script = runs.parent, Path("examples", "digits_vanishing.py")
    proof, patch = here / "proof.html", here / "fix.patch"
    surefoot("run", "--runs", str(runs), "--name", "demo", str(script))
    words = ("--workers", "2", "-o", str(proof), "--patch", str(patch))
    surefoot("prove", str(runs / "demo"), *words)
    surefoot("report", str(runs / "demo"))  # it knows of the proof now
    (here / script).parent.mkdir()
    shutil.copy(ROOT / script, here / script)
    subprocess.run(["git", "apply", str(patch)], check=True, cwd=here)
    surefoot("run", "--runs", str(runs), "--name", "repaired", str(here / script))
    report = runs / "demo" / "report.html"
    return {"report": report.resolve().as_uri(), "proof": proof.resolve().as_uri()}


@contextmanager
def page(runs: Path) -> Iterator[str]:
    """The address of the page while it is served."""
    words = [sys.executable, "-m", "surefoot", "view", str(runs), "--no-browser", "--port", "0"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


def shoot(shots: dict[str, Shot], places: dict[str, str]) -> None:
    """Take the pictures once their figures are drawn."""
    from playwright.sync_api import sync_playwright

    drawn = "n => document.querySelectorAll('.plotly .main-svg').length >= n"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        for name, shot in shots.items():
            opened = browser.new_page(
                viewport={"width": shot.width, "height": shot.height},
                device_scale_factor=1.5,
                color_scheme="dark" if shot.scheme == "dark" else "light",
            )
            opened.goto(shot.address.format(**places))
            opened.wait_for_function(drawn, arg=shot.figures)
            opened.wait_for_timeout(500)  # fonts and the last layout
            opened.screenshot(path=str(IMAGES / f"{name}.png"))
            opened.close()
            print(IMAGES / f"{name}.png")
        browser.close()


def main(names: list[str]) -> None:
    """Write docs/images/NAME.png of the names given, or of all."""
    if unknown := set(names) - SHOTS.keys():
        raise SystemExit(f"expected some of {', '.join(SHOTS)}; got {', '.join(sorted(unknown))}")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder, "runs")
        files = record(runs)
        with page(runs) as address:
            wanted = {name: SHOTS[name] for name in names or SHOTS}
            shoot(wanted, {"page": address, **files})


if __name__ == "__main__":
    main(sys.argv[1:])
