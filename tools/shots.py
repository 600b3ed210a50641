"""Take the README's picture: the demo's report, opened in Chromium.

`./dev shots [REPORT.html]`; without a report the demo is run first.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "report.png"
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


def demo_report(folder: Path) -> Path:
    """Run the demo with its run folder in `folder`; its HTML report."""
    script = ROOT / "examples" / "digits_vanishing.py"
    command = [sys.executable, "-m", "surefoot", "run", "--runs", str(folder), str(script)]
    subprocess.run(command, check=True)
    return next(folder.rglob("*.html"))


def shoot(report: Path, picture: Path) -> None:
    """One picture of the report's first screens, 1280 pixels wide, once its figures are drawn."""
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
    """Write docs/images/report.png."""
    PICTURE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(sys.argv[1]) if len(sys.argv) > 1 else demo_report(Path(folder))
        shoot(report, PICTURE)
    print(PICTURE)


if __name__ == "__main__":
    main()
