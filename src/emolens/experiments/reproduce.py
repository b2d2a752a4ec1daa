"""The main job: find emotion directions, localise, steer, ablate and attribute them; one report."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from emolens.ablation import ablate_layers
from emolens.activations import Activations
from emolens.attribution import STRENGTH, attribute
from emolens.behaviour import Behaviour
from emolens.corpus import Corpus
from emolens.decisions import Trial
from emolens.errors import ArtefactError, EmolensError, ModelError, SelectionError, first_line
from emolens.geometry import circumplex, correlations, principal_components, similarity
from emolens.model import HookedModel
from emolens.norms import VADER, Ceiling, Norms, ceilings, vader_valence
from emolens.organism import (
    organism_behaviour,
    organism_corpus,
    planted_norms,
    planted_probability,
    planted_words,
)
from emolens.probes import group_folds, probe_depth, probe_layers, text_baseline
from emolens.provenance import versions
from emolens.readout import logit_lens
from emolens.recording import record
from emolens.reliability import learning_curve, vector_reliability
from emolens.report import write_tables
from emolens.resume import whole
from emolens.statistics import clustered_interval
from emolens.steering import best_layer, dose_response, natural_units, pushes
from emolens.text import NEUTRAL
from emolens.vectors import EmotionVectors, fit_vectors, load_vectors

SCHEMA = 1
SUMMARY = "summary.json"
EMOTIONS = ("desperate", "calm")
PROBES = ("nearest vector", "logistic", "ridge")  # LDA takes hours in thousands of dimensions


@dataclass(frozen=True)
class Inputs:
    """What a reproduction works on.

    Attributes:
        corpus: stories and neutral texts.
        norms: valence and, where known, arousal of the emotions, in -1..1.
        words: each emotion's own words, marked in the logit lens.
        behaviour: the decision to steer, ablate and attribute; None where there is none.
        no_behaviour: why there is none.
        emotions: the one whose push should raise the behaviour, and the one that should lower it.
        planted: planted P(behaviour | emotion), for the organism.
        ceilings: what other human ratings reach against the norms, by axis, where known.
    """

    corpus: Corpus
    norms: Norms
    words: Mapping[str, Sequence[str]]
    behaviour: Behaviour | None
    no_behaviour: str = ""
    emotions: tuple[str, str] = EMOTIONS
    planted: Mapping[str, float] = field(default_factory=dict)
    ceilings: Mapping[str, Ceiling] = field(default_factory=dict)


@dataclass
class Reproduction:
    """Everything a reproduction found.

    Attributes:
        tables: tidy tables by name; `save` writes each as CSV and Parquet.
        summary: the numbers of `summary.json`.
        not_applicable: parts that this model cannot have, with the reason.
        vectors: the fitted vectors.
    """

    model: HookedModel
    inputs: Inputs
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    not_applicable: dict[str, str] = field(default_factory=dict)
    vectors: EmotionVectors | None = None

    def __repr__(self) -> str:
        """The main numbers, one to a line."""
        lines = [f"Reproduction({self.model!r})"]
        lines += [f"  {k}: {_short(v)}" for k, v in self.summary.items() if k != "versions"]
        lines += [f"  not applicable: {part} ({why})" for part, why in self.not_applicable.items()]
        return "\n".join(lines)

    @property
    def shown_layer(self) -> int:
        """The layer of the pictures: where steering works best, else where probes read best."""
        return int(self.summary.get("best_layer", self.summary.get("best_probe_layer", 0)))

    def save(self, out: Path) -> None:
        """Write tables, vectors and `summary.json` into a folder that exists."""
        write_tables(out, self.tables)
        if self.vectors is not None:
            self.vectors.save(out / "vectors.safetensors")
        told = self.summary | {"tables": list(self.tables), "absent": self.not_applicable}
        with whole(out / SUMMARY) as fresh:
            fresh.write_text(json.dumps(_finite(told), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(
        cls, out: Path, model: HookedModel, inputs: Inputs, identity: str
    ) -> "Reproduction | None":
        """What `save` left there, if it is of the same identity; else nothing.

        Raises:
            ArtefactError: for damaged files.
        """
        if not (out / SUMMARY).exists():
            return None
        try:
            summary = json.loads((out / SUMMARY).read_text("utf-8"))
            if summary.get("identity") != identity:
                return None
            absent = dict(summary.pop("absent"))
            names = summary.pop("tables")
            tables = {t: pd.read_parquet(out / "tables" / f"{t}.parquet") for t in names}
            vectors = load_vectors(out / "vectors.safetensors")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArtefactError(
                f"{out / SUMMARY} or its tables are not readable ({first_line(error)}): delete "
                "summary.json, and the main job runs anew"
            ) from None
        return cls(model, inputs, tables, summary, absent, vectors)


def _finite(value: Any) -> Any:
    """The value with null for every number that JSON cannot hold."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list):
        return "[" + ", ".join(_short(v) for v in value[:8]) + (", ...]" if value[8:] else "]")
    if isinstance(value, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    return str(value)


def organism_inputs(
    *,
    emotions: tuple[str, str] = EMOTIONS,
    behaviour: Behaviour | None = None,
    seed: int = 0,
    world: str = "narrow",
) -> Inputs:
    """The embedded default: the organism's stories and its scene of the impossible task.

    Args:
        emotions: the pair that is shown in most pictures.
        behaviour: another than the scene.
        seed: of the texts.
        world: of which organism: `"narrow"` with 24 emotions or `"wide"` with 171.

    Raises:
        SelectionError: for an emotion that the organism does not know.
    """
    situations = (emotions[0], NEUTRAL, emotions[1])
    planted = {}
    if behaviour is None:
        planted = {e: planted_probability("cheat", "cheat", e, world=world) for e in situations}
        behaviour = organism_behaviour("cheat", emotions=situations, seed=seed, world=world)
    return Inputs(
        corpus=organism_corpus(seed=seed, world=world),
        norms=planted_norms(world),
        words=planted_words(world),
        behaviour=behaviour,
        emotions=emotions,
        planted=planted,
    )


def corpus_inputs(
    corpus: Corpus,
    behaviour: Behaviour | None,
    emotions: tuple[str, str] = EMOTIONS,
) -> Inputs:
    """Inputs for any model: the user's stories, VADER valence, and a behaviour if one is given."""
    return Inputs(
        corpus=corpus,
        norms={"valence": vader_valence(corpus.emotions)},
        words={e: (e,) for e in corpus.emotions},
        behaviour=behaviour,
        no_behaviour="" if behaviour else "no behaviour was given (--behaviour FILE)",
        emotions=emotions,
        ceilings=ceilings(VADER, corpus.emotions),
    )


def reproduce(
    model: HookedModel,
    inputs: Inputs | None = None,
    *,
    layers: Sequence[int] | None = None,
    vectors: EmotionVectors | None = None,
    recorded: tuple[Activations, Activations] | None = None,
    seed: int = 0,
) -> Reproduction:
    """Run the main job.

    Args:
        model: the hooked model.
        inputs: texts, norms and behaviour; the organism's own by default.
        layers: 0-based blocks; by default all, or those of the vectors that are passed in.
        vectors: fitted before on the same model, instead of fitting them from the stories.
        recorded: the stories and the neutral texts at all of these layers, where they have been
            read before.
        seed: of folds, random directions and permutations.

    Returns:
        Tables, summary and what does not apply. Parts that need next-token logits or a behaviour
        are listed as not applicable where there are none.

    Raises:
        SelectionError: for unknown emotions or layers, or prompts that cannot be used, before any
            long work is done.
        CorpusError: if the stories have too few topics to hold any out.
        ModelError: for vectors of another model.
    """
    began = time.perf_counter()
    inputs = inputs or organism_inputs(seed=seed)
    if vectors is not None:
        model.check_origin(vectors.provenance, "this set of vectors")
    fitted = range(model.n_layers) if vectors is None else vectors.layers
    chosen = model.check_layers(layers if layers is not None else fitted)
    if vectors is not None:
        vectors = vectors.only(chosen)
    trials = _trials(model, inputs, vectors)
    texts = inputs.corpus.stories
    group_folds([t.emotion for t in texts], [t.group for t in texts], seed=seed)
    done = Reproduction(model, inputs)
    stories, neutral = recorded or tuple(
        record(model, texts, layers=chosen)
        for texts in (inputs.corpus.stories, inputs.corpus.neutral)
    )
    done.vectors = vectors if vectors is not None else fit_vectors(stories, neutral)
    _found(done, stories, seed)
    _geometry(done, seed)
    _caused(done, trials, seed)
    if vectors is None:
        _reliable(done, stories, neutral, seed)
    else:
        done.not_applicable["reliability"] = "the vectors were passed in, not fitted on the stories"
    done.summary |= {
        "seconds": round(time.perf_counter() - began, 1),
        "model": model.name,
        "versions": versions(),
    }
    return done


def _trials(model: HookedModel, inputs: Inputs, vectors: EmotionVectors | None) -> dict[str, Trial]:
    """The prompts of each situation made ready; none without a behaviour or logits."""
    behaviour, (up, down) = inputs.behaviour, inputs.emotions
    if behaviour is None or not model.causal:
        return {}
    _check_emotions(inputs, vectors)
    trials = {e: Trial.prepare(model, behaviour.after(e)) for e in (up, NEUTRAL, down)}
    for emotion in (up, NEUTRAL):
        if len(set(trials[emotion].groups)) < 2:
            raise SelectionError(
                f"the prompts of {behaviour.name!r} after {emotion} situations are all of one "
                "group, and a layer is chosen on some groups and told on others: give two or more"
            )
    return trials


def _check_emotions(inputs: Inputs, vectors: EmotionVectors | None) -> None:
    """Unknown emotions stop the job before it has begun."""
    if vectors is not None:
        for emotion in inputs.emotions:
            vectors.row(emotion)
        return
    for emotion in inputs.emotions:
        if emotion not in inputs.corpus.emotions:
            known = ", ".join(inputs.corpus.emotions)
            raise SelectionError(f"unknown emotion {emotion!r}: the stories have {known}")


def _found(done: Reproduction, stories: Activations, seed: int) -> None:
    """Probes beside the text baseline, and what the vectors say through the unembedding."""
    probe = probe_layers(stories, methods=PROBES, seed=seed)
    done.tables["probes"] = probe
    done.tables["text_baseline"] = text_baseline(done.inputs.corpus.stories, seed=seed)
    done.tables["probe_depth"] = probe_depth(stories, seed=seed)
    logistic = probe[probe.method == "logistic"]
    done.summary |= {
        "schema": SCHEMA,
        "layers": list(stories.layers),
        "probe_accuracy_by_layer": logistic.accuracy.tolist(),
        "probe_depth": done.tables["probe_depth"].iloc[0].to_dict(),
        "text_baseline_accuracy": float(done.tables["text_baseline"].accuracy.iloc[0]),
        "emotions": len(stories.labels),
        "stories": stories.provenance.texts,
        "stories_cut": stories.provenance.cut,
        "positions": dict(stories.provenance.positions),
    }
    _part(done, "logit lens", lambda: _lens(done))


def _part(done: Reproduction, name: str, work: Callable[[], None]) -> None:
    """Do a part that needs logits, or say why it does not apply."""
    try:
        done.model.require_logits(f"the {name}")
    except ModelError as error:
        done.not_applicable[name] = str(error)
        return
    work()


def _lens(done: Reproduction) -> None:
    lens = logit_lens(done.model, _vectors(done), own=done.inputs.words)
    done.tables["logit_lens"] = lens
    hit = lens.groupby(["layer", "emotion"]).own.any().groupby("layer").mean()
    done.summary["lens_own_word_by_layer"] = hit.tolist()


def _geometry(done: Reproduction, seed: int) -> None:
    vectors, norms = _vectors(done), done.inputs.norms
    table = circumplex(vectors, vectors.layers, norms, seed=seed)
    done.tables["circumplex"] = table
    done.summary["norm_words"] = {k: len(v) for k, v in norms.items()}


def _shown_geometry(done: Reproduction, layer: int, seed: int) -> None:
    """The pictures and summary numbers of one layer, once it is chosen."""
    vectors, norms = _vectors(done), done.inputs.norms
    done.tables["similarity"] = similarity(vectors, layer)
    done.tables["principal_components"] = principal_components(vectors, layer, norms)
    table = done.tables["circumplex"]
    here = table[table.layer == layer]
    done.summary["circumplex_r2"] = dict(zip(here.axis, here.r2, strict=True))
    found = correlations(vectors, layer, norms, ceilings=done.inputs.ceilings, seed=seed)
    done.tables["correlations"] = found
    pc1 = found[found.component == "pc1"]
    done.summary["pc1_r"] = dict(zip(pc1.axis, pc1.r, strict=True))


def _vectors(done: Reproduction) -> EmotionVectors:
    assert done.vectors is not None, "vectors are fitted first"
    return done.vectors


def _caused(done: Reproduction, trials: Mapping[str, Trial], seed: int) -> None:
    """Steering, ablation and attribution on the behaviour; or the reason why not."""
    parts = ("behaviour", "steering", "ablation", "attribution")
    if not trials:
        try:
            done.model.require_logits("the behavioural half")
            reason = done.inputs.no_behaviour
        except ModelError as error:
            reason = str(error)
        done.not_applicable |= dict.fromkeys(parts, reason)
        _shown_geometry(done, _probe_layer(done), seed)
        return
    up, down = done.inputs.emotions
    neutral = trials[NEUTRAL]
    _behaved(done, trials)
    natural = natural_units(_vectors(done), {e: trials[e] for e in (up, down)}, neutral)
    steps = pushes(_vectors(done), (up, down), natural, seed=seed)
    done.tables["steering"] = dose_response(neutral, steps)
    layer = best_layer(done.tables["steering"], up)
    done.summary |= {
        "best_layer": layer,
        "natural_unit": {e: natural[e, layer] for e in (up, down)},
        "residual_norm": float(_vectors(done).residual_norm[_vectors(done).column(layer)]),
    }
    _steered(done, layer)
    target = float(neutral.run().p.mean())
    ablation = ablate_layers(trials[up], _vectors(done), up, target=target, seed=seed)
    done.tables["ablation"] = ablation
    _ablated(done, layer)
    attribution = attribute(neutral, _vectors(done))
    done.tables["attribution"] = attribution
    done.summary["attribution_vs_exact_r"] = float(attribution.gradient.corr(attribution.exact))
    done.summary["attribution_strength"] = STRENGTH
    _shown_geometry(done, layer, seed)


def _reliable(done: Reproduction, stories: Activations, neutral: Activations, seed: int) -> None:
    """Whether other stories would give the same vectors at the layer that is shown."""
    layer = done.shown_layer
    table = vector_reliability(stories, neutral, layer, seed=seed)
    done.tables["reliability"] = table
    done.tables["learning_curve"] = learning_curve(stories, neutral, layer, seed=seed)
    done.summary["reliability"] = {
        name: float(table[name].mean()) for name in ("split_half", "ceiling", "self_cosine")
    }


def _probe_layer(done: Reproduction) -> int:
    """Without a behaviour, the pictures show the layer where the probe reads best."""
    probe = done.tables["probes"]
    logistic = probe[probe.method == "logistic"]
    layer = int(logistic.layer[logistic.accuracy.idxmax()])
    done.summary["best_probe_layer"] = layer
    return layer


def _key(done: Reproduction, prefix: str) -> str:
    assert done.inputs.behaviour is not None, "only called with a behaviour"
    return f"{prefix}_{done.inputs.behaviour.target}"


def _behaved(done: Reproduction, trials: Mapping[str, Trial]) -> None:
    rows = []
    for emotion, trial in trials.items():
        decision = trial.run()
        p = clustered_interval(decision.p.tolist(), trial.groups)
        planted = done.inputs.planted.get(emotion, float("nan"))
        rows.append((emotion, *p, float(decision.legal.mean()), planted))
    columns = ["emotion", "p", "low", "high", "legal", "planted"]
    table = pd.DataFrame(rows, columns=columns)
    done.tables["behaviour"] = table
    done.summary[_key(done, "p")] = dict(zip(table.emotion, table.p, strict=True))


def _steered(done: Reproduction, layer: int) -> None:
    table = done.tables["steering"]
    told = table[(table.layer == layer) & (table.half == "report")]
    doses = [("norm", 0.5), ("norm", 1.0), ("natural", 0.5), ("natural", 1.0)]
    found: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(told.kind):
        rows = told[told.kind == kind]
        values = {
            f"{u}_{s}": rows[(rows.unit == u) & (rows.strength == s)].p.tolist() for u, s in doses
        }
        found[kind] = values if kind == "random" else {k: v[0] for k, v in values.items()}
    done.summary[_key(done, "steered_p")] = found


def _ablated(done: Reproduction, layer: int) -> None:
    table = done.tables["ablation"]
    told = table[(table.layer == layer) & (table.half == "report")]
    done.summary["ablation_excess_removed"] = {
        kind: float(told[told.kind == kind].excess_removed.mean())
        for kind in dict.fromkeys(told.kind)
    }


def output_folder(name: str, *parts: object) -> Path:
    """`emolens-out/<name>-<hash>`: the hash is of everything that decides the result.

    >>> str(output_folder("organism", 1)) == str(output_folder("organism", 2))
    False
    """
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:8]
    return Path("emolens-out") / f"{name.replace('/', '-')}-{digest}"


def prepare_folder(out: Path) -> Path:
    """Make the output folder and see that it can be written, before any long work.

    Raises:
        EmolensError: if not.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".emolens-writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise EmolensError(
            f"cannot write into {out} ({error.strerror}): choose another --out"
        ) from None
    return out
