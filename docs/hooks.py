"""What is made as the site is built: the reference, the command line's page, the formulae."""

import ast
import html
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import emolens
from emolens.experiments.compare import read_card
from emolens.experiments.parity import parity_page

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
EXAMPLE = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.DOTALL | re.MULTILINE)
WHOLE = {  # rooms that are used by their own name and so told whole, and what is not told of them
    "figures": ["!^_"],
    "positions": ["!^_"],
    "errors": ["!^_", "!^first_line$"],
}
REST = """
    options:
      filters: {names}
      show_root_heading: false
      show_root_toc_entry: false
"""
COMMANDS = "reference/command_line.md"
PARITY = "parity.md"


def rooms() -> dict[str, list[str]]:
    """The public names of each room, both in the order of the alphabet."""
    found: dict[str, list[str]] = {name: [] for name in WHOLE}
    for name, module in emolens._ROOMS.items():
        found.setdefault(module.partition(".")[0], []).append(name)
    return {room: sorted(found[room]) for room in sorted(found)}


def page_of(room: str) -> str:
    """Where a room's page lies."""
    return f"reference/{room}.md"


def on_config(config: MkDocsConfig) -> None:
    """Name the generated pages in the navigation."""
    pages = [{room: page_of(room)} for room in rooms()]
    reference = {"Reference": ["reference/index.md", {"Command line": COMMANDS}, *pages]}
    config.nav = [*(config.nav or []), reference]


def on_files(files: Files, *, config: MkDocsConfig) -> None:
    """Write the reference: a page for each room, one of all names, and the command line's."""
    pages = {page_of(room): room_page(room, names) for room, names in rooms().items()}
    pages |= {"reference/index.md": index_page(), COMMANDS: command_page()}
    cards = sorted(Path(config.docs_dir).glob("cards/*.json"))
    pages[PARITY] = parity_page([read_card(card) for card in cards])
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))


def room_page(room: str, names: list[str]) -> str:
    """What the room says of itself, and every public name of it."""
    told = [f"::: emolens.{name}" for name in names]
    if room in WHOLE:
        hidden = [*WHOLE[room], *(f"!^{name}$" for name in names)]
        used = f"Used as `from emolens import {room}`."
        parts = [f"# {room}", used, f"::: emolens.{room}{REST.format(names=hidden)}", *told]
    else:
        parts = [f"# {room}", first_sentence(room), *told]
    return "\n\n".join(parts) + "\n"


def index_page() -> str:
    """All public names by room."""
    rows = [
        f"| [{room}]({room}.md) | {first_sentence(room)} | {', '.join(map(link, names))} |"
        for room, names in rooms().items()
    ]
    version = "::: emolens.__version__\n    options:\n      show_if_no_docstring: true"
    head = "# Reference\n\nEvery public name, by the module that it lives in. All of them "
    head += "are names of `emolens` itself: `emolens.fit_vectors`.\n"
    return "\n".join([head, "| room | what for | names |", "|---|---|---|", *rows, "", version, ""])


def link(name: str) -> str:
    """A public name as a link to where it is told."""
    return f"[`{name}`][emolens.{name}]"


def first_sentence(room: str) -> str:
    """The first line of a module's docstring, read without importing it."""
    spec = find_spec(f"emolens.{room}")
    source = Path(str(spec and spec.origin)).read_text("utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]


def command_page() -> str:
    """What `typer utils docs` says of the command line."""
    words = ["typer", "emolens.cli", "utils", "docs", "--name", "emolens"]
    done = subprocess.run(
        [sys.executable, "-m", *words, "--title", "Command line"],
        capture_output=True,
        text=True,
        check=True,
    )
    # <model> is no tag; in code it is no entity either
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", done.stdout)


def on_page_content(content: str, **_: object) -> str:
    """Turn formulae into MathML, which browsers draw by themselves."""

    def formula(found: re.Match[str]) -> str:
        block = found[1] == "div"
        shown = convert(html.unescape(found[2]), display="block" if block else "inline")
        return f'<div class="formula">{shown}</div>' if block else shown

    return FORMULA.sub(formula, content)


class Doctests(griffe.Extension):
    """Show the examples of docstrings as code; Markdown alone would make quotations of `>>>`."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Fence the examples of one docstring."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(
                lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value
            )
