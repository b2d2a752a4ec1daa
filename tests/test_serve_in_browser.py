"""The server's page in a real browser: a conversation, seen and steered, and nothing else runs."""

import io
import json
import shutil
from contextlib import contextmanager

import pytest
import torch
from PIL import Image

import emolens
from emolens.monitor import Monitor
from emolens.organism import organism_turns
from emolens.serve.access import Access
from emolens.serve.api import LOOPBACK
from emolens.serve.engine import Engine
from emolens.text import Turn
from tests.served import LAYER, SAID, THRESHOLDS, Slow, running, until

sync_api = pytest.importorskip("playwright.sync_api")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is here")

PATIENCE = 60_000  # milliseconds
ORANGE, BLUE = (213, 94, 0), (0, 114, 178)  # of the first two lines, on white
EVIL = (
    "<script>window.__owned=1</script><img src=x onerror=window.__owned=2>"
    "</p><iframe src=javascript:alert(3)>&lt;b&gt;\x07\x1b[31m\u202egnp.\u2066\u2028"
)
WORDS = [
    "<script>window.__owned=4</script>",
    "<img/src=x/onerror=window.__owned=5>",
    "</span><b>",
    "&lt;b&gt;",
    "\u202egnp.exe",
    "\x1b[31mred",
    "calm",
]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        opened = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def monitor(small, small_vectors):
    return Monitor(small, small_vectors, (LAYER,), thresholds=THRESHOLDS)


@contextmanager
def opened(browser, engine, access=LOOPBACK, fragment="", **options):
    """The page of a server, with everything that it tried beside asking that server."""
    with running(engine, access) as url:
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        tried: list[str] = []

        def judge(route):
            if route.request.url.startswith(f"{url}/"):
                route.continue_()
            else:
                tried.append(f"request {route.request.url}")
                route.abort()

        context.route("**/*", judge)
        page = context.new_page()
        page.on("console", lambda m: tried.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: tried.append(f"exception {error}"))
        page.on("dialog", lambda d: (tried.append(f"dialog {d.message}"), d.dismiss()))
        page.goto(f"{url}/{fragment}")
        page.wait_for_selector("html[data-ready]", state="attached")
        yield page, tried
        context.close()


def say(page, text):
    page.locator("#message").fill(text)
    page.locator("#message").press("Enter")
    page.wait_for_selector("#send:not([disabled])")
    page.wait_for_timeout(100)  # a frame, in which it is painted


def pixels(element):
    shot = Image.open(io.BytesIO(element.screenshot())).convert("RGB")
    return {colour: count for count, colour in shot.getcolors(maxcolors=1 << 24)}


def near(found, wanted, within=12):
    """How many pixels have about that colour."""
    return sum(
        count
        for colour, count in found.items()
        if all(abs(a - b) <= within for a, b in zip(colour, wanted, strict=True))
    )


def exported(page):
    with page.expect_download() as found:
        page.locator("#save").click()
    return json.loads(found.value.path().read_text("utf-8"))


SECOND = "Mira fed the goat, zyx."


@pytest.fixture(scope="module")
def talk(browser, monitor):
    """Two exchanges, the second of them steered, and the picture before."""
    size = {"width": 1200, "height": 1000}
    with opened(browser, Engine(monitor), viewport=size) as (page, tried):
        empty = pixels(page.locator("#trace"))
        say(page, SAID)
        page.select_option("#steer-emotion", "calm")
        page.locator("#strength").fill("0.3")
        assert "calm +0.30 of the residual norm" in page.locator("#steer-told").inner_text()
        say(page, SECOND)
        yield page, tried, empty


def test_a_conversation_is_drawn_token_by_token(talk):
    page, tried, empty = talk
    drawn = pixels(page.locator("#trace"))
    for colour in (ORANGE, BLUE):
        assert near(drawn, colour) > near(empty, colour) + 40
    spans = page.locator(".said span")
    colours = spans.evaluate_all("all => all.map(s => getComputedStyle(s).backgroundColor)")
    assert len(set(colours)) > 10
    assert page.locator("#gauges .fill").count() == 4
    assert page.locator(".said .unknown").all_inner_texts() == [" ,", " zyx"]
    assert page.locator(".user small").all_inner_texts() == ["", "steered: calm +0.30"]
    assert tried == []


