"""Which figure of the paper is redone by which experiment, and how it came out on each model."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from emolens.experiments.paper.catalogue import EXPERIMENTS

FIGURES, TABLES = 86, 17
# What no experiment redoes, and why.
LEFT_OUT: Mapping[str, str] = {
    "Fig. 59": "not redone: other-speaker vectors by judged valence",
    **dict.fromkeys(
        (f"Fig. {n}" for n in range(69, 75)),
        "not redone: corpus maxima of single deflection vectors; `maxima` redoes those of stories",
    ),
    **dict.fromkeys(
        (f"Fig. {n}" for n in range(75, 80)),
        "not redone: present-speaker beside story vectors on transcripts",
    ),
    "Table 5": "not redone: a probe over five dialogue conditions, which the authors reject",
    "Table 13": "not redone: greetings written under other-speaker vectors",
    "Table 17": "not redone: hard Elo (`emolens.ratings(..., hard=True)` gives it)",
}
HEAD = """# The paper's figures, one by one

Made from the cards of results (`results.json`) of the models named in the head of the table. A
verdict is an experiment's, by rules that were fixed before anything was measured; what is not
applicable says why in its report.

"""


def parts(told: str) -> list[str]:
    """The single figures and tables of a text such as an experiment's `figures`.

    >>> parts("Figs. 2, 4-6, Table 1")
    ['Fig. 2', 'Fig. 4', 'Fig. 5', 'Fig. 6', 'Table 1']
    """
    found: list[str] = []
    for kind, numbers in re.findall(r"(Fig|Table)s?\.?\s+((?:\d+(?:-\d+)?(?:,\s*)?)+)", told):
        name = "Fig." if kind == "Fig" else "Table"
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", numbers):
            found += [f"{name} {n}" for n in range(int(first), int(last or first) + 1)]
    return found


def covered() -> dict[str, list[str]]:
    """The experiments of each figure and table of the paper; none for what is left out."""
    found: dict[str, list[str]] = {f"Fig. {n}": [] for n in range(1, FIGURES + 1)}
    found |= {f"Table {n}": [] for n in range(1, TABLES + 1)}
    for experiment in EXPERIMENTS:
        for part in parts(experiment.figures):
            found[part].append(experiment.name)
    return found


def parity_page(cards: Sequence[Mapping[str, Any]]) -> str:
    """The page, in Markdown: a row a figure, with its experiment and a verdict for each model.

    Args:
        cards: of results, from `compare.read_card`.
    """
    verdicts = [{e["name"]: e["verdict"] for e in card["experiments"]} for card in cards]
    names = [_cell(card["model"]) for card in cards]
    lines = [f"| {' | '.join(['', 'experiment', *names])} |", f"|{'---|' * (len(names) + 2)}"]
    for part, experiments in covered().items():
        if not experiments:
            told = [LEFT_OUT.get(part, "not redone")] + [""] * len(names)
        else:
            told = [", ".join(f"`{e}`" for e in experiments)]
            told += [", ".join(v.get(e, "not run") for e in experiments) for v in verdicts]
        lines.append(f"| {' | '.join([part, *told])} |")
    return HEAD + "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A name that cannot end its cell or become markup."""
    return re.sub(r"[^\w ./:@-]", "_", text)
