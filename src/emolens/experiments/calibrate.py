"""How far can a method be trusted? Each is measured on the organism, where the truth is planted."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from emolens import figures
from emolens.activations import Activations
from emolens.controls import shuffled
from emolens.errors import SelectionError
from emolens.experiments.bench import (
    NULL_DIRECTIONS,
    Bench,
    Estimate,
    ablation,
    attribution,
    chosen_layer,
    detection,
    erasure,
    evoked,
    false_positives,
    geometry,
    mechanism,
    null_bound,
    patching,
    preferences,
    prepare,
    removals,
    significance,
    steering,
)
from emolens.kinds import (
    apart_from,
    other_speaker,
    present_speaker,
    record_generated,
    record_masked,
    record_speakers,
)
from emolens.model import HookedModel
from emolens.organism import (
    CHECKPOINTS,
    SCENES,
    organism_dialogues,
    organism_stories,
    organism_told_stories,
    organism_world,
)
from emolens.positions import span
from emolens.probes import lda_vectors, logistic_vectors
from emolens.provenance import versions
from emolens.recording import record
from emolens.report import Exhibit, Section, write_report, write_tables
from emolens.text import NEUTRAL
from emolens.vectors import EmotionVectors, Method, fit_vectors, paired_vectors

SCHEMA = 1
READING = 3  # blocks from the top: of fewer readers a rank correlation says little


def shuffled_vectors(stories: Activations, neutral: Activations) -> EmotionVectors:
    """Story vectors of stories whose labels are shuffled: directions of nothing."""
    return fit_vectors(shuffled(stories, seed=0), neutral)


METHODS: Mapping[str, Method] = {
    "story": fit_vectors,
    "story, neutral part kept": partial(fit_vectors, variance=0.0),
    "logistic weights": logistic_vectors,
    "LDA weights, shrunk": lda_vectors,
    "PCA of pairs": paired_vectors,
    "shuffled labels (control)": shuffled_vectors,
}

Reader = Callable[[Bench], Mapping[str, Activations]]  # labelled texts, by the name of their kind


def _told(bench: Bench) -> dict[str, Activations]:
    texts = organism_told_stories(seed=bench.seed, world=bench.world)
    return {"told by the assistant": record(bench.model, texts, positions=span("told"))}


def _speakers(bench: Bench) -> dict[str, Activations]:
    texts = organism_dialogues(seed=bench.seed, world=bench.world)
    found = record_speakers(bench.model, texts)
    return {"present speaker": present_speaker(found), "other speaker": other_speaker(found)}


def _masked(bench: Bench) -> dict[str, Activations]:
    dialogues = organism_dialogues(masked=True, seed=bench.seed, world=bench.world)
    felt, shown = record_masked(bench.model, dialogues)
    return {
        "deflection (felt, not shown)": felt,
        "deflection apart from stories": apart_from(
            felt, fit_vectors(bench.stories, bench.neutral)
        ),
        "shown by a mask": shown,
    }


def _generated(bench: Bench) -> dict[str, Activations]:
    stories = organism_stories(seed=bench.seed, world=bench.world)
    openings = [replace(t, text=t.text[: t.spans[0].end], spans=()) for t in stories]
    told = record_generated(bench.model, openings, tokens=24, seed=bench.seed)
    return {"own continuations": told}


KINDS: Sequence[Reader] = (_told, _speakers, _masked, _generated)


@dataclass(frozen=True)
class Measure:
    """What a figure would be for a perfect method, and what it says."""

    ideal: float
    meaning: str


MEASURES: Mapping[str, Measure] = {
    "detection_accuracy": Measure(
        1.0,
        "the emotion at a decision after a situation that nobody has seen, neither the model nor "
        "the vectors, by nearest vector; chance is 1 of 24 (of 171 in the wide world)",
    ),
    "steering_r": Measure(
        1.0,
        "change of P(behaviour) by one natural unit against the planted change, over emotions, "
        "scenes and classes: correlation",
    ),
    "steering_slope": Measure(1.0, "the same, slope: 1 is the whole planted effect"),
    "steering_error": Measure(
        0.0,
        "the same, mean absolute difference between P(behaviour) under the step and the planted "
        "P(behaviour | emotion); what the model itself is off after situations is in it",
    ),
    "specificity_leak": Measure(
        0.0,
        "mean absolute change of the other emotions' most raised behaviours when an emotion's "
        "direction is removed, as a share of what is raised",
    ),
    "ablation_share": Measure(
        1.0,
        "share of an emotion's most raised behaviour, over its rate after neutral situations, "
        "that goes with its own direction",
    ),
    "valence_r2": Measure(1.0, "planted valence on the first two components of the vectors"),
    "arousal_r2": Measure(1.0, "planted arousal on the first two components of the vectors"),
    "false_positive_rate": Measure(
        0.05,
        "share of vectors from stories with shuffled labels that, one residual norm long, move "
        "behaviour more than 95% of random directions do",
    ),
}


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Attributes:
        methods: one row a method and measure: method, measure, value, low, high (95%), ideal.
        layers: the layer that each method was used at, chosen on half of the prompts.
        removal: one row a way of removing an emotion at the first method's layer: way, and the
            two measures of removal, each with low and high.
        attribution: one row a way of attribution: way, r and slope against exact steering, each
            with low and high.
        mechanism: one row a way of telling writers and readers of the first method's vectors at its
            layer, or the last that has two blocks above it: way, rho (with taking components out),
            low, high, and the same for behaviours of words drawn by chance.
        preferences: one row a comparison of ratings of activities: what, r, low, high, n.
        patching: one row a part of the residual at the first method's layer: part, and what of the
            difference in behaviour comes with it; of random directions the mean and the extremes.
        significance: one row a size of planted change: how many steps of the first method's
            vectors, and the share that `against_random` calls more than random.
        provenance: model, seed, versions.
    """

    methods: pd.DataFrame
    layers: Mapping[str, int]
    removal: pd.DataFrame
    attribution: pd.DataFrame
    mechanism: pd.DataFrame
    preferences: pd.DataFrame
    patching: pd.DataFrame
    significance: pd.DataFrame
    provenance: Mapping[str, Any]

    def __repr__(self) -> str:
        """A line a method."""
        wide = self.methods.pivot(index="method", columns="measure", values="value")
        return wide.loc[list(self.layers), list(MEASURES)].round(2).to_string()

    def to_json(self) -> str:
        """One JSON object; `methods` is a list with `name` and each measure's value, low, high."""
        rows = []
        for name, layer in self.layers.items():
            own = self.methods[self.methods.method == name]
            found = {
                r.measure: {"value": r.value, "low": r.low, "high": r.high}
                for r in own.itertuples()
            }
            rows.append({"name": name, "layer": layer, **found})
        return json.dumps(
            {
                "schema": SCHEMA,
                "methods": rows,
                **{name: table.to_dict("records") for name, table in self._others.items()},
                "ideal": {name: measure.ideal for name, measure in MEASURES.items()},
                **self.provenance,
            },
            indent=1,
        )

    def save(self, out: Path) -> None:
        """Write `calibration.json` and the tables into a folder that exists."""
        (out / "calibration.json").write_text(self.to_json() + "\n")
        write_tables(out, {"methods": self.methods, **self._others})

    @property
    def _others(self) -> dict[str, pd.DataFrame]:
        names = ("removal", "attribution", "mechanism", "preferences", "patching", "significance")
        return {name: getattr(self, name) for name in names}


