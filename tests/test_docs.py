"""The site is whole and asks no network for anything; what its pages show runs."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.main
import yaml

import emolens
from emolens.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^```([\w-]*)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OUTSIDE = re.compile(
    r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>"
)


class Block(NamedTuple):
    """Code of a page: its language, the file it stands for, its text, its first line."""

    language: str
    title: str
    text: str
    line: int


def blocks_of(page):
    text = page.read_text("utf-8")
    for found in FENCE.finditer(text):
        title = re.search(r'title="([^"]+)"', found[2])
        line = text.count("\n", 0, found.start(3))
        yield Block(found[1], title[1] if title else "", found[3], line)


def commands_of(page):
    """Every `emolens ...` of the page's code, also of code that is indented, in words."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    shown = "\n".join(found[3] for found in FENCE.finditer(text) if found[1] in ("bash", "sh"))
    shown += "\n" + "\n".join(line for line in text.splitlines() if line.startswith("    "))
    for line in shown.splitlines():
        words = re.sub(r"\s+#.*", "", line).split()
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words and Path(words[0]).name == "emolens":
            yield words[1:]


def parse(words):
    """What the command line itself makes of the words; it refuses what it does not know."""
    command = typer.main.get_command(app)
    context = command.make_context("emolens", list(words))
    rest = [*context._protected_args, *context.args]
    while rest:
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
        rest = [*context._protected_args, *context.args]


# A collector of our own and not pytest-markdown-docs: that one runs each block alone unless every
# other is marked as a continuation, and pages are read from top to bottom.
def run(page, folder, monkeypatch):
    """Run a page's Python in one namespace, in a folder that holds the files the page shows."""
    monkeypatch.chdir(folder)
    found = list(blocks_of(page))
    for block in found:
        if block.title:
            file = folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, "utf-8")
    namespace = {"__name__": page.stem}
    for block in found:
        if block.language == "python":
            code = "\n" * block.line + block.text  # so that errors name the line of the page
            exec(compile(code, str(page), "exec"), namespace)
    return namespace


def name_of(page):
    return str(page.relative_to(ROOT / "docs"))


RUNNING = [p for p in PAGES if any(b.language == "python" for b in blocks_of(p))]
RUNNING.remove(ROOT / "docs" / "tutorial.md")  # has a test of its own


@pytest.mark.parametrize("page", RUNNING, ids=name_of)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    run(page, tmp_path, monkeypatch)


def test_the_tutorial_finds_what_was_planted(tmp_path, monkeypatch):
    found = run(ROOT / "docs" / "tutorial.md", tmp_path, monkeypatch)
    assert found["layer"] in (2, 3)
    own = found["lens"].query("emotion == 'desperate'")
    assert own.own.any()
    dose = found["dose"].query("half == 'report' and strength == 0.5")
    p, random = dose.set_index("direction").p, dose.query("kind == 'random'").p
    assert p["desperate"] > random.max() > random.min() > p["calm"]
    gone = found["ablated"].query("half == 'report' and kind == 'desperate'")
    gone = gone.set_index("layer").excess_removed
    assert gone[3] > 0.85
    assert abs(gone[0]) < 0.1


def test_every_command_of_every_page_is_one_that_there_is():
    told = [(page, words) for page in PAGES for words in commands_of(page)]
    assert len(told) > 20
    for page, words in told:
        try:
            parse(words)
        except Exception as error:
            pytest.fail(f"{name_of(page)}: emolens {' '.join(words)}: {error}")


def test_every_sweep_of_every_page_can_be_planned():
    told = [b for p in PAGES for b in blocks_of(p) if b.title == "sweep.yaml"]
    assert told
    for block in told:
        emolens.Sweep.of(yaml.safe_load(block.text))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    words = ["build", "--strict", "--config-file", str(ROOT / "mkdocs.yml"), "--site-dir"]
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", *words, str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_every_public_name_has_its_place_in_the_reference(site):
    pages = "".join(p.read_text("utf-8") for p in (site / "reference").glob("*.html"))
    missing = [name for name in emolens.__all__ if f'id="emolens.{name}"' not in pages]
    assert missing == []


def test_every_command_has_its_place_in_the_reference(site):
    page = (site / "reference" / "command_line.html").read_text("utf-8")
    for command in ("reproduce", "sweep", "organism check", "stories generate"):
        assert f"<code>emolens {command}</code>" in page


def test_no_page_asks_a_network_for_anything(site):
    pages = [*site.rglob("*.html")]
    assert len(pages) > 60
    assert [found[0] for p in pages for found in OUTSIDE.finditer(p.read_text("utf-8"))] == []
    styles = [p for p in site.rglob("*.css") if "url(http" in p.read_text("utf-8")]
    assert styles == []


def test_formulae_are_mathml_and_no_latex_is_left(site):
    pages = {p.name: p.read_text("utf-8") for p in (site / "method").glob("*.html")}
    assert [name for name, page in pages.items() if "<math" not in page] == []
    assert [name for name, page in pages.items() if "arithmatex" in page] == []
    assert [name for name, page in pages.items() if re.search(r"<m\w+>\\", page)] == []


def test_the_search_holds_every_page_without_a_server(site):
    index = (site / "search" / "search_index.js").read_text("utf-8")
    for page in PAGES:
        assert name_of(page).replace(".md", ".html") in index
