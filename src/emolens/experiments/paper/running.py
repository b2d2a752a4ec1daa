"""Plan experiments, run them one after the other, go on after a kill, and past what fails."""

import json
import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from emolens.errors import ArtefactError, EmolensError, first_line
from emolens.experiments.paper.claims import (
    NOT_APPLICABLE,
    Found,
    Measured,
    judge,
    overall,
)
from emolens.experiments.paper.study import Experiment, Study
from emolens.report import write_tables
from emolens.resume import whole

SCHEMA = 1
KEPT = "experiments"  # what is done, by experiment
RECORDINGS = "recordings"  # of stories, until all is done
FAILED = "failed"
TIMED = 8  # texts that the rate is measured on


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of an experiment.

    Attributes:
        experiment: which.
        verdict: by its rules; "failed" where it stopped with an error.
        found: what was measured; nothing where it does not apply or failed.
        reason: why it does not apply, or what the error said.
        seconds: how long it took.
    """

    experiment: Experiment
    verdict: str
    found: Found = field(default_factory=lambda: Found({}, {}))
    reason: str = ""
    seconds: float = 0.0

    @property
    def claims(self) -> list[dict[str, Any]]:
        """One row a claim, with what was found, its rule's bounds and its verdict."""
        rows = []
        for claim in self.experiment.claims:
            measured = self.found.measured.get(claim.name)
            missing = dict.fromkeys(("found", "low", "high", "bound"))
            verdict = judge(claim, measured) if self.found.measured else self.verdict
            rows.append(
                {
                    "claim": claim.name,
                    "says": claim.says,
                    "paper": claim.paper,
                    "confidence": claim.confidence,
                    "least": claim.least,
                    **(asdict(measured) if measured else missing),
                    "verdict": verdict,
                    "left_out": self.found.left_out.get(claim.name, ""),
                }
            )
        return rows