def calibrate(
    model: HookedModel,
    methods: Mapping[str, Method] = METHODS,
    kinds: Sequence[Reader] = KINDS,
    *,
    scenes: Sequence[str] = SCENES,
    random_count: int = NULL_DIRECTIONS,
    seed: int = 0,
    world: str | None = None,
) -> Calibration:
    """Measure methods of finding emotion vectors against the organism's planted truth.

    Args:
        model: the organism, or another model trained on its world or the wide one.
        methods: by name: functions that make vectors from recordings of stories and of neutral
            texts. A new method joins by being passed in.
        kinds: functions of the bench (its model, stories, neutral texts and seed) that record other
            texts, by name; the paper's method (`fit_vectors`) makes vectors of each.
        scenes: of the world, the first of which the layer is chosen on.
        random_count: directions drawn by chance that steps are held against; the default tells a
            share of 95% to a point.
        seed: of texts and random directions.
        world: whose emotions, `"narrow"` or `"wide"`; by default those of a shipped checkpoint, the
            narrow ones for another model (`organism_world` tells a folder's). Of the wide world's
            171 every seventh is removed; all else is of all.

    Returns:
        Every measure of `MEASURES` for every method and kind, with a 95% interval over emotions
        (over situations for detection, over vectors for false positives). The layer of each is
        chosen on half of the situations, where its *desperate* moves the first scene most; what
        is told of behaviour is of the other half.

    Raises:
        SelectionError: without methods and kinds, or without scenes, or for an unknown scene.
        ModelError: for a model without logits.

    >>> import emolens
    >>> calibrate(emolens.load("organism"), {}, ())
    Traceback (most recent call last):
        ...
    emolens.errors.SelectionError: nothing to calibrate: pass at least one method and one scene
    """
    if not (methods or kinds) or not scenes:
        raise SelectionError("nothing to calibrate: pass at least one method and one scene")
    if world is None:
        world = organism_world(model.name) if model.name in CHECKPOINTS else "narrow"
    bench = prepare(model, scenes, seed, random_count, world)
    ways = {name: (method, bench.stories) for name, method in methods.items()}
    for read in kinds:
        ways |= {name: (fit_vectors, texts) for name, texts in read(bench).items()}
    made = {name: method(texts, bench.neutral) for name, (method, texts) in ways.items()}
    layers = {name: chosen_layer(bench, vectors) for name, vectors in made.items()}
    bounds = {layer: null_bound(bench, layer) for layer in sorted(set(layers.values()))}
    found: dict[str, dict[str, Estimate]] = {}
    for name, vectors in made.items():
        layer = layers[name]
        found[name] = {
            **detection(bench, vectors, layer),
            **steering(bench, vectors, layer, name),
            **ablation(bench, removals(bench, vectors, layer), layer, name),
            **geometry(bench, vectors, layer),
            **false_positives(bench, *ways[name], layer, bounds[layer]),
        }
    rows = [(n, m, *found[n][m], MEASURES[m].ideal) for n in found for m in MEASURES]
    first = next(iter(made))
    leace = erasure(bench, layers[first])
    return Calibration(
        methods=pd.DataFrame(rows, columns=["method", "measure", "value", "low", "high", "ideal"]),
        layers=layers,
        removal=_removal({"direction set to the mean": found[first], "LEACE": leace}),
        attribution=attribution(bench.scenes[scenes[0]].after(NEUTRAL), made[first], seed),
        mechanism=_mechanism(bench, made[first], min(layers[first], model.n_layers - READING)),
        preferences=preferences(bench, made[first], layers[first]),
        patching=patching(bench, made[first], layers[first]),
        significance=significance(bench, made[first], layers[first]),
        provenance={
            "model": model.name,
            "world": world,
            "seed": seed,
            "random_count": random_count,
            "versions": versions(),
        },
    )


