"""What did post-training do to the emotions of a model (Figs. 36-39, 84, Table 16)?"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emolens import figures
from emolens.activations import Activations
from emolens.controls import CONTROL, random_directions
from emolens.experiments.paper.claims import CONTROLS, Claim, Found
from emolens.experiments.paper.correlation import correlation, together
from emolens.experiments.paper.study import Experiment, Study
from emolens.positions import last
from emolens.readout import read_out
from emolens.recording import record
from emolens.report import Exhibit
from emolens.vectors import centred_cosine

KINDS = ("neutral", "challenging")
DRAWN = 200  # random directions beside the emotions
SINGLE = 3  # prompts that are shown by themselves

ALIKE = {
    "neutral": Claim(
        "neutral",
        "r over emotions of the base model's readout with the model's, neutral prompts",
        least=0.55,
        paper=0.83,
        confidence="P",
    ),
    "challenging": Claim(
        "challenging",
        "r over emotions of the base model's readout with the model's, challenging prompts",
        least=0.45,
        paper=0.67,
        confidence="P",
    ),
}
SHIFT = Claim(
    "shift",
    "r over emotions of the shift on challenging prompts with that on neutral ones",
    least=0.6,
    paper=0.90,
    confidence="P",
)
PLANTED = Claim("planted", "r over emotions of the shift with what was planted", least=0.6)

Values = Mapping[str, Tensor]  # by model: text x emotion


def run(study: Study) -> Found:
    """The same vectors on both models, where the reply begins."""
    assert study.base is not None  # `lacks` has seen to it
    texts, vectors = study.materials.baseline, study.vectors
    models = {"base": study.base, "model": study.model}
    recorded = {who: record(m, texts, positions=last) for who, m in models.items()}
    layer = study.layer
    values = {who: read_out(vectors, r.at(layer), layer) for who, r in recorded.items()}
    rows = {k: [i for i, t in enumerate(texts) if t.group == k] for k in KINDS}
    by = {(who, k): v[rows[k]].mean(0).numpy() for who, v in values.items() for k in KINDS}
    shift = {k: by["model", k] - by["base", k] for k in KINDS}
    measured = {
        claim.name: together(
            by["base", k],
            by["model", k],
            nulls=_halves(values, (("base", rows[k]), ("model", rows[k])), study.seed),
            seed=study.seed,
        )
        for k, claim in ALIKE.items()
    }
    layers, by_chance = _layers(study, recorded, rows)
    sides = tuple(("model", rows[k]) for k in KINDS)
    measured[SHIFT.name] = together(
        *shift.values(), nulls=_halves(values, sides, study.seed), seed=study.seed
    )
    wanted = study.materials.wanted
    if wanted:
        whole = (values["model"] - values["base"]).mean(0).numpy()
        planted = np.array([wanted[e] for e in vectors.emotions])
        measured[PLANTED.name] = together(whole, planted, seed=study.seed)
    emotions = pd.DataFrame({"emotion": vectors.emotions})
    for k in KINDS:
        emotions = emotions.assign(**{f"base_{k}": by["base", k], f"model_{k}": by["model", k]})
        emotions[f"shift_{k}"] = shift[k]
    return Found(
        measured,
        {"emotions": emotions, "single": _single(study, values), "layers": layers},
        f"{len(rows['neutral'])} neutral and {len(rows['challenging'])} challenging prompts, layer "
        f"{layer}. Along random directions both shifts go together at r {by_chance:.2f}, as what "
        f"moves on every text does. Base readouts spread by {by['base', 'challenging'].std():.3f} "
        f"over emotions, shifts by {shift['challenging'].std():.3f}.",
        {} if wanted else {PLANTED.name: "nobody knows what post-training should do"},
    )


def _halves(
    values: Values, sides: tuple[tuple[str, list[int]], ...], seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Differences between two halves of the prompts, which mean nothing."""
    draw = np.random.default_rng(seed)
    for _ in range(CONTROLS):
        found = []
        for who, rows in sides:
            mixed = draw.permutation(rows)
            one, other = np.array_split(mixed, 2)
            found.append((values[who][one].mean(0) - values[who][other].mean(0)).numpy())
        yield found[0], found[1]


