"""The report in a real browser with the network cut: it draws, answers, fits, and runs nothing."""

import io
import shutil
from contextlib import contextmanager

import altair as alt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from emolens import figures
from emolens.report import Exhibit, Section, TokenView, write_report

sync_api = pytest.importorskip("playwright.sync_api")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is here")

PATIENCE = 120_000  # milliseconds; drawing 171 x 171 cells takes one or two on a free core
EVIL = (
    "<script>window.__owned=1</script><img src=x onerror=window.__owned=2>"
    "</script><script>alert(3)</script><!--<script>{{7*7}}${alert(4)}"
    "'+alert(5)+'\"};alert(6)//\x00\x1b\u202egnp.\u2066\u2028javascript:alert(7)"
)
EMOTIONS = [f"emotion {i}" for i in range(171)]


def cosines(names, layers):
    rows = [
        (layer, a, b, np.cos((i - j) * (layer + 1) / 9))
        for layer in layers
        for i, a in enumerate(names)
        for j, b in enumerate(names)
    ]
    return pd.DataFrame(rows, columns=["layer", "emotion", "other", "cosine"])


def text_view(caption, tokens, names):
    return TokenView(caption, tokens, torch.randn(len(tokens), len(names)), names)


def hostile():
    table = pd.DataFrame({"word": [EVIL, "calm"], "x": [0.1, 0.9], "y": [1.0, 2.0], EVIL: [1, 2]})
    expression = (
        alt.Chart(table)
        .mark_text()
        .encode(alt.Text("word:N"), alt.X("x:Q", title=EVIL), tooltip=["word:N"])
    )
    expression = expression.transform_filter(f"datum.word != {EVIL!r}")
    return Section(
        EVIL,
        EVIL,
        [
            Exhibit(EVIL, figures.scatter(table, x="x", y="y", label="word"), table, EVIL),
            Exhibit(EVIL, expression, tokens=[text_view(EVIL, [EVIL, "<b", "&lt;", "\n"], [EVIL])]),
            Exhibit(
                EVIL,
                figures.grid(
                    cosines([EVIL, "a"], [0]),
                    row="emotion",
                    column="other",
                    value="cosine",
                    note=EVIL,
                ),
            ),
        ],
        verdict=EVIL,
        details={EVIL: EVIL},
        not_applicable=EVIL,
    )


