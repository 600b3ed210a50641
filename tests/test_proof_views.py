"""A proof in the terminal and as a page: every outcome, hostile words, nothing from the network."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from surefoot.findings import Cause, Finding, Pathology, Remedy, Severity
from surefoot.trial import judgement
from surefoot.trial.effect import Effect, effect
from surefoot.trial.proof import Curve, Outcome, Proof, Trial
from surefoot.views import words
from surefoot.views.proof import badge, print_proof, render_proof, told_of
from views_fixture import HOSTILE, Page

CHROMIUM = "/usr/bin/chromium"
FINDING = Finding(
    "SF101",
    Pathology.VANISHING,
    Cause.SATURATING_ACTIVATION,
    Severity.HARMFUL,
    "Gradients shrink 6.7x a layer from 20 down to 0.",
    layer="layers.20",
    root=True,
)
PATCH = "--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-act = nn.Sigmoid()\n+act = nn.ReLU()\n"


def curve(last: float, steps: int = 40) -> Curve:
    losses = tuple(2.3 + (last - 2.3) * k / steps if math.isfinite(last) else 2.3 for k in range(9))
    return Curve(tuple(range(10)), (*losses, last))


def trial(name: str, value: float, outcome: Outcome, **parameters: Any) -> Trial:
    remedy = Remedy(name, "layers.*", "ReLU lets it through", "nn.ReLU()", parameters=parameters)
    effect = Effect(2.3, 2.3 * value, value, 0.9 * value, 1.1 * value, 3)
    gauges = {"first loss": (2.3, 2.2)}
    return Trial(remedy, outcome, f"times {value}", 40, effect, True, gauges, curve(2.3 * value))


def proven() -> Proof:
    tried = (
        trial("learning_rate.scale", 0.5, Outcome.PROVEN, factor=0.25),
        trial("learning_rate.scale", 0.1, Outcome.PROVEN, factor=0.01),
        trial("activation.relu", 1.0, Outcome.DID_NOT_HELP),
        trial("residual.rezero", 2.0, Outcome.HARMED),
        Trial(Remedy("init.two_way", None, ""), Outcome.REFUSED, "no batch is known"),
    )
    proof = Proof("train.py:build", FINDING, tried, 40, 3, 12.3, curve(2.3), PATCH, surefoot="1")
    return replace(proof, unhelpful=(("clipping.norm", "makes no gradient larger"),))


def nothing_helped() -> Proof:
    return replace(proven(), trials=proven().trials[2:], patch="")


def partial() -> Proof:
    waiting = Trial(Remedy("init.two_way", None, ""), Outcome.UNTRIED, "its turn did not come")
    return replace(nothing_helped(), trials=(waiting,), partial=True)


def hostile() -> Proof:
    text = f"{HOSTILE} [bold red]x[/] [/nope] nan"
    finding = replace(FINDING, sentence=text, layer=text)
    remedy = Remedy(text, text, text, text, parameters={text: math.nan, "list": [1, math.inf]})
    effect = Effect(2.3, 0.1, 0.04, 0.03, 0.05, 3)
    gauges = {text: (1.0, 2.0)}
    one = Trial(remedy, Outcome.PROVEN, text, 40, effect, True, gauges, curve(math.inf))
    return Proof(
        text, finding, (one,), 40, 3, 1.0, curve(math.inf), text, ((text, text),), surefoot=text
    )


PROOFS: dict[str, tuple[Callable[[], Proof], str]] = {
    "proven": (proven, "PROVEN"),
    "pasted": (lambda: replace(proven(), patch=""), "PROVEN"),
    "nothing helped": (nothing_helped, "NOTHING HELPED"),
    "refused": (lambda: replace(nothing_helped(), trials=proven().trials[4:]), "NOTHING HELPED"),
    "partial": (partial, "BROKEN OFF"),
    "healthy": (lambda: Proof("train.py:build", before=curve(0.1)), "NOTHING TO REPAIR"),
    "no result": (lambda: Proof("x:y", partial=True, missing="Broken off."), "NO RESULT"),
    "no remedy": (lambda: Proof("x", FINDING, missing="None in the book."), "NO RESULT"),
    "hostile": (hostile, "PROVEN"),
    "lost": (lambda: Proof("x", FINDING, before=Curve((0, 1), (math.inf,) * 2)), "NOTHING HELPED"),
}


@pytest.fixture(scope="module")
def pages() -> dict[str, tuple[str, Page]]:
    documents = {name: render_proof(make().to_json()) for name, (make, _) in PROOFS.items()}
    return {name: (text, Page(text)) for name, text in documents.items()}


def printed(proof: Proof, width: int = 80, **how: Any) -> str:
    console = Console(width=width, record=True, force_terminal=True, file=StringIO())
    print_proof(proof.to_json(), console=console, **how)
    return console.export_text()


@pytest.mark.parametrize("name", PROOFS)
def test_the_page_is_one_inert_file(name: str, pages: dict[str, tuple[str, Page]]) -> None:
    _, page = pages[name]
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "link", "object", "embed", "form", "base")
        assert not any(a.startswith("on") or a in ("src", "href") for a in attributes)
    payload, *code = page.scripts
    assert len(code) == 2
    assert not {"<", ">", "&"} & set(payload)
    drawn = json.loads(payload, parse_constant=pytest.fail)["figures"]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {f"figure-{one}" for one in drawn} <= set(ids)
    labels = [a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a]
    assert set(labels) <= set(ids)
    (policy,) = [a["content"] or "" for _, a in page.elements if "http-equiv" in a]
    digests = [base64.b64encode(hashlib.sha256(c.encode()).digest()).decode() for c in code]
    assert re.findall(r"'sha256-([^']+)'", policy) == digests
    assert policy.startswith("default-src 'none'; ")


@pytest.mark.parametrize("name", PROOFS)
def test_page_and_terminal_open_on_the_result(
    name: str, pages: dict[str, tuple[str, Page]]
) -> None:
    make, word = PROOFS[name]
    proof = make()
    assert badge(proof.to_json()) == word
    text = " ".join(pages[name][1].text.split())
    assert word in text and words.clean(proof.sentence) in text
    shown = printed(proof, 4000)
    assert word in shown and words.clean(proof.sentence) in shown
    kept = json.loads(proof.dumps(), parse_constant=pytest.fail)
    assert badge(kept) == word and words.clean(proof.sentence) in Page(render_proof(kept)).text


def test_the_better_of_two_of_one_name_wins(pages: dict[str, tuple[str, Page]]) -> None:
    proof = proven()
    assert proof.winner is proof.trials[1]
    assert [t["won"] for t in proof.to_json()["trials"]] == [False, True, False, False, False]
    assert proof.sentence.startswith("learning_rate.scale (factor 0.01) is proven: times 0.1")
    names = [trace.name for trace in proof.figure().data]
    assert names[-1].endswith("scale (factor 0.01)") and len(names) == 5
    found = proof.proven(Remedy("learning_rate.scale", "layers.*", "", parameters={"factor": 0.25}))
    assert found.proof is not None and found.proof["value"] == 0.5
    other = Remedy("learning_rate.scale", "layers.*", "", parameters={"factor": 0.5})
    assert proof.proven(other) is other


def test_the_patch_or_the_code_to_paste() -> None:
    shown = printed(proven(), page="p.html")
    assert "+act = nn.ReLU()" in shown and "Page: p.html" in shown
    assert "    nn.ReLU()" not in shown
    assert "    nn.ReLU()" in printed(PROOFS["pasted"][0]())
    page = Page(render_proof(PROOFS["pasted"][0]().to_json())).text
    assert "could not be located" in page and "nn.ReLU()" in page


def test_a_loss_that_was_never_finite_is_shown_as_such() -> None:
    lost = effect([math.inf] * 2, [0.1] * 2, [math.inf] * 2)
    one = trial("activation.relu", 1.0, Outcome.PROVEN)
    told = judgement.words(lost, "the finding is gone", 2)
    proof = replace(proven(), trials=(replace(one, effect=lost, words=told),))
    for text in (Page(render_proof(proof.to_json())).text, printed(proof, 4000)):
        assert "loss never finite without it, 0.1 with it" in " ".join(text.split())
        assert "e+30" not in text
    (kept,) = json.loads(proof.dumps())["trials"]
    assert kept["effect"]["before"] == 1e30  # the contract has numbers there


def test_no_more_is_shown_than_any_proof_has() -> None:
    """A stranger's file of eight megabytes holds tens of thousands of trials."""
    many = [trial("learning_rate.scale", 0.5, Outcome.HARMED, factor=k / 7) for k in range(500)]
    proof = replace(proven(), trials=tuple(many), unhelpful=(("clipping.norm", "why"),) * 500)
    told = told_of(proof.to_json())
    assert len(told["trials"]) == len(told["unhelpful"]) == 200
    assert len(told["drawn"]["paired"]["data"]) == 201
    assert "And 600 more." in Page(render_proof(proof.to_json())).text
    assert "more." not in Page(render_proof(proven().to_json())).text


