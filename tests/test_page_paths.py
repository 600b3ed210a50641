"""No address leads out of the folder of runs, nor out of that of the page's own files."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from page_fixture import record
from served_fixture import get, served
from served_fixture import port as port
from served_fixture import runs as runs
from surefoot.page.app import create
from views_fixture import Page, one_step

NAMES = [
    "%2e%2e",
    "..",
    "%2e",
    "..%2f..%2fetc",
    "%2fetc%2fpasswd",
    "..%5c..%5cetc",
    "a%20run%00",
    "%00",
    "a%20run%2f.",
    ".%2fa%20run",
    "%ff%fe",
    "%ed%a0%80",
    "%25%32%65%25%32%65",
    "a" * 5000,
    quote("日" * 300),
    "con",
    "a run:stream",
    "~",
    "$HOME",
    "*",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_the_folder(port: int, name: str) -> None:
    for rest in ("", "/summary", "/figures.json?name=depth", "/events", "/layer", "/layer.json"):
        address = f"/run/{name}{rest}"
        assert get(port, address.replace(" ", "%20").encode()) in (200, 404), rest


def test_the_folder_above_is_not_a_run_of_this_folder(tmp_path: Path) -> None:
    record(one_step(), tmp_path / "above")
    inner = tmp_path / "above" / "runs"
    record(one_step(), inner / "one")
    with served(create(inner)) as port:
        assert get(port, b"/run/one") == 200
        assert get(port, b"/run/%2e%2e") == 404
        assert get(port, b"/run/..") == 404
        assert get(port, b"/run/one%2f..%2f..") == 404


def test_a_single_run_has_no_neighbours(runs: Path) -> None:
    client = TestClient(create(runs / "hostile"), base_url="http://localhost")
    assert client.get("/run/hostile").status_code == 200
    assert client.get("/run/a%20run").status_code == 404
    assert "a run" not in Page(client.get("/").text).text


@pytest.mark.parametrize(
    "path",
    [b"/static/../access.py", b"/static/..%2faccess.py", b"/static/%2e%2e/access.py",
     b"/static/..%5caccess.py", b"/static//etc/passwd", b"/static/%2fetc%2fpasswd",
     b"/static/....//access.py", b"/static/page.css%00", b"/static/" + b"a" * 5000, b"/static/\xff",
     b"/static/.", b"/static/../templates/base.html.j2"],
)  # fmt: skip
def test_static_files_are_those_of_one_folder(port: int, path: bytes) -> None:
    assert get(port, path) in (404, 400)