def test_alarms_are_listed_with_their_words(talk):
    page, _, _ = talk
    alarms = page.locator("#alarms li")
    assert alarms.locator("strong").all_inner_texts() == ["desperate", "angry"] * 2
    assert "where the reply begins, reply 1" in alarms.first.inner_text()
    assert "while writing, reply 2" in alarms.last.inner_text()
    assert alarms.first.locator("q").inner_text() == ":"
    assert page.locator(".model .said .alarm").count() == 2


def test_what_is_exported_is_what_the_model_held(talk, monitor):
    kept = exported(talk[0])
    first, second = kept["exchanges"]
    assert (first["steering"], second["steering"]) == ({}, {"calm": 0.3})
    prompt = organism_turns([Turn("user", SAID), Turn("assistant", "")])
    found = monitor.generate([prompt], tokens=120, seed=[first["seed"]])[0]
    assert first["reply"] == found.reply
    assert first["colon"] == pytest.approx(found.colon[0].tolist(), abs=5e-5)
    assert len(first["read"]) == found.first
    chosen = found.values[found.first - 1 :, 0].tolist()
    for token, values in zip(first["written"], chosen, strict=False):
        assert token["values"] == pytest.approx(values, abs=5e-5)
    turns = [Turn("user", SAID), Turn("assistant", first["reply"]), Turn("user", SECOND)]
    whole = organism_turns([*turns, Turn("assistant", "")])
    assert "".join(token["text"] for token in second["read"]) == whole.text
    assert kept["versions"]["emolens"] == emolens.__version__
    assert (kept["layer"], kept["model"]) == (LAYER, "organism-small")


def test_a_new_conversation_begins_empty(browser, monitor):
    with opened(browser, Engine(monitor)) as (page, tried):
        say(page, SAID)
        page.locator("#fresh").click()
        assert page.locator(".turn").count() == 0
        assert page.locator("#save").is_disabled()
        assert "None so far" in page.locator("#alarms").inner_text()
        assert tried == []


def test_all_of_it_goes_by_keyboard(browser, monitor):
    with opened(browser, Engine(monitor)) as (page, tried):
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # past everything, to the message
        assert page.evaluate("document.activeElement.id") == "message"
        page.keyboard.type("Mira fed the goat.")
        page.keyboard.press("Enter")
        page.wait_for_selector(".model small:not(:empty)")
        page.wait_for_selector("#send:not([disabled])")
        page.locator(".model .said").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        words = page.locator(".model .said span").nth(1).inner_text().strip()
        told = page.locator("#told").inner_text()
        assert told.startswith(f"“{words}”: desperate ")
        before = pixels(page.locator(".model .said"))
        page.locator("#colour").focus()
        page.keyboard.type("happy")
        page.wait_for_timeout(200)
        assert pixels(page.locator(".model .said")) != before
        page.locator("#strength").focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("#strength-told").inner_text() == "+0.01"
        page.locator(".chip").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("#gauges dt").all_inner_texts() == ["calm", "angry", "happy"]
        assert tried == []


@pytest.mark.parametrize("way", ["button", "key"])
def test_a_reply_can_be_stopped_and_the_conversation_goes_on(browser, small, small_vectors, way):
    engine = Engine(Slow(small, small_vectors, (LAYER,)))
    with opened(browser, engine) as (page, tried):
        page.locator("#message").fill(SAID)
        page.locator("#message").press("Enter")
        page.wait_for_selector(".model .said span")
        if way == "button":
            page.locator("#stop").click()
        else:
            page.keyboard.press("Escape")
        until(lambda: engine.pending == 0, 1.0)
        page.wait_for_selector("#send:not([disabled])")
        assert "stopped" in page.locator(".model small").inner_text()
        part = page.locator(".model .said").inner_text()
        page.locator("summary").click()
        page.locator("#tokens").fill("2")
        say(page, "Mira fed the goat.")
        second = exported(page)["exchanges"][1]
        read = "".join(token["text"] for token in second["read"])
        assert f"assistant : {part}" in read
        assert second["reason"] == "length"
        assert tried == []


