"""Rules and remedies on the page: all of them are there, and what they link to as well."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from page_fixture import SHOWN, Site, links, record, shelf
from surefoot.diagnosis import RULES
from surefoot.page.book import rendered, sightings
from surefoot.record import list_runs
from surefoot.remedies import TREATMENTS
from views_fixture import (
    HOSTILE,
    Page,
    deep,
    one_step,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return shelf(tmp_path_factory.mktemp("runs"))


def test_the_index_has_every_rule_and_remedy_once(site: Site) -> None:
    page = site.ask("/rules")
    found = [str(a["href"]) for a in page.every("a") if "data-line" in a]
    rules = [f"/rule/{name}" for name in sorted(RULES)]
    assert found == rules + [f"/remedy/{name}" for name in TREATMENTS]
    assert [f for f in page.every("input") if "data-filter" in f]
    assert all(rule.title in page.text for rule in RULES.values())


@pytest.mark.parametrize("name", RULES)
def test_a_rule_page_leads_to_what_is_there(site: Site, name: str) -> None:
    page = site.ask(f"/rule/{name}")
    assert [tag for tag, _ in page.elements].count("h1") == 1
    assert f"{name}: {RULES[name].title}" in page.text
    assert "**" not in page.text
    for link in links(page):
        kind, _, known = link.lstrip("/").partition("/")
        if kind == "rule":
            assert known in RULES
        elif kind == "remedy":
            assert known in TREATMENTS
    assert RULES[name].page.split()[0] in page.text
    assert "Thresholds, and where they come from" in page.text or (
        "**Thresholds.**" not in RULES[name].page
    )


@pytest.mark.parametrize("name", TREATMENTS)
def test_a_remedy_page_keeps_what_its_definition_says(site: Site, name: str) -> None:
    page = site.ask(f"/remedy/{name}")
    kind = TREATMENTS[name]
    said = " ".join(page.text.split()).lower().replace("`", "")
    for part in (kind.guarantee, kind.source, kind.cost, *kind.limits, *kind.conflicts.values()):
        assert " ".join(part.split()).lower().replace("`", "") in said
    assert kind().code().split("\n")[0].strip().lower() in page.text.lower()
    assert all(key in page.text for key in kind.defaults)


def test_markdown_makes_no_elements_of_its_own() -> None:
    text = "# One\n\n## Two\n\n<script>alert(1)</script> and <b>\n\n[x](javascript:alert(1))"
    page = Page(str(rendered(text, "")))
    assert [tag for tag, _ in page.elements if tag != "p"] == ["h2", "h3"]
    assert not page.scripts


def test_names_become_links_outside_of_links_only() -> None:
    made = str(rendered("SF102, SF101, SF999, `init.lsuv`, no.name, [see SF102](/rules)", "SF101"))
    assert [a["href"] for a in Page(made).every("a")] == [
        "/rule/SF102",
        "/remedy/init.lsuv",
        "/rules",
    ]
    assert "SF101, SF999," in made
    assert '<a href="/remedy/init.lsuv"><code>init.lsuv</code></a>' in made
    folded = str(rendered("**Thresholds.** Of SF102.\n\nMore.", ""))
    assert folded.index("</details>") < folded.index("More.")
    assert folded.index("<details>") < folded.index("/rule/SF102") < folded.index("</details>")


def test_what_is_not_in_the_book_is_404_with_its_neighbours(site: Site) -> None:
    near = [link for link in links(site.ask("/rule/sf10", 404)) if link.startswith("/rule/")]
    assert near == ["/rule/SF101", "/rule/SF102", "/rule/SF103"]
    assert "/remedy/init.lsuv" in links(site.ask("/remedy/init.lsv", 404))
    assert "/rules" in links(site.ask("/rule/" + quote(HOSTILE, safe=""), 404))
    site.ask("/remedy/" + "x" * 5000, 404)


def test_a_rule_page_names_the_runs_that_broke_it(site: Site) -> None:
    page = site.ask("/rule/SF101")
    runs = [str(a["href"]) for a in page.every("a") if "data-line" in a]
    assert runs == [
        "/run/same#finding-1",
        "/run/one_step#finding-1",
        "/run/long_names#finding-1",
        "/run/vanishing#finding-1",
    ]
    assert "/run/vanishing#finding-2" in links(site.ask("/rule/SF301"))
    assert "In none of the runs here" in site.ask("/rule/SF103").text


def test_runs_that_broke_a_rule_are_bounded_and_may_be_broken(tmp_path: Path) -> None:
    for k in range(23):
        record(one_step(), tmp_path / f"run-{k:02}")
    runs = list_runs(tmp_path)
    found = sightings(runs, "SF101")
    assert [one.run.name for one in found] == [f"run-{k:02}" for k in range(22, 2, -1)]
    (tmp_path / "run-22" / "run.json").write_text("[]")
    (tmp_path / "run-21" / "run.json").write_text('{"schema": 1, "findings": [{"rule": 3}]}')
    (tmp_path / "run-20" / "run.json").unlink()
    found = sightings(runs, "SF101")
    assert [one.run.name for one in found] == [f"run-{k:02}" for k in range(19, -1, -1)]
    (tmp_path / "run-19" / "run.json").write_bytes(b" " * (17 << 20))
    assert sightings(runs, "SF101") == []


def test_every_fixture_has_its_pages(site: Site) -> None:
    assert len(deep().layers.layers) == 1000
    for name in (*SHOWN, "same"):
        assert site.client.get(f"/run/{name}/layer?name=").status_code == 200
        assert site.client.get(f"/run/{name}/layers").status_code == 200