def sections():
    square = {"row": "emotion", "column": "other", "value": "cosine"}
    rates = pd.DataFrame({"way": ["steered", "random"], "p": [0.7, 0.2], "layer": [0, 1]})
    tokens = [" the", " deadline", " passed", "\n", "<|end|>", " <b>x</b>"] * 30
    names = ["desperate", "calm", "angry", "sad"]
    yield Section(
        "Steering",
        exhibits=[
            Exhibit(
                "By layer", figures.grid(cosines(EMOTIONS[:6], range(6)), **square, slider="layer")
            ),
            Exhibit("Rates", figures.bars(rates, name="way", value="p"), rates, "rates"),
            Exhibit("Points", figures.scatter(rates, x="layer", y="p", label="way")),
            Exhibit("Curve", figures.lines(rates.assign(way="a"), x="layer", y="p", name="way")),
        ],
        verdict="direction only",
        details={"inputs": "stories"},
        name="steering",
    )
    yield Section(
        "Texts",
        exhibits=[Exhibit(tokens=[text_view(f"text {i}", tokens, names) for i in range(20)])],
    )
    yield hostile()
    yield Section(
        "All", exhibits=[Exhibit("All pairs", figures.grid(cosines(EMOTIONS, [0]), **square))]
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("report") / "report.html"
    summary = pd.DataFrame(
        {
            "experiment": ["steering", EVIL],
            "verdict": ["direction only", EVIL],
            "found": [0.31, None],
        }
    )
    facts = {"model": EVIL, "seed": "0"}
    write_report(path, title=EVIL, facts=facts, sections=list(sections()), summary=summary)
    return path


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        opened = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield opened
        opened.close()


@contextmanager
def opened(browser, report, **options):
    """The page, drawn, with everything that it tried beside drawing."""
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    tried: list[str] = []

    def judge(route):
        if route.request.url == report.as_uri():
            route.continue_()
        else:
            tried.append(f"request {route.request.url}")
            route.abort()

    context.route("**/*", judge)
    context.set_offline(True)
    page = context.new_page()
    page.on("console", lambda m: tried.append(f"{m.type} {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: tried.append(f"exception {error}"))
    page.on("dialog", lambda dialog: (tried.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.goto(report.as_uri())
    page.wait_for_selector("html[data-drawn=all]", state="attached")
    yield page, tried
    context.close()


@pytest.fixture(scope="module")
def desktop(browser, report):
    with opened(browser, report, viewport={"width": 1100, "height": 900}) as (page, tried):
        yield page, tried


@pytest.fixture(scope="module")
def phone(browser, report):
    size = {"width": 360, "height": 700}
    with opened(browser, report, viewport=size, color_scheme="dark") as (page, tried):
        yield page, tried


def colours(element):
    shot = Image.open(io.BytesIO(element.screenshot()))
    return len(shot.convert("RGB").getcolors(maxcolors=1 << 24))


def test_it_is_small_enough_to_send(report):
    assert report.stat().st_size < 15e6


def test_every_chart_and_text_is_drawn(desktop):
    page, _ = desktop
    charts, texts = (page.query_selector_all(f".{kind}") for kind in ("chart", "tokens"))
    assert (len(charts), len(texts)) == (8, 21)
    for box in (*charts, *texts):
        assert colours(box) > 10, box.get_attribute("id")


def test_hovering_over_the_large_map_tells_both_names_and_the_value(desktop):
    page, _ = desktop
    canvas = page.locator("#chart-4-1 canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 300)
    page.mouse.move(box["x"] + 202, box["y"] + 302)
    told = page.locator("#vg-tooltip-element.visible").inner_text().split()
    assert [told[i] for i in (0, 3, 6)] == ["emotion", "other", "cosine"]
    row, column = int(told[2]), int(told[5])
    assert row > column
    assert float(told[7].replace("\u2212", "-")) == pytest.approx(
        np.cos((row - column) / 9), abs=1e-3
    )


def test_the_slider_changes_the_picture(desktop):
    page, _ = desktop
    picture, slider = page.locator("#chart-1-1 svg"), page.locator("#chart-1-1 input[type=range]")
    before = picture.screenshot()
    assert slider.input_value() == "3"
    slider.focus()
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelector('#chart-1-1 input').value === '0'")
    page.wait_for_timeout(200)
    assert picture.screenshot() != before


def test_another_value_of_a_text_can_be_chosen_by_keyboard(desktop):
    page, _ = desktop
    text = page.locator("#tokens-2-1-1")
    before = text.locator(".colored-tokens").screenshot()
    text.get_by_role("button", name="calm").focus()
    page.keyboard.press("Enter")
    page.wait_for_timeout(200)
    assert text.locator(".colored-tokens").screenshot() != before


def test_a_text_is_there_without_javascript(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator(".strip").first.inner_text().startswith(" the deadline passed")
    assert colours(page.locator(".strip").first) > 10
    context.close()


def test_tab_reaches_the_links_of_the_summary(desktop):
    page, _ = desktop
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.mouse.click(2, 2)
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.getAttribute('href')"))
    assert reached[0] == "#content"
    assert "#part-1" in reached
    ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert ring == "solid"


def test_the_page_never_scrolls_sideways(phone, desktop):
    for (page, _), width in ((phone, 360), (desktop, 1100)):
        page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        wide = page.locator("#chart-4-1").evaluate("box => box.scrollWidth > box.clientWidth")
        assert wide == (width == 360)  # it does so inside its box


def test_in_the_dark_the_page_and_its_pictures_are_dark(phone):
    page, _ = phone
    for box in ("header", "#chart-1-2 svg", "#tokens-2-1-1 .colored-tokens"):
        shot = Image.open(io.BytesIO(page.locator(box).screenshot())).convert("RGB")
        assert max(shot.getpixel((3, 3))) < 60, box
        assert len(shot.getcolors(maxcolors=1 << 24)) > 10, box


def test_what_a_model_wrote_runs_nothing_and_nothing_is_fetched(desktop):
    page, tried = desktop
    for box in page.query_selector_all("#part-3 .chart, #part-3 .colored-tokens > span"):
        box.hover(force=True)
    assert page.evaluate("window.__owned") is None
    assert page.locator("main img, main iframe, main b").count() == 0
    assert page.locator("#part-3 h2").inner_text().startswith("<script>window.__owned=1</script>")
    assert "{{7*7}}" in page.locator("#part-3 h2").inner_text()
    assert "\u202e" not in page.content()
    assert tried == []