@dataclass(frozen=True, eq=False)
class Results:
    """Everything that a study of a model found.

    Attributes:
        outcomes: in order.
        provenance: model, texts, layer, seed and versions.
        fresh: which were run now, and not taken over from earlier calls.
    """

    outcomes: tuple[Outcome, ...]
    provenance: Mapping[str, Any]
    fresh: tuple[str, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of experiments that stopped with an error."""
        return tuple(o.experiment.name for o in self.outcomes if o.verdict == FAILED)

    def to_json(self) -> str:
        """The model's card of results: one JSON object."""
        found = {
            "schema": SCHEMA,
            **self.provenance,
            "experiments": [
                {
                    "name": o.experiment.name,
                    "figures": o.experiment.figures,
                    "verdict": o.verdict,
                    "reason": o.reason,
                    "seconds": round(o.seconds, 1),
                    "claims": o.claims,
                }
                for o in self.outcomes
            ],
        }
        return json.dumps(found, indent=1)

    def __repr__(self) -> str:
        """A line an experiment."""
        lines = []
        for o in self.outcomes:
            told = ", ".join(
                f"{c['claim']} {c['found']:.2f}" for c in o.claims if c["found"] is not None
            )
            lines.append(f"{o.experiment.name:<14} {o.verdict:<15} {told or o.reason}")
        return "\n".join(lines)


def plan(
    study: Study, experiments: Sequence[Experiment], out: Path, *, main: int | None = None
) -> pd.DataFrame:
    """What each experiment would cost here.

    Seconds come from reading a few stories just now; writing a token takes longer than reading
    one, so they are no more than a guide.

    Args:
        study: model and materials.
        experiments: in order.
        out: folder with what earlier calls have done.
        main: tokens of the main job, where it is done too.

    Returns:
        Columns experiment, figures, state ("to do", "done" or why it does not apply), tokens and
        seconds. The first row is the recording of the stories, which all experiments share.
    """
    stories = [*study.materials.corpus.stories, *study.materials.corpus.neutral]
    rate = _rate(study)
    rows: list[tuple] = [("(stories)", "Section 1", "to do", study.tokens(stories))]
    if main is not None:
        rows.append(("main", "ablation, attribution", "to do", main))
    for e in experiments:
        lacks = e.lacks(study)
        done = _stored(study, e, out) is not None
        state = lacks or ("done" if done else "to do")
        rows.append((e.name, e.figures, state, 0 if lacks or done else e.cost(study)))
    found = pd.DataFrame(rows, columns=["experiment", "figures", "state", "tokens"])
    return found.assign(seconds=(found.tokens / rate).round(1))


def _rate(study: Study) -> float:
    """Tokens read in a second."""
    texts = study.materials.corpus.stories[:TIMED]
    tokens = study.model.tokenize(texts)
    study.model.forward(tokens.ids, tokens.mask)  # the first call sets things up
    began = time.perf_counter()
    study.model.forward(tokens.ids, tokens.mask)
    return int(tokens.mask.sum()) / max(time.perf_counter() - began, 1e-9)


def run_experiments(study: Study, experiments: Sequence[Experiment], out: Path) -> Results:
    """Run what is not done yet.

    What an experiment found is saved when it ends, so that the same call goes on after a kill. An
    experiment that fails is named in its outcome and does not stop the others.

    Args:
        study: model and materials.
        experiments: in order.
        out: folder that exists, with what earlier calls have done.
    """
    study.folder = out / RECORDINGS
    stored = {e.name: _stored(study, e, out) for e in experiments}
    outcomes = tuple(stored[e.name] or _fresh(study, e, out) for e in experiments)
    if not any(o.verdict == FAILED for o in outcomes):
        shutil.rmtree(study.folder, ignore_errors=True)
    fresh = tuple(o.experiment.name for o in outcomes if stored[o.experiment.name] is not o)
    return Results(outcomes, study.provenance, fresh)


def _fresh(study: Study, experiment: Experiment, out: Path) -> Outcome:
    """Run one experiment and save what it found."""
    lacks = experiment.lacks(study)
    if lacks:
        return Outcome(experiment, NOT_APPLICABLE, reason=lacks)
    began = time.perf_counter()
    try:
        found = experiment.run(study)
    except EmolensError as error:
        return Outcome(experiment, FAILED, reason=first_line(error))
    except Exception as error:  # a night's other experiments must not be lost
        traceback.print_exc()
        return Outcome(experiment, FAILED, reason=f"{type(error).__name__}: {first_line(error)}")
    outcome = _judged(experiment, found, time.perf_counter() - began)
    _store(study, outcome, out)
    return outcome


def _judged(experiment: Experiment, found: Found, seconds: float) -> Outcome:
    verdict = overall([judge(c, found.measured.get(c.name)) for c in experiment.claims])
    reason = found.told if verdict == NOT_APPLICABLE else ""
    return Outcome(experiment, verdict, found, reason, seconds)


def _store(study: Study, outcome: Outcome, out: Path) -> None:
    found, name = outcome.found, outcome.experiment.name
    write_tables(out, {f"{name}_{table}": rows for table, rows in found.tables.items()})
    kept = {
        "schema": SCHEMA,
        "identity": study.identity,
        "measured": {k: asdict(m) for k, m in found.measured.items()},
        "tables": list(found.tables),
        "told": found.told,
        "left_out": dict(found.left_out),
        "seconds": outcome.seconds,
    }
    (out / KEPT).mkdir(exist_ok=True)
    with whole(out / KEPT / f"{name}.json") as fresh:
        fresh.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _stored(study: Study, experiment: Experiment, out: Path) -> Outcome | None:
    """What was found before for the same study, if it was.

    Raises:
        ArtefactError: for a file that is damaged.
    """
    file = out / KEPT / f"{experiment.name}.json"
    if not file.exists():
        return None
    try:
        kept = json.loads(file.read_text("utf-8"))
        if kept["identity"] != study.identity:
            return None
        measured = {k: Measured(**m) for k, m in kept["measured"].items()}
        folder = out / "tables"
        tables = {
            t: pd.read_parquet(folder / f"{experiment.name}_{t}.parquet") for t in kept["tables"]
        }
        found = Found(measured, tables, kept["told"], kept["left_out"])
        seconds = float(kept["seconds"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ArtefactError(
            f"{file} is not readable ({first_line(error)}): delete it, and the experiment runs anew"
        ) from None
    return _judged(experiment, found, seconds)