def test_a_message_that_gets_no_reply_is_given_back(browser, monitor):
    with opened(browser, Engine(monitor)) as (page, tried):
        long = "job " * 300
        say(page, long)
        assert "leaves no room to reply" in page.locator("#problem").inner_text()
        assert page.locator(".turn").count() == 0
        assert page.locator("#message").input_value() == long.strip()
        say(page, SAID)
        assert page.locator("#problem").is_hidden()
        assert page.locator(".model .said span").count() > 1
        assert [told for told in tried if "400" not in told] == []  # Chromium logs the status


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A watched random model whose name, words and emotions are an attack."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>", "<unk>", "Human:", "Assistant:", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    folder = tmp_path_factory.mktemp("hostile") / "<img src=x onerror=window.__owned=6>"
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 256, "vocab_size": len(words)}
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "unk_token": "<unk>"}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes, pad_token_id=0, eos_token_id=2)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    model = emolens.load(folder)
    named = ["<b onmouseover=window.__owned=7>\u202ecalm</b>", "desperate"]
    texts = [
        emolens.Text(" ".join(WORDS[i:]), e, str(i))
        for n, e in enumerate(named)
        for i in range(n, n + 4, 2)
    ]
    neutral = [emolens.Text(" ".join(WORDS[:i]), "neutral", str(i)) for i in range(1, 4)]
    fitted = emolens.fit_vectors(*(emolens.record(model, t, layers=[1]) for t in (texts, neutral)))
    cuts = THRESHOLDS.assign(emotion=named, layer=1)
    return Monitor(model, fitted, (1,), thresholds=cuts)


def test_what_anybody_wrote_runs_nothing(browser, hostile):
    engine = Engine(hostile, examples=[EVIL])
    with opened(browser, engine) as (page, tried):
        page.locator("#examples button").click()
        page.locator("#add").select_option(index=0)
        page.select_option("#steer-emotion", index=1)
        page.locator("#strength").fill("0.1")
        page.locator("summary").click()
        page.locator("#tokens").fill("60")
        page.locator("#seed").fill("2")  # with which it writes all its words
        say(page, EVIL)
        for span in page.query_selector_all(".said span, #alarms li, .chip"):
            for event in ("pointerenter", "mouseover", "mousemove"):
                span.dispatch_event(event)
        said = page.locator(".model .said").inner_text()
        assert all(word in said for word in WORDS[:4])  # they were written, and are words
        assert "\u2039U+202E\u203a" in said
        assert "\u2039U+001B\u203a" in said
        shown = page.locator("main")
        for mark in "\u202e\x1b\u2028":
            assert mark not in page.locator("body").inner_text()
        assert shown.locator("img, iframe, script, b").count() == 0
        assert page.evaluate("window.__owned") is None
        assert page.locator("#problem").is_hidden()
        kept = exported(page)
        assert EVIL.strip() == kept["exchanges"][0]["user"]
        assert page.evaluate("window.__owned") is None
        assert tried == []


@pytest.mark.parametrize("fragment", ["", "#token=secret"])
def test_the_page_takes_the_token_and_does_not_leave_it_in_the_address(browser, monitor, fragment):
    access = Access("0.0.0.0", "secret")
    with opened(browser, Engine(monitor), access, fragment) as (page, tried):
        if not fragment:
            assert page.locator("#main").is_hidden()
            page.locator("#token").fill("wrong")
            page.locator("#token").press("Enter")
            page.wait_for_timeout(300)
            assert page.locator("#main").is_hidden()
            page.locator("#token").fill("secret")
            page.locator("#token").press("Enter")
        page.wait_for_selector("#main", state="visible")
        assert "secret" not in page.url
        say(page, SAID)
        assert page.locator(".model .said span").count() > 1
        assert [told for told in tried if "401" not in told] == []


def test_on_a_phone_in_the_dark_it_fits_and_is_dark(browser, monitor):
    size = {"width": 360, "height": 700}
    with opened(browser, Engine(monitor), viewport=size, color_scheme="dark") as (page, tried):
        say(page, SAID)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        corners = [shot.getpixel((x, y)) for x in (2, 357) for y in (2, shot.height - 3)]
        assert max(max(corner) for corner in corners) < 60
        assert near(pixels(page.locator("#trace")), (0xFF, 0x8A, 0x3C)) > 40
        text = page.locator("footer").inner_text()
        assert "nothing here shows that a model feels anything" in text
        assert tried == []
