"""What the experiments found, as parts of a report."""

from collections.abc import Iterator

import pandas as pd

from emolens.experiments.paper.claims import NOT_APPLICABLE
from emolens.experiments.paper.running import FAILED, Outcome, Results
from emolens.report import Exhibit, Section

COLUMNS = ["says", "paper", "found", "low", "high", "bound", "least", "verdict"]


def sections(results: Results) -> Iterator[Section]:
    """One part an experiment: its claims, its pictures, and how it was done."""
    for outcome in results.outcomes:
        yield _section(outcome)


def _section(outcome: Outcome) -> Section:
    experiment, found = outcome.experiment, outcome.found
    prose, exhibits, reason = found.told, list[Exhibit](), ""
    if outcome.verdict == FAILED:
        reason = f"it stopped with an error: {outcome.reason}"
    elif outcome.verdict == NOT_APPLICABLE:
        prose, reason = "", outcome.reason
    else:
        claims = pd.DataFrame(outcome.claims)[COLUMNS]
        exhibits = [
            Exhibit("What the paper says and what was found here", table=claims),
            *experiment.draw(found.tables),
        ]
    return Section(
        f"{experiment.title} ({experiment.figures})",
        prose,
        exhibits,
        outcome.verdict,
        experiment.details,
        reason,
        experiment.name,
    )


def summary(results: Results) -> pd.DataFrame:
    """The verdicts: one row a claim."""
    return pd.DataFrame(
        {
            "experiment": outcome.experiment.name,
            "verdict": outcome.verdict,
            "claim": claim["says"],
            "paper": claim["paper"],
            "found": claim["found"],
            "control": claim["bound"],
            "of the claim": claim["verdict"],
        }
        for outcome in results.outcomes
        for claim in outcome.claims
    )