def _mechanism(bench: Bench, vectors: EmotionVectors, layer: int) -> pd.DataFrame:
    """Writers, readers and evoking words; the last need captum."""
    parts = [mechanism(bench, vectors, layer)]
    if find_spec("captum"):
        parts.append(evoked(bench, vectors, layer))
    return pd.concat(parts, ignore_index=True)


def _removal(ways: Mapping[str, Mapping[str, Estimate]]) -> pd.DataFrame:
    """Ways of removing an emotion beside each other."""
    columns = ["way", "ablation_share", "share_low", "share_high"]
    columns += ["specificity_leak", "leak_low", "leak_high"]
    rows = [(way, *f["ablation_share"], *f["specificity_leak"]) for way, f in ways.items()]
    return pd.DataFrame(rows, columns=columns)


def write_calibration(done: Calibration, path: Path) -> None:
    """Write a calibration as one HTML file that needs no network."""
    facts = {name: str(done.provenance[name]) for name in ("model", "world", "seed")}
    facts["random directions"] = str(done.provenance["random_count"])
    facts["layers"] = ", ".join(f"{name}: {layer}" for name, layer in done.layers.items())
    facts["versions"] = ", ".join(f"{k} {v}" for k, v in done.provenance["versions"].items())
    found = Section(
        "Which method to trust, and how wrong it tends to be",
        "Each method on the organism's planted truth, with 95% intervals.",
        [
            Exhibit(
                chart=figures.calibration(done.methods),
                table=done.methods,
                table_file="methods",
            )
        ],
    )
    meaning = Section(
        "What each figure says",
        "And what it would be for a perfect method.",
        [
            Exhibit(
                table=pd.DataFrame(
                    [(name, measure.ideal, measure.meaning) for name, measure in MEASURES.items()],
                    columns=["figure", "perfect", "meaning"],
                )
            )
        ],
    )
    removal = Section(
        "Ways of removing an emotion",
        "The direction of the first method set to the mean over emotions, against least-squares "
        "concept erasure (LEACE) fitted on the same stories, at the same layer.",
        [Exhibit(table=done.removal, table_file="removal")],
    )
    ways = Section(
        "Ways of attribution against exact steering",
        "Correlation and slope of the predicted on the measured change of the logit difference, "
        "over emotions and layers, for a step of a twentieth of the residual norm.",
        [Exhibit(table=done.attribution, table_file="attribution")],
    )
    traced = Section(
        "Who writes and who reads, as told and as tried",
        "Rank correlation over components between what a way of attribution says and what the "
        "behaviour loses when the component is taken out (what a writer has written becomes its "
        "mean after neutral situations, at the site, or, in the whole network, at its own place "
        "with all above it run anew; a reader is held to what it gives without a step of one "
        "natural unit), mean over five emotions. Beside it the same for behaviours of words "
        "drawn by chance, where the sign is chance. Of words: the parts of a prompt that evoke a "
        "direction, beside what evokes other emotions.",
        [Exhibit(table=done.mechanism, table_file="mechanism")],
    )
    liked = Section(
        "Preferences",
        "Bradley-Terry ratings of 64 activities from all 4,032 ordered pairs against the planted "
        "ones; how each emotion's activation goes with ratings, against the emotion's planted "
        "valence; and against what steering with it where activities are told does to ratings.",
        [Exhibit(table=done.preferences, table_file="preferences")],
    )
    patched = Section(
        "What comes with a part of another run's residual",
        "Residuals of runs after *desperate* put into runs after *calm* that end alike, at the "
        "layer of the first method: all of them, only along the difference of the two vectors, all "
        "but that, and as long a step in random directions (their mean; the interval is their "
        "range). A perfect direction brings all, its complement nothing.",
        [Exhibit(table=done.patching, table_file="patching")],
    )
    called = Section(
        "How often a step is called more than random",
        "Steps of half a residual norm along every emotion in every scene, held against "
        "random ones by rank: the share with p of at most .05, by the planted "
        "change of the behaviour; and as many random directions taken for emotions, of which one "
        "in twenty should be called.",
        [Exhibit(table=done.significance, table_file="significance")],
    )
    sections = [found, meaning, removal, ways, traced, liked, patched, called]
    write_report(path, title="Calibration of methods", facts=facts, sections=sections)
