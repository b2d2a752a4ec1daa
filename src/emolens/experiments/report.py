"""The report of a reproduction: each part with its picture, its table and what to read in it."""

from collections.abc import Iterator
from pathlib import Path

import altair as alt
import pandas as pd

from emolens import figures
from emolens.experiments.reproduce import Reproduction
from emolens.report import Exhibit, Section, write_report
from emolens.text import NEUTRAL


def charts(done: Reproduction) -> dict[str, alt.TopLevelMixin]:
    """Every picture that the tables of a reproduction allow, by table name."""
    tables, name = done.tables, done.inputs.behaviour.target if done.inputs.behaviour else ""
    made = {
        "probes": figures.probe_curve(tables["probes"], tables["text_baseline"]),
        "similarity": figures.similarity_map(tables["similarity"]),
        "principal_components": figures.circumplex(tables["principal_components"]),
        "circumplex": figures.circumplex_curve(tables["circumplex"]),
    }
    if "reliability" in tables:
        made["reliability"] = figures.reliability(tables["reliability"], tables["learning_curve"])
    if "steering" in tables:
        told = tables["steering"][tables["steering"].half == "report"]
        ablated = tables["ablation"][tables["ablation"].half == "report"]
        made |= {
            "behaviour": figures.behaviour_bars(tables["behaviour"], name),
            "steering": figures.dose_response(told, name),
            "ablation": figures.ablation_curve(ablated, name),
            "attribution": figures.attribution_scatter(tables["attribution"]),
            "attribution_bars": figures.attribution_bars(
                tables["attribution"], done.inputs.emotions
            ),
        }
    return made


def _lens_words(done: Reproduction) -> pd.DataFrame:
    """One row per emotion at the shown layer: its ten tokens in a line."""
    lens = done.tables["logit_lens"]
    here = lens[lens.layer == done.shown_layer]
    rows = [(e, ", ".join(t.token.str.strip())) for e, t in here.groupby("emotion", sort=False)]
    return pd.DataFrame(rows, columns=["emotion", "tokens raised most"])


def _shown(done: Reproduction, pictures: dict[str, alt.TopLevelMixin], name: str) -> Exhibit:
    return Exhibit(chart=pictures[name], table=done.tables[name], table_file=name)


def sections(done: Reproduction) -> Iterator[Section]:
    """The report's parts in the order of the argument: represented, causal, how."""
    pictures = charts(done)
    yield Section(
        "Where the emotion can be read",
        "Accuracy of probes on templates or topics they were not fitted on, by layer; bands are "
        "95% bootstrap intervals over those groups. The text baseline is the logistic probe on the "
        "words alone: what lies below it needs no model. " + _best_read(done),
        [_shown(done, pictures, "probes")],
    )
    if "logit_lens" in done.tables:
        yield Section(
            "What the vectors say",
            f"Each vector of layer {done.shown_layer} through the final norm and the "
            "unembedding: the tokens it raises most, highest first.",
            [Exhibit(table=_lens_words(done), table_file="logit_lens")],
        )
    if "reliability" in done.tables:
        yield Section(
            "Would other stories give the same vectors?",
            _reliable(done),
            [_shown(done, pictures, "reliability")],
        )
    yield Section(
        "Which emotions are alike",
        f"Cosine between the vectors of layer {done.shown_layer}, ordered by clustering.",
        [_shown(done, pictures, "similarity")],
    )
    yield Section(
        "Valence and arousal",
        _plane(done),
        [_shown(done, pictures, "principal_components")],
    )
    yield Section(
        "Valence and arousal by layer",
        "R2 of a norm on the first two components. Dashed: what 95 of 100 permuted norms stay "
        "below.",
        [_shown(done, pictures, "circumplex")],
    )
    if "steering" in done.tables:
        yield from _causal(done, pictures)
    for part, reason in done.not_applicable.items():
        yield Section(part.capitalize(), "", not_applicable=reason)


def _best_read(done: Reproduction) -> str:
    best = done.tables["probe_depth"].iloc[0]
    return (
        f"On half of the groups the {best.method} probe reads best after layer {best.layer}, "
        f"{best.depth:.2f} of the model's depth ({best.depth_low:.2f} to {best.depth_high:.2f} "
        f"with groups drawn anew); on the other half its accuracy there is {best.accuracy:.2f} "
        f"({best.low:.2f} to {best.high:.2f})."
    )