def test_what_was_not_tried_is_said(pages: dict[str, tuple[str, Page]]) -> None:
    for text in (pages["proven"][1].text, printed(proven(), 200)):
        assert "Not tried: clipping.norm makes no gradient larger." in text
        assert "no batch is known" in text.lower()
    assert "so far" in partial().sentence or "has been tried" in partial().sentence
    assert "was done by then" in pages["partial"][1].text
    assert "was done by then" not in pages["no result"][1].text


def test_hostile_words_are_only_words(pages: dict[str, tuple[str, Page]]) -> None:
    document, page = pages["hostile"]
    shown = printed(hostile(), 100)
    for text in (document, shown):
        assert "\x1b[31m" not in text and "\u202e" not in text
    assert words.clean(HOSTILE) in page.text and "{{7*7}}" in page.text
    assert "[bold red]x[/] [/nope]" in page.text and "[/nope]" in shown


def test_a_lost_loss_is_a_gap() -> None:
    figure = replace(nothing_helped(), before=curve(math.inf)).figure()
    assert figure.data[0].y[-1] is None and figure.data[0].y[0] == pytest.approx(2.3)
    rows = Proof("x", before=curve(math.inf)).to_json()["before"]
    assert rows[-1] == [9, "inf"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not shutil.which(CHROMIUM):
        pytest.skip(f"no Chromium at {CHROMIUM}")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "scheme", "width"),
    [("proven", "dark", 1280), ("hostile", "light", 390), ("no result", "dark", 390)],
)
def test_the_page_works_in_chromium(
    browser: Any,
    pages: dict[str, tuple[str, Page]],
    tmp_path: Path,
    name: str,
    scheme: str,
    width: int,
) -> None:
    path = tmp_path / "proof.html"
    path.write_text(pages[name][0], encoding="utf-8")
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: (trouble.append("dialog"), dialog.dismiss()))
    page.on("request", lambda r: trouble.append(r.url) if "file:" not in r.url[:5] else None)
    page.on("request", lambda r: trouble.remove(r.url) if r.url.startswith("data:") else None)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn]")
    assert not trouble
    assert (page.locator(".plot .main-svg").count() > 0) is (name != "no result")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_a_loss_of_nought_and_a_ratio_are_compared_by_what_is_left() -> None:
    """One has a difference (-1.8), the other a ratio (0.01): neither number beats the other."""
    worse = Effect(2.3, 0.5, -1.8, -2.0, -1.6, 3, ratio=False)
    better = Effect(2.3, 0.023, 0.01, 0.009, 0.011, 3)
    trials = tuple(
        Trial(Remedy(name, None, ""), Outcome.PROVEN, "", 40, effect, True, {}, curve(1.0))
        for name, effect in (("clipping.norm", worse), ("learning_rate.scale", better))
    )
    winner = Proof("train.py", trials=trials).winner
    assert winner is not None and winner.remedy.remedy == "learning_rate.scale"
