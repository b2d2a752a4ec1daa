"""Everything for one model from one call: the main job, the paper's experiments, one report."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from emolens.behaviour import Behaviour
from emolens.errors import SelectionError
from emolens.experiments import reproduce as main_job
from emolens.experiments.paper.catalogue import EXPERIMENTS, paper_experiments
from emolens.experiments.paper.report import sections, summary
from emolens.experiments.paper.running import RECORDINGS, Results, plan, run_experiments
from emolens.experiments.paper.study import Experiment, Study
from emolens.experiments.report import facts as main_facts, sections as main_sections
from emolens.experiments.reproduce import Inputs, Reproduction
from emolens.report import write_report
from emolens.text import NEUTRAL, Text
from emolens.vectors import EmotionVectors

MAIN = "main"
CARD = "results.json"
STEPS = 100  # whole passes that the main job's steps at one layer come to, with what they share


@dataclass(frozen=True, eq=False)
class Order:
    """What is asked for.

    Attributes:
        study: model and materials.
        inputs: of the main job.
        main: whether the main job is to be done.
        experiments: of the paper.
        layers: of the main job; all by default. Experiments use all.
        vectors: fitted before, for the main job.
    """

    study: Study
    inputs: Inputs
    main: bool
    experiments: tuple[Experiment, ...]
    layers: Sequence[int] | None = None
    vectors: EmotionVectors | None = None

    def plan(self, out: Path) -> pd.DataFrame:
        """What each part would cost, as `running.plan` gives it, the main job among them."""
        behaviour = self.inputs.behaviour
        prompts = behaviour.after(NEUTRAL).prompts if self.main and behaviour else ()
        layers = len(self.layers or range(self.study.model.n_layers))
        main = self.study.tokens(prompts) * layers * STEPS if self.main else None
        return plan(self.study, self.experiments, out, main=main)


def parse_experiments(words: str | None, *, given: bool) -> tuple[bool, tuple[Experiment, ...]]:
    """Whether the main job is among the names, and the experiments that are.

    Args:
        words: names with commas between; everything by default.
        given: whether vectors are passed in, which the main job alone can take.

    Raises:
        SelectionError: for an unknown name, or experiments on vectors that are passed in.

    >>> main, experiments = parse_experiments("main,lens", given=False)
    >>> main, [e.name for e in experiments]
    (True, ['lens'])
    """
    if words is None:
        return True, () if given else EXPERIMENTS
    names = [name.strip() for name in words.split(",") if name.strip()]
    rest = [name for name in names if name != MAIN]
    if given and rest:
        raise SelectionError(
            f"--vectors goes with the main job alone, not with {', '.join(rest)}: experiments fit "
            "vectors of their own stories"
        )
    if not names:
        raise SelectionError(f"--experiments is empty: name {MAIN} or others, or leave it out")
    return MAIN in names, paper_experiments(rest) if rest else ()


def carry_out(order: Order, out: Path) -> tuple[Reproduction | None, Results]:
    """Do all that is not done yet, and write tables, vectors, `results.json` and `report.html`.

    What is done is kept as soon as it is, so that the same call goes on after a kill.

    Args:
        order: what is asked for.
        out: a folder that exists.

    Raises:
        EmolensError: of the main job; an experiment that fails is named in its outcome.
    """
    done = _main(order, out) if order.main else None
    results = run_experiments(order.study, order.experiments, out)
    if results.fresh:
        order.study.vectors.save(out / "vectors.safetensors")
    if order.experiments:
        (out / CARD).write_text(results.to_json() + "\n", encoding="utf-8")
    write_whole(done, results, out / "report.html")
    return done, results


def _main(order: Order, out: Path) -> Reproduction:
    study = order.study
    study.folder = out / RECORDINGS
    own = hashlib.sha256(
        json.dumps([study.identity, _told(order), str(order.layers), str(order.vectors)]).encode()
    ).hexdigest()
    done = Reproduction.load(out, study.model, order.inputs, own)
    if done is None:
        shared = order.layers is None and order.vectors is None and bool(order.experiments)
        done = main_job.reproduce(
            study.model,
            order.inputs,
            layers=order.layers,
            vectors=order.vectors,
            recorded=(study.stories, study.neutral) if shared else None,
            seed=study.seed,
        )
        done.summary["identity"] = own
        done.save(out)
    return done


def _told(order: Order) -> list:
    """The main job's inputs that a study's identity does not hold."""
    behaviour: Behaviour | None = order.inputs.behaviour
    prompts: tuple[Text, ...] = behaviour.prompts if behaviour else ()
    return [behaviour.name if behaviour else "", [t.text for t in prompts], order.inputs.emotions]


def write_whole(done: Reproduction | None, results: Results, path: Path) -> None:
    """Write the report of everything as one HTML file that needs no network."""
    facts = main_facts(done) if done is not None else {}
    of = results.provenance
    facts |= {
        "model": f"{of['model']}, {of['layers']} layers, d_model {of['d_model']}",
        "texts": f"{of['texts']}, {of['emotions']} emotions",
        "layer of the experiments": f"{of['layer']} of 0..{of['layers'] - 1}, two thirds of depth",
        "compared with": of["base"] or "no base model",
        "seed": str(of["seed"]),
        "versions": ", ".join(f"{k} {v}" for k, v in of["versions"].items()),
    }
    write_report(
        path,
        title=f"Emotion vectors of {of['model']}",
        facts=facts,
        sections=[*(main_sections(done) if done is not None else ()), *sections(results)],
        summary=summary(results) if results.outcomes else None,
    )
