"""Does steering with a vector make its own word likelier (Figs. 52, 53)?"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from emolens import figures
from emolens.experiments.paper.claims import Claim, Found, Measured, against
from emolens.experiments.paper.study import Experiment, Study, logits_needed
from emolens.experiments.words import own_word_counts, own_words
from emolens.report import Exhibit
from emolens.text import Text

SETS = 10  # of random directions, and as many of permuted vectors
STRENGTH = 0.5
PROMPTS = 2  # of each kind
SOMEBODY, ITSELF = "somebody", "itself"  # whose feeling is to be named

MOST = Claim(
    "own_most",
    "share of emotions whose own word rises more than the others' when steered with it",
    least=0.5,
)
APART = Claim(
    "apart",
    "rise of the own word over the others', in standard deviations of control sets (the paper, in "
    "nats: 2 against -4.3)",
    least=3.0,
)
OF_ITSELF = Claim(
    "of_itself",
    "the same where the assistant is to tell what it feels (the paper, in nats: 12.5 against 1)",
    least=3.0,
)


def run(study: Study) -> Found:
    """The twelve emotions and their words, after begun sentences that are to name a feeling."""
    tables, measured = [], dict[str, Measured]()
    for whose, claims in ((SOMEBODY, (MOST, APART)), (ITSELF, (OF_ITSELF,))):
        prompts = _of(study, whose)
        if prompts:
            found = own_words(
                study.model,
                study.vectors,
                layers=[study.layer],
                emotions=study.twelve,
                prompts=prompts,
                strength=STRENGTH,
                control_count=SETS,
                seed=study.seed,
            )
            measured |= {c.name: _measured(c, found, study.seed) for c in claims}
            tables.append(found.assign(whose=whose))
    words = pd.concat(tables, ignore_index=True)
    counts = pd.concat([own_word_counts(t).assign(whose=w) for w, t in words.groupby("whose")])
    own = counts[counts.kind == "emotion"].set_index("whose")
    told = "; ".join(
        f"of {whose}: own words {row.matching:+.2f} nats, the others {row.other:+.2f}"
        for whose, row in own.iterrows()
    )
    missing = {} if ITSELF in own.index else {OF_ITSELF.name: "nobody asks the model how it feels"}
    return Found(
        measured,
        {"changes": words, "counts": counts.reset_index(drop=True)},
        f"{STRENGTH} of the residual norm at layer {study.layer}; {told}.",
        missing,
    )


def _measured(claim: Claim, found: pd.DataFrame, seed: int) -> Measured:
    column = "most" if claim is MOST else "rise"
    by_set = found.groupby(["kind", "set"], sort=False)[found.columns]
    values = by_set.apply(lambda table: _of_own(table)[column])
    ours = values.loc["emotion"].to_numpy().ravel()
    controls = values.drop("emotion").mean(axis=1).to_numpy()
    unit = 1.0 if claim is MOST else controls.std(ddof=1)
    return against(
        len(ours), lambda rows: ours[rows].mean() / unit, (controls / unit).tolist(), seed=seed
    )


def _of_own(table: pd.DataFrame) -> pd.DataFrame:
    """Of each direction: its own word's rise over the others', and whether it rises most."""
    wide = table.pivot(index="direction", columns="word", values="change")
    own = np.array([wide.loc[e, e] for e in wide.index])
    rest = (wide.sum(axis=1) - own) / (wide.shape[1] - 1)
    most = (own >= wide.max(axis=1)).astype(float)
    return pd.DataFrame({"rise": own - rest, "most": most}, index=wide.index)


def draw(tables: Mapping[str, pd.DataFrame]) -> list[Exhibit]:
    """Every word under every vector, and how far own words rise, beside controls."""
    changes, counts = tables["changes"], tables["counts"]
    exhibits = []
    for whose, table in changes[changes.kind == "emotion"].groupby("whose", sort=False):
        chart = figures.grid(table, row="direction", column="word", value="change")
        caption = f"Change of each word's log-probability under each vector, of {whose}"
        exhibits.append(Exhibit(caption, chart))
    named = counts.assign(
        name=counts.whose + ": " + counts.kind,
        share=counts.rises_most / counts["of"],
        kind=counts.kind.where(counts.kind == "emotion", "control"),
    )
    bars = figures.bars(
        named, name="name", value="share", kind="kind", title="share of own words that rise most"
    )
    return [*exhibits, Exhibit("Whose own word rises most", bars, counts, "words_counts")]


def _lacks(study: Study) -> str:
    if len(study.twelve) < 2:
        return "the stories have fewer than two of the paper's twelve emotions"
    prompts = study.materials.feelings
    return logits_needed(study) or (
        "" if prompts else "there are no sentences to name a feeling in"
    )


def _cost(study: Study) -> int:
    """One pass a prompt for each direction, where the words are single tokens."""
    kinds = {t.group for t in study.materials.feelings}
    prompts = [t for k in kinds for t in _of(study, k)]
    return study.tokens(prompts) * len(study.twelve) * (1 + 2 * SETS)


def _of(study: Study, whose: str) -> list[Text]:
    return [t for t in study.materials.feelings if t.group == whose][:PROMPTS]


OWN_WORDS = Experiment(
    name="words",
    title="Own words under steering",
    figures="Figs. 52, 53, Tables 6, 7",
    inputs="begun sentences that are to name somebody's feeling, of whom nothing is told",
    procedure="each vector is added at two thirds of the depth to the words that were begun",
    readout="change of the log-probability of each of the emotions' words",
    control=f"{SETS} sets of random directions and {SETS} of the same vectors with their "
    "coordinates in another order",
    claims=(MOST, APART, OF_ITSELF),
    lacks=_lacks,
    cost=_cost,
    run=run,
    draw=draw,
)
