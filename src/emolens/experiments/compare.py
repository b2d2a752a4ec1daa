"""Several models side by side, in units that have no scale: verdicts, numbers, shape of vectors."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from emolens import figures
from emolens.errors import ArtefactError, SelectionError, first_line
from emolens.experiments.parity import parity_page
from emolens.experiments.whole import CARD
from emolens.geometry import rsa
from emolens.report import Exhibit, Section, write_report, write_tables
from emolens.vectors import EmotionVectors, load_vectors

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Comparison:
    """What models have in common.

    Attributes:
        verdicts: columns experiment, then a model each.
        claims: columns experiment, claim, says, model, depth (of the layer, as a share of all),
            found, low, high, bound, paper, verdict.
        alike: columns model_a, model_b, depth_a, depth_b, rho, p, words: how far the
            vectors of two models lie to each other alike (Spearman, over pairs of shared emotions).
        parity: the paper's figures with each model's verdicts, in Markdown.
    """

    verdicts: pd.DataFrame
    claims: pd.DataFrame
    alike: pd.DataFrame
    parity: str

    def __repr__(self) -> str:
        """Verdicts, and for each two models the depths at which their vectors are most alike."""
        parts = [self.verdicts.to_string(index=False)]
        for (a, b), rows in self.alike.groupby(["model_a", "model_b"], sort=False):
            best = rows.loc[rows.rho.idxmax()]
            parts.append(
                f"{a} and {b}: most alike at depths {best.depth_a:.2f} and {best.depth_b:.2f}, "
                f"Spearman {best.rho:.2f} over {best.words} emotions (p {best.p:.3f})"
            )
        return "\n".join(parts)

    def to_json(self) -> str:
        """One JSON object."""
        tables = {"verdicts": self.verdicts, "claims": self.claims, "alike": self.alike}
        found = {n: json.loads(t.to_json(orient="records")) for n, t in tables.items()}
        return json.dumps({"schema": SCHEMA, **found}, indent=1)

    def save(self, out: Path) -> None:
        """Write JSON, tables, `parity.md` and `report.html` into a folder that exists."""
        (out / "comparison.json").write_text(self.to_json() + "\n", encoding="utf-8")
        (out / "parity.md").write_text(self.parity, encoding="utf-8")
        tables = {"verdicts": self.verdicts, "claims": self.claims}
        write_tables(out, tables | ({"alike": self.alike} if len(self.alike) else {}))
        write_report(
            out / "report.html",
            title="Emotion vectors of several models",
            facts={"models": ", ".join(self.verdicts.columns[1:])},
            sections=list(self._sections()),
        )

    def _sections(self) -> Iterator[Section]:
        numbers = figures.scatter(
            self.claims.dropna(subset=["found", "paper"]),
            x="paper",
            y="found",
            label="claim",
            colour="model",
            x_title="the paper's number",
            y_title="found here",
        )
        yield Section(
            "Verdicts",
            "By the rules of each experiment.",
            [Exhibit(table=self.verdicts, table_file="verdicts")],
        )
        yield Section(
            "Numbers",
            "Every claim for which the paper has a number.",
            [Exhibit(chart=numbers, table=self.claims, table_file="claims")],
        )
        for (a, b), rows in self.alike.groupby(["model_a", "model_b"], sort=False):
            chart = figures.grid(rows, row="depth_a", column="depth_b", value="rho")
            yield Section(
                f"{a} and {b}",
                "Spearman correlation between the cosines of all pairs of shared emotions, by "
                "depth in each model.",
                [Exhibit(chart=chart, table=rows, table_file="alike")],
            )


def compare_models(folders: Sequence[Path], *, seed: int = 0) -> Comparison:
    """Compare what `emolens reproduce` left in several folders.

    Layers are told as shares of a model's depth, and vectors by how they lie to each other, so that
    models of any size and family, or checkpoints of one training, can be compared.

    Args:
        folders: each with `results.json` and `vectors.safetensors`.
        seed: of permutations.

    Raises:
        SelectionError: for fewer than two folders.
        ArtefactError: for a folder without results, or damaged ones.
    """
    if len(folders) < 2:
        raise SelectionError(f"{len(folders)} folder makes no comparison: give at least two")
    models = _named(folders)
    verdicts: dict[str, dict[str, str]] = {}
    rows = []
    for m in models:
        for experiment in m.card["experiments"]:
            verdicts.setdefault(experiment["name"], {})[m.name] = experiment["verdict"]
            named = {"experiment": experiment["name"], "model": m.name}
            depth = m.depth(m.card["layer"])
            rows += [named | claim | {"depth": depth} for claim in experiment["claims"]]
    table = pd.DataFrame.from_dict(verdicts, orient="index", columns=[m.name for m in models])
    order = ["experiment", "claim", "says", "model", "depth"]
    order += ["found", "low", "high", "bound", "paper", "verdict"]
    return Comparison(
        table.fillna("not run").rename_axis("experiment").reset_index(),
        pd.DataFrame(rows, columns=order),
        pd.concat([_alike(a, b, seed) for a, b in combinations(models, 2)], ignore_index=True),
        parity_page([m.card for m in models]),
    )


@dataclass(frozen=True, eq=False)
class _Model:
    name: str
    card: dict[str, Any]
    vectors: EmotionVectors

    def depth(self, layer: int) -> float:
        """Of a layer, as a share of all."""
        return round((layer + 1) / self.card["layers"], 3)


def _named(folders: Sequence[Path]) -> list[_Model]:
    """Each under its own name, or its folder's where two models have the same."""
    cards = [read_card(folder) for folder in folders]
    names = [card["model"] for card in cards]
    told = names if len(set(names)) == len(names) else list(map(str, folders))
    return [
        _Model(name, card, load_vectors(folder / "vectors.safetensors"))
        for name, card, folder in zip(told, cards, folders, strict=True)
    ]


def _alike(a: _Model, b: _Model, seed: int) -> pd.DataFrame:
    """Every layer of one with every layer of the other; no rows if they share too few emotions."""
    columns = ["model_a", "model_b", "depth_a", "depth_b", "rho", "p", "words"]
    try:
        found = rsa(a.vectors, b.vectors, seed=seed)
    except SelectionError:
        return pd.DataFrame(columns=columns)
    found["depth_a"], found["depth_b"] = found.layer_a.map(a.depth), found.layer_b.map(b.depth)
    return found.assign(model_a=a.name, model_b=b.name)[columns]


def read_card(folder: Path) -> dict[str, Any]:
    """The card of results in a folder.

    Raises:
        ArtefactError: if there is none, or it is damaged or of another version.
    """
    file = folder / CARD if folder.is_dir() else folder
    try:
        card = json.loads(file.read_text("utf-8"))
        if card["schema"] != SCHEMA:
            raise ValueError(f"schema {card['schema']}, expected {SCHEMA}")
        for name, kind in (("model", str), ("layer", int), ("layers", int), ("experiments", list)):
            if not isinstance(card[name], kind):
                raise TypeError(f"{name} must be a {kind.__name__}")
        for experiment in card["experiments"]:
            _ = experiment["name"], experiment["verdict"]
            _ = [claim["claim"] for claim in experiment["claims"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtefactError(
            f"{file} holds no results ({first_line(error)}): give folders that `emolens reproduce` "
            "has written"
        ) from None
    return card
