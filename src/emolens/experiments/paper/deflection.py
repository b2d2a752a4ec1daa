"""Is what is felt and not shown held apart from what is shown (Figs. 60-68, Table 15)?"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from emolens import figures
from emolens.activations import Activations
from emolens.controls import CONTROL
from emolens.experiments.paper.beside import Beside, drawn_beside
from emolens.experiments.paper.claims import CONTROLS, Claim, Found
from emolens.experiments.paper.maxima import aurocs
from emolens.experiments.paper.study import Experiment, Study
from emolens.experiments.paper.words import NETWORK, Way, by_way
from emolens.interventions import unit
from emolens.kinds import STORY_SPACE, apart_from, record_masked
from emolens.positions import last, span
from emolens.readout import read_out
from emolens.recording import record
from emolens.report import Exhibit
from emolens.statistics import halves
from emolens.vectors import EmotionVectors, fit_vectors, principal_space

PROVOKED, KIND = "angry", "attack"

FELT = Claim(
    "felt",
    "mean AUROC over emotions of what is felt and not shown, read on masked dialogues that the "
    "vectors were not fitted on, beyond permuted labels and beyond the words alone",
    least=0.65,
)
APART = Claim(
    "apart",
    "the same outside the space of the story vectors (99% of their variance)",
    least=0.6,
)
ATTACK = Claim(
    "attack",
    "angry deflection where the reply begins: messages that attack minus all others, in standard "
    "deviations, beyond permuted kinds and beyond the words alone",
    least=0.8,
)


@dataclass(frozen=True, eq=False)
class _Read:
    """What one way reads: AUROCs by claim, then texts of the readouts and what they are of."""

    emotions: list[str]
    values: dict[str, list[tuple[np.ndarray, np.ndarray]]]  # readouts and labels of each half
    vectors: EmotionVectors
    attack: np.ndarray | None

    def aurocs(self, claim: str, seed: int | None = None) -> np.ndarray:
        """Of each emotion, the mean of both halves; of labels in another order with a seed."""
        rng = np.random.default_rng(seed)
        own = [
            aurocs(values, self.emotions, labels if seed is None else rng.permutation(labels))
            for values, labels in self.values[claim]
        ]
        return np.mean(own, axis=0)


def _halved(felt: Activations) -> tuple[list[str], list[list[int]]]:
    """Rows of each half of the topics, and the emotions that are felt in both."""
    choosing = halves(felt.groups)
    rows = [side.nonzero().flatten().tolist() for side in (choosing, ~choosing)]
    known = [{felt.emotions[i] for i in side} for side in rows]
    return [e for e in felt.labels if all(e in side for side in known)], rows


def _crossed(
    felt: Activations, neutral: Activations, layer: int
) -> tuple[list[str], list[tuple[np.ndarray, np.ndarray]]]:
    """Each half read with the vectors of the other."""
    emotions, sides = _halved(felt)
    found = []
    for fitted, other in (sides, sides[::-1]):
        vectors = fit_vectors(felt.rows(fitted), neutral)
        values = read_out(vectors, felt.at(layer)[other], layer)
        columns = [vectors.row(e) for e in emotions]
        labels = np.array([felt.emotions[i] for i in other])
        found.append((values[:, columns].numpy(), labels))
    return emotions, found


def _read(study: Study, way: Way) -> _Read:
    """Masked dialogues and provoking messages, in one way."""
    dialogues, layer = study.materials.masked, way.layer
    assert dialogues is not None, "without masked dialogues the experiment does not apply"
    stories, neutral = way.vectors.only([layer]), way.neutral.at_only(layer)
    felt, _ = record_masked(study.model, dialogues, layers=[layer])
    emotions, whole = _crossed(felt, neutral, layer)
    _, left = _crossed(apart_from(felt, stories), apart_from(neutral, stories), layer)
    vectors = fit_vectors(felt, neutral)
    return _Read(
        emotions, {FELT.name: whole, APART.name: left}, vectors, _at_reply(study, vectors, layer)
    )


def _at_reply(study: Study, vectors: EmotionVectors, layer: int) -> np.ndarray | None:
    """The deflection vector of anger where the reply to each provoking message begins."""
    texts = study.materials.provoked
    if not texts or PROVOKED not in vectors.emotions:
        return None
    residual = record(study.model, texts, layers=[layer], positions=last).at(layer)
    return read_out(vectors, residual, layer)[:, vectors.row(PROVOKED)].numpy()


def run(study: Study) -> Found:
    """Felt emotions on held-out halves, inside and outside the stories' space; then messages."""
    read = by_way(study, partial(_read, study))
    network = read[NETWORK]
    if len(network.emotions) < 2:
        return Found({}, {}, "fewer than two emotions are masked in both halves of the topics")
    beside = Beside()
    seeds = range(study.seed, study.seed + CONTROLS)
    for claim in (FELT, APART):
        own = {way: r.aurocs(claim.name) for way, r in read.items()}
        drawn = [network.aurocs(claim.name, seed).mean() for seed in seeds]
        beside.add_mean(claim, own, {"permuted labels": drawn})
    kinds = np.array([t.group for t in study.materials.provoked])
    tables = {"vectors": _beside_stories(study, network.vectors)}
    if network.attack is not None and 0 < (kinds == KIND).sum() < len(kinds):
        _attacks(study, {w: r.attack for w, r in read.items() if r.attack is not None}, beside)
        tables["messages"] = _by_kind(network.attack, kinds)
    tables["ways"] = beside.table
    missing = {} if ATTACK.name in beside.measured else {ATTACK.name: "no messages that attack"}
    told = _told(study, tables["vectors"], network.vectors)
    return Found(beside.measured, tables, told, missing)