def _layers(
    study: Study, recorded: Mapping[str, Activations], rows: Mapping[str, list[int]]
) -> tuple[pd.DataFrame, float]:
    """Size of the shift by layer, along emotions and random directions.

    Also r of the shifts on both kinds of prompts along the latter: a model that is moved alike on
    every text, whatever it tells of, has it too.
    """
    vectors, table, r = study.vectors, [], float("nan")
    draws = random_directions(DRAWN, study.model.d_model, study.seed)
    for layer in vectors.layers:
        mean = vectors.mean[vectors.column(layer)]
        for kind, directions in (("emotion", vectors.at(layer)), (CONTROL, draws)):
            base, model = (
                centred_cosine(directions, mean, recorded[who].at(layer))
                for who in ("base", "model")
            )
            shift = {k: (model - base)[own].mean(0) for k, own in rows.items()}
            for k, found in shift.items():
                name = f"{k}, random directions" if kind == CONTROL else k
                table.append((layer, name, kind, float(found.square().mean().sqrt())))
            if layer == study.layer and kind == CONTROL:
                r = correlation(*(s.numpy() for s in shift.values()))
    return pd.DataFrame(table, columns=["layer", "prompts", "kind", "size"]), r


def _single(study: Study, values: Values) -> pd.DataFrame:
    """The emotions that single challenging prompts shift most."""
    texts, tables = study.materials.baseline, []
    places = [i for i, t in enumerate(texts) if t.group == "challenging"][:SINGLE]
    for i in places:
        shift = values["model"][i] - values["base"][i]
        best = torch.topk(shift.abs(), min(10, len(shift))).indices
        names = [study.vectors.emotions[j] for j in best.tolist()]
        table = pd.DataFrame({"emotion": names, "shift": shift[best].numpy()})
        tables.append(table.assign(prompt=texts[i].text.strip()))
    return pd.concat(tables, ignore_index=True)[["prompt", "emotion", "shift"]]


def draw(tables: Mapping[str, pd.DataFrame]) -> list[Exhibit]:
    """Base against tuned, the shifts, and their size by layer."""
    emotions = tables["emotions"]
    scatters = [
        Exhibit(
            f"Base model and model, {k} prompts",
            figures.scatter(emotions, x=f"base_{k}", y=f"model_{k}", label="emotion"),
        )
        for k in KINDS
    ]
    both = figures.scatter(emotions, x="shift_neutral", y="shift_challenging", label="emotion")
    bars = figures.bars(emotions, name="emotion", value="shift_challenging", title="shift")
    size = figures.lines(
        tables["layers"],
        x="layer",
        y="size",
        name="prompts",
        kind="kind",
        ordinal=True,
        y_title="root mean square of the shift",
        note="grey: along random directions",
    )
    return [
        *scatters,
        Exhibit("Shifts on both kinds of prompts", both),
        Exhibit("Shift on challenging prompts", bars, emotions, "post_training_emotions"),
        Exhibit("Single prompts", None, tables["single"], "post_training_single"),
        Exhibit("Size by layer", size, tables["layers"], "post_training_layers"),
    ]


def _lacks(study: Study) -> str:
    if study.base is None:
        return "no base model was given (--base)"
    counts = [sum(t.group == k for t in study.materials.baseline) for k in KINDS]
    if min(counts) < 2:
        return "there are no two neutral and two challenging prompts"
    same = study.base.n_layers, study.base.d_model
    if same != (study.model.n_layers, study.model.d_model):
        return f"{study.base.name!r} has other layers than the model, so vectors do not fit it"
    return ""


POST_TRAINING = Experiment(
    name="post_training",
    title="What post-training did",
    figures="Figs. 36-39, 84, Table 16",
    inputs="neutral and challenging messages to the assistant",
    procedure="the model's own vectors are read in the model and in the one it was tuned from, "
    "where the reply begins",
    readout="centred cosine with each vector, mean over prompts; the shift is the model's minus "
    "the base model's",
    control="emotions in another order, 100 times; differences between two halves of the prompts, "
    "100 times; for the size of the shift, random directions",
    claims=(*ALIKE.values(), SHIFT, PLANTED),
    lacks=_lacks,
    cost=lambda study: 2 * study.tokens(study.materials.baseline),
    run=run,
    draw=draw,
)
