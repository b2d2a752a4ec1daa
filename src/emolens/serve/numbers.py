"""Readouts, alarms and the state of an engine, as JSON has them."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from jaxtyping import Float
from torch import Tensor

from emolens import __version__
from emolens.monitor import Alarm
from emolens.provenance import versions
from emolens.serve.engine import Engine

DIGITS = 5  # after the point; readouts are cosines


def number(value: float) -> float | None:
    """A readout as JSON has it; nothing where it is not finite."""
    return round(value, DIGITS) if math.isfinite(value) else None


def numbers(values: Float[Tensor, " emotion"]) -> list[float | None]:
    """Readouts as JSON has them."""
    return [number(value) for value in values.tolist()]


def told_alarms(alarms: Sequence[Alarm]) -> list[dict[str, Any]]:
    """Alarms as JSON has them."""
    return [
        asdict(a) | {"value": number(a.value), "threshold": number(a.threshold)} for a in alarms
    ]


def state_of(engine: Engine) -> dict[str, Any]:
    """Model, vectors, thresholds and limits: what whoever shows a conversation needs to know."""
    monitor, limits = engine.monitor, engine.limits
    rows = monitor.thresholds.to_dict("records")
    return {
        "schema": 1,
        "model": monitor.model.name,
        "context": monitor.model.n_ctx,
        "layer": engine.layer,
        "layers": list(monitor.layers),
        "emotions": list(monitor.vectors.emotions),
        "kind": monitor.kind,
        "window": monitor.window,
        "thresholds": [
            {k: number(v) if isinstance(v, float) else v for k, v in row.items()} for row in rows
        ],
        "limits": {
            "messages": limits.messages,
            "characters": limits.characters,
            "tokens": limits.tokens,
            "strength": limits.strength,
        },
        "examples": list(engine.examples),
        "versions": versions() | {"emolens": __version__},
    }
