"""Take the README's pictures, opened in Chromium: the demo's report, and the proof of its remedy.

`./dev shots` runs the demo, tries its remedies (a minute), and takes both.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
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


def chromium() -> str:
    """The browser's path; exits with the command that installs one."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit("expected Chromium, found none. On Debian: apt-get install chromium")
    return found


def pages(folder: Path) -> tuple[Path, Path]:
    """Run the demo with its run folder in `folder`, and try its remedies: (report, proof)."""

    def surefoot(*words: str) -> None:
        subprocess.run([sys.executable, "-m", "surefoot", *words], check=True, cwd=ROOT)

    proof = folder / "proof.html"
    surefoot("run", "--runs", str(folder), "--name", "demo", "examples/digits_vanishing.py")
    surefoot("prove", str(folder / "demo"), "--workers", "2", "-o", str(proof))
    surefoot("report", str(folder / "demo"))  # it knows of the proof now
    return folder / "demo" / "report.html", proof


def shoot(report: Path, picture: Path) -> None:
    """One picture of a page's first screens, 1280 pixels wide, once its figures are drawn."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 1500}, device_scale_factor=1.5)
        page.goto(report.resolve().as_uri())
        page.wait_for_function("document.querySelector('.plotly .main-svg') !== null")
        page.wait_for_timeout(500)  # fonts and the last layout
        page.screenshot(path=str(picture))
        browser.close()


def main() -> None:
    """Write docs/images/report.png and docs/images/proof.png."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for page, name in zip(pages(Path(folder)), ("report.png", "proof.png"), strict=True):
            shoot(page, IMAGES / name)
            print(IMAGES / name)


if __name__ == "__main__":
    main()