def _attacks(study: Study, values: Mapping[str, np.ndarray], beside: Beside) -> None:
    """Messages are drawn anew."""
    attack = np.array([t.group == KIND for t in study.materials.provoked])
    rng = np.random.default_rng(study.seed)
    drawn = [_gap(values[NETWORK], rng.permutation(attack)) for _ in range(CONTROLS)]
    statistics = {w: partial(_gap_of, v, attack) for w, v in values.items()}
    beside.add(ATTACK, len(attack), statistics, {"permuted kinds": drawn})


def _gap_of(values: np.ndarray, attack: np.ndarray, rows: np.ndarray) -> float:
    return _gap(values[rows], attack[rows])


def _gap(values: np.ndarray, attack: np.ndarray) -> float:
    """Attacks minus all others, in standard deviations of all; 0 where there are not both."""
    if not values.std() or attack.all() or not attack.any():
        return 0.0
    return float((values[attack].mean() - values[~attack].mean()) / values.std())


def _by_kind(values: np.ndarray, kinds: np.ndarray) -> pd.DataFrame:
    scaled = (values - values.mean()) / (values.std() or 1.0)
    table = pd.DataFrame({"messages": kinds, "deflection": scaled})
    means = table.groupby("messages", sort=False, as_index=False).deflection.mean()
    return means.assign(kind=[("found" if m == KIND else CONTROL) for m in means.messages])


def _beside_stories(study: Study, vectors: EmotionVectors) -> pd.DataFrame:
    """Of each deflection vector: cosine with its story vector, the nearest story, what is left."""
    layer = study.layer
    told, own = unit(study.vectors.at(layer)), unit(vectors.at(layer))
    basis = principal_space(study.vectors.at(layer), STORY_SPACE).float()
    left = (own - own @ basis.T @ basis).norm(dim=-1)
    cosines = own @ told.T
    rows = [
        (
            e,
            float(cosines[i, study.vectors.row(e)]) if e in study.vectors.emotions else np.nan,
            study.vectors.emotions[int(cosines[i].argmax())],
            float(cosines[i].max()),
            float(left[i]),
        )
        for i, e in enumerate(vectors.emotions)
    ]
    return pd.DataFrame(
        rows, columns=["emotion", "cosine", "nearest story", "its cosine", "outside"]
    )


def _told(study: Study, table: pd.DataFrame, vectors: EmotionVectors) -> str:
    width = study.model.d_model
    basis = principal_space(study.vectors.at(study.layer), STORY_SPACE)
    return (
        f"{len(vectors.emotions)} emotions, layer {study.layer}. Mean cosine with the story vector "
        f"of the same emotion {table.cosine.mean():.2f} (paper 0.046); share of the norm outside "
        f"the stories' space {table.outside.mean():.2f} (paper about 0.8; a random vector keeps "
        f"{np.sqrt(1 - len(basis) / width):.2f})."
    )


def draw(tables: Mapping[str, pd.DataFrame]) -> list[Exhibit]:
    """What the words alone give, vectors beside stories, and messages by kind."""
    exhibits = drawn_beside(tables["ways"], "deflection")
    beside = figures.scatter(tables["vectors"], x="cosine", y="outside", label="emotion")
    exhibits.append(Exhibit("Beside the stories", beside, tables["vectors"], "deflection_vectors"))
    if "messages" in tables:
        rows = tables["messages"]
        chart = figures.bars(rows, name="messages", value="deflection", kind="kind")
        exhibits.append(Exhibit("Angry deflection by kind", chart, rows, "deflection_messages"))
    return exhibits


def _cost(study: Study) -> int:
    masked = study.materials.masked
    return 3 * study.tokens((*masked.texts, *study.materials.provoked)) if masked else 0


def _lacks(study: Study) -> str:
    dialogues = study.materials.masked
    if not dialogues:
        return "there are no masked dialogues"
    spoken = span("first")(dialogues.texts, study.model.tokenize(dialogues.texts)).mask.any(1)
    if bool(spoken.all()):
        return ""
    return f"the masked turns do not fit into a context of {study.model.n_ctx} tokens"


DEFLECTION = Experiment(
    name="deflection",
    title="Felt and not shown",
    figures="Figs. 60-68, Table 15",
    inputs="dialogues whose first speaker shows what it does not feel; messages that provoke",
    procedure="vectors of what is felt, from the turns of the one who masks it; each half of the "
    "topics is read with the vectors of the other",
    readout="centred cosine at two thirds of the depth",
    control="labels in another order, 100 times; the same with the embedding of the words alone, "
    "each token's own and the mean of all up to it",
    claims=(FELT, APART, ATTACK),
    lacks=_lacks,
    cost=_cost,
    run=run,
    draw=draw,
)