def _reliable(done: Reproduction) -> str:
    mean, table = done.summary["reliability"], done.tables["reliability"]
    worst = table.loc[table.self_low.idxmin()]
    return (
        f"At layer {done.shown_layer}, vectors of two halves of the topics have a cosine of "
        f"{mean['split_half']:.2f} (mean over emotions); stepped up to all topics, a vector's "
        f"cosine with that of endlessly many would be {mean['ceiling']:.2f}, which is as high as "
        "any comparison with another set of vectors can come. With topics drawn anew the cosine "
        f"with the vector itself is {mean['self_cosine']:.2f}; least steady is {worst.emotion} "
        f"({worst.self_low:.2f} in the worst 2.5% of draws). Right: vectors of fewer stories."
    )


def _plane(done: Reproduction) -> str:
    plane = done.tables["principal_components"]
    share = plane.share1.iloc[0] + plane.share2.iloc[0]
    covered = ", ".join(f"{k} for {n}" for k, n in done.summary["norm_words"].items())
    return (
        f"The first two principal components of the vectors hold {share:.0%} of their variance. "
        f"Known norms: {covered} of {len(plane)} emotions; a word without a norm is grey. The "
        "recovered axes may be rotated, so below both components together are held against each "
        "norm. " + " ".join(_correlated(done.tables["correlations"]))
    )


def _correlated(correlations: pd.DataFrame) -> Iterator[str]:
    """A sentence for each norm: the component that goes with it best, and what humans reach."""
    for axis, rows in correlations.groupby("axis", sort=False):
        best = rows.loc[rows.r.abs().idxmax()]
        ceiling = "" if pd.isna(best.ceiling) else f"; other human ratings reach {best.ceiling:.2f}"
        yield (
            f"Of three components {best.component.upper()} goes with {axis} best: r {best.r:.2f} "
            f"({best.low:.2f} to {best.high:.2f}, permutation p {best.p:.3f}, not corrected for "
            f"the choice{ceiling})."
        )


def _causal(done: Reproduction, pictures: dict[str, alt.TopLevelMixin]) -> Iterator[Section]:
    assert done.inputs.behaviour is not None, "causal parts exist only with a behaviour"
    target, (up, down) = done.inputs.behaviour.target, done.inputs.emotions
    layer, tables = done.summary["best_layer"], done.tables
    yield Section(
        f"What the situation does: P({target})",
        f"Probability of {target} after situations of each emotion, with 95% intervals over "
        "templates; ticks are the planted rates where they are known.",
        [_shown(done, pictures, "behaviour")],
    )
    yield Section(
        f"Steering, layer by layer: P({target}) after {NEUTRAL} situations",
        f"A step along {up} or {down} is added at one layer, at every position. Strength is a "
        "fraction of the mean residual norm; grey lines are 20 random directions of the same "
        f"length. Layer {layer} was chosen on one half of the templates; what is shown is of "
        "the other half.",
        [_shown(done, pictures, "steering")],
    )
    yield Section(
        f"Ablation, layer by layer: P({target}) after {up} situations",
        f"The coordinate along {up} is set to its mean over emotions at one layer, at every "
        "position. Grey: 20 random directions treated the same way.",
        [_shown(done, pictures, "ablation")],
    )
    yield Section(
        "Attribution against the exact effect",
        "Each point is one emotion at one layer: the change of the behavioural logit difference "
        "that the gradient foretells for a small step, and the change that was measured. "
        f"Correlation {done.summary['attribution_vs_exact_r']:.3f}.",
        [_shown(done, pictures, "attribution")],
    )
    yield Section(
        f"How {up} and {down} reach the logits",
        "Gradient: through all later layers. Direct: through the final norm and the unembedding "
        "alone. Exact: measured by steering.",
        [
            Exhibit(
                chart=pictures["attribution_bars"],
                table=tables["attribution"][tables["attribution"].emotion.isin((up, down))],
                table_file="attribution",
            )
        ],
    )


def facts(done: Reproduction) -> dict[str, str]:
    """What was read, where, and with which versions."""
    return {
        "model": repr(done.model),
        "stories": f"{done.summary['stories']:,} of {done.summary['emotions']} emotions, "
        f"{done.summary['stories_cut']} cut at the context's end",
        "positions read": ", ".join(f"{k}: {n:,}" for k, n in done.summary["positions"].items()),
        "shown layer": f"{done.shown_layer} of 0..{done.model.n_layers - 1}",
        "seconds": f"{done.summary['seconds']:.0f}",
        "versions": ", ".join(f"{k} {v}" for k, v in done.summary["versions"].items()),
    }


def write_reproduction(done: Reproduction, path: Path) -> None:
    """Write the report of a reproduction as one HTML file that needs no network."""
    title = f"Emotion directions in {done.model.name}"
    write_report(path, title=title, facts=facts(done), sections=list(sections(done)))
