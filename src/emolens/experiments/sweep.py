"""A sweep's tables, summary and report."""

import json
from collections.abc import Iterator
from pathlib import Path

from emolens import figures
from emolens.controls import CONTROL
from emolens.provenance import versions
from emolens.report import Exhibit, Section, write_report, write_tables
from emolens.sweep.grid import PERMUTED
from emolens.sweep.results import LEVEL, REPORTED, Swept

SCHEMA = 1


def save(done: Swept, folder: Path) -> None:
    """Write report.html, summary.json and tables into a folder that exists."""
    effects = done.effects
    write_tables(folder, {"effects": effects})
    found = {"schema": SCHEMA, **done.summary, "versions": versions()}
    (folder / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    facts = {
        "model": done.sweep.model,
        "behaviour": f"{done.sweep.behaviour} after {', '.join(done.sweep.after)}",
        "cells": f"{found['cells']:,} on {found['prompts']} prompts",
        "P unsteered": f"{found['unsteered']:.3f}",
        f"steps at q below {LEVEL}": f"{found['significant']} of {found['steps']}",
        "permuted copies with p at most .05": f"{found['permuted_called']:.3f}",
        **{
            f"{name} with p at most .05": f"{share:.3f}"
            for name, share in found["controls_called"].items()
        },
        "smallest p": f"{found['smallest_p']:.4f} ({done.sweep.random} random directions)",
        "r of estimate and change": f"{found['estimate_r']:.3f}",
    }
    write_report(
        folder / "report.html",
        title=f"emolens sweep: {done.sweep.model}",
        facts=facts,
        sections=list(_sections(done)),
    )


def _sections(done: Swept) -> Iterator[Section]:
    """A map for each strength and place, on the half that is reported."""
    told = done.effects[
        (done.effects.half == REPORTED) & ~done.effects.kind.isin([PERMUTED, CONTROL])
    ]
    for (at, reach, strength), part in told.groupby(["at", "reach", "strength"], sort=False):
        where = "all tokens" if at == "all" else "the decision alone"
        where += "" if reach == "layer" else ", from the layer on"
        yield Section(
            f"Steps of {strength:g} residual norms at {where}",
            "How far each step moves the mean logit difference of the behaviour from the "
            "unsteered run, on the half of the prompts that nothing is chosen on. Crossed out: a "
            "step that does no more than random ones of its layer and length (false-discovery "
            "rate .05 over all steps of that reach at such places). Hover for what one gradient "
            "foretells.",
            [
                Exhibit(
                    chart=figures.sweep_map(part),
                    table=part.drop(columns=["half", "at", "reach", "strength"]),
                    table_file="effects",
                )
            ],
        )
