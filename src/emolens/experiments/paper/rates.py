"""What doses did to rates: the claims about them, tables and pictures."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens import figures
from emolens.controls import CONTROL
from emolens.doses import UNSTEERED, Curves, NaturalUnits
from emolens.experiments.paper.behaviours import (
    CONTROLLED,
    INPUTS,
    PROCEDURE,
    cost,
    lacking,
    natural,
    steered,
    texts_of,
    unreadable,
)
from emolens.experiments.paper.claims import BOUND, Claim, Found, Measured
from emolens.experiments.paper.study import Experiment, Study
from emolens.report import Exhibit
from emolens.statistics import clustered_interval, clustered_ratio
from emolens.text import NEUTRAL, Text


def change(curves: Curves, direction: str, amount: float = 1.0) -> Float[Tensor, " text"]:
    """What a dose adds to the rate of each prompt."""
    at = [(d.direction, d.natural) for d in curves.doses].index((direction, amount))
    return curves.values[at] - curves.values[0]


def _changes_of_nothing(curves: Curves) -> list[Float[Tensor, " text"]]:
    both = zip(curves.doses, curves.values, strict=True)
    return [values - curves.values[0] for dose, values in both if dose.kind == CONTROL]


def rise(curves: Curves, emotions: Sequence[str]) -> Measured:
    """How much one natural unit raises a rate, mean over emotions."""
    own = torch.stack([change(curves, e) for e in emotions]).mean(0)
    drawn = [
        clustered_interval(values.tolist(), curves.groups)[0]
        for values in _changes_of_nothing(curves)
    ]
    return Measured(
        *clustered_interval(own.tolist(), curves.groups), float(np.quantile(drawn, BOUND))
    )


def fall(curves: Curves, emotion: str) -> Measured:
    """Which share of a rate above zero one natural unit takes."""
    base = curves.values[0]
    drawn = [-float(v.sum() / base.sum()) for v in _changes_of_nothing(curves)]
    taken = clustered_ratio((-change(curves, emotion)).tolist(), base.tolist(), curves.groups)
    return Measured(*taken, float(np.quantile(drawn, BOUND)))


def run_pair(study: Study, name: str, raised: Claim, lowered: Claim) -> Found:
    """A behaviour that the first emotion of the pair should raise, and the second lower."""
    up, down = study.materials.pair
    if reason := unreadable(study, name):
        return Found({}, {}, reason)
    units = natural(study, (up, down))
    if not units:
        return Found({}, {}, f"the model moves along neither {up} nor {down}")
    curves = next(iter(steered(study, name, units).values()))
    measured = {}
    if (up, study.layer) in units:
        measured[raised.name] = rise(curves, [up])
    if (down, study.layer) in units and float(curves.values[0].sum()) > 0:
        measured[lowered.name] = fall(curves, down)
    prompts = readouts(study, name, curves)
    tables = {"curves": curves.table(), "templates": by_template(curves), "prompts": prompts}
    return Found(measured, tables, told(study, curves, units) + _goes_with(prompts, (up, down)))


def pair_experiment(name: str, *, title: str, figures: str, act: str, risen: float) -> Experiment:
    """A behaviour that desperation should raise and calm should lower.

    Args:
        name: of the experiment and of its behaviour.
        title: of its section.
        figures: which of the paper's.
        act: what is done.
        risen: by how much its rate rises in the paper.
    """
    raised = Claim(
        "rise",
        f"rise of the rate of {act} under one natural unit of desperate",
        least=0.2,
        paper=risen,
        confidence="P",
    )
    lowered = Claim(
        "fall",
        f"share of the unsteered rate of {act} that one natural unit of calm takes",
        least=0.5,
        paper=1.0,
        confidence="P",
    )
    return Experiment(
        name=name,
        title=title,
        figures=figures,
        inputs=INPUTS,
        procedure=PROCEDURE,
        readout=f"the rate of {act}; rises and falls are of one natural unit",
        control=CONTROLLED,
        claims=(raised, lowered),
        lacks=lambda study: lacking(study, name),
        cost=lambda study: cost(study, name, study.materials.pair),
        run=partial(run_pair, name=name, raised=raised, lowered=lowered),
        draw=partial(draw_pair, name=name),
    )


def told(study: Study, curves: Curves, units: NaturalUnits) -> str:
    """What was steered, and how far."""
    norm = float(study.vectors.residual_norm[study.vectors.column(study.layer)])
    lengths = ", ".join(f"{e} {length / norm:.2f}" for (e, _), length in units.items())
    return (
        f"{len(curves.groups)} prompts of {len(set(curves.groups))} templates, layer "
        f"{study.layer}; unsteered rate {float(curves.values[0].mean()):.2f}; a natural unit in "
        f"residual norms: {lengths}."
    )


def by_template(curves: Curves) -> pd.DataFrame:
    """Rate of each template under each dose of an emotion, and without any."""
    means = pd.DataFrame(curves.values.numpy().T).groupby(list(curves.groups)).mean()
    order = sorted(range(len(curves.doses)), key=lambda i: curves.doses[i].natural)
    rows = [
        (name, curves.doses[i].natural, template, p)
        for name in dict.fromkeys(d.direction for d in curves.doses if d.kind == "emotion")
        for i in order
        if curves.doses[i].direction in (name, UNSTEERED.direction)
        for template, p in means[i].items()
    ]
    return pd.DataFrame(rows, columns=["direction", "natural", "template", "p"])


def readouts(study: Study, name: str, curves: Curves) -> pd.DataFrame:
    """Rate of each prompt without steering, and its readouts as z-scores over all (Fig. 27).

    Returns:
        Columns situation (neutral, or the emotion that is brought about or told), template, rate,
        and one for each emotion of the pair.
    """
    behaviour, pair = study.materials.behaviours[name], list(study.materials.pair)
    rates = {NEUTRAL: curves.values[0].tolist()} | {e: p for e, (p, _) in curves.in_words.items()}
    rows: list[tuple] = []
    texts: list[Text] = []
    for situation, own in rates.items():
        read = texts_of(study, behaviour, situation)
        rows += [(situation, t.group, p) for t, p in zip(read, own, strict=True)]
        texts += read
    values = study.read(texts, study.layer, kind="projection", emotions=pair)
    z = (values - values.mean(0)) / values.std(0)
    table = pd.DataFrame(rows, columns=["situation", "template", "rate"])
    return table.assign(**dict(zip(pair, z.T.numpy(), strict=True)))


def _goes_with(prompts: pd.DataFrame, pair: Sequence[str]) -> str:
    r = ", ".join(f"{e} {prompts.rate.corr(prompts[e]):.2f}" for e in pair)
    return f" Without steering, over {len(prompts)} prompts, rate and readout go together: r {r}."


def draw_pair(tables: Mapping[str, pd.DataFrame], name: str) -> list[Exhibit]:
    """Curves, the same by template, and rate against readout without steering."""
    curves, prompts = tables["curves"], tables["prompts"]
    scatters = [
        Exhibit(
            f"Rate and readout of {emotion}, without steering",
            figures.scatter(
                prompts,
                x=emotion,
                y="rate",
                label="template",
                colour="situation",
                x_title=f"readout of {emotion} (z)",
                y_title=f"rate of {name}",
            ),
            prompts,
            f"{name}_prompts",
        )
        for emotion in prompts.columns[3:]
    ]
    dosed = figures.dose_curves(curves, f"rate of {name}")
    return [
        Exhibit("Rate under doses", dosed, curves, f"{name}_curves"),
        template_lines(tables, name, f"rate of {name}"),
        *scatters,
    ]


def template_lines(tables: Mapping[str, pd.DataFrame], name: str, rate: str) -> Exhibit:
    """A line a template, a panel an emotion; of the experiment of that name."""
    chart = figures.lines(
        tables["templates"],
        x="natural",
        y="p",
        name="template",
        facet="direction",
        x_title="dose (natural units)",
        y_title=rate,
    )
    return Exhibit("The same by template", chart, tables["templates"], f"{name}_templates")
