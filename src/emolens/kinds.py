"""Kinds of emotion vectors: which tokens are read, and whose emotion they are labelled with.

A kind is a recording; `fit_vectors`, or any other method, makes vectors of it (PAPER 1.4).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from emolens.activations import Activations
from emolens.errors import CorpusError
from emolens.generation import generate
from emolens.model import HookedModel
from emolens.positions import PositionRule, span
from emolens.provenance import same_origin
from emolens.recording import record, record_at
from emolens.text import Dialogues, Span, Text
from emolens.vectors import EmotionVectors, principal_space

STORY_SPACE = 0.99
GENERATED_TOKENS = 48


def record_speakers(
    model: HookedModel, dialogues: Dialogues, **options: Any
) -> dict[tuple[str, str], Activations]:
    """What each speaker's turns hold of each speaker's emotion: the paper's 2 x 2 (Figs. 17-19).

    Args:
        model: the hooked model.
        dialogues: in which two or more speak, each with an emotion of its own.
        options: `layers`, `batch_tokens` and `folder`, as in `record`.

    Returns:
        For every (whose turns are read, whose emotion is the label): one pass for all of them.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> dialogues = emolens.organism_dialogues(per_emotion=2)
    >>> found = record_speakers(model, dialogues, layers=[3])
    >>> found["first", "second"].emotions == dialogues.felt["second"]
    True
    """
    rules: dict[str, PositionRule] = {speaker: span(speaker) for speaker in dialogues.felt}
    read = record_at(model, dialogues.texts, rules, **options)
    return {
        (speaker, whose): found.labelled(felt)
        for speaker, found in read.items()
        for whose, felt in dialogues.felt.items()
    }


def present_speaker(speakers: Mapping[tuple[str, str], Activations]) -> Activations:
    """Every speaker's turns, labelled with what that speaker feels itself."""
    return concat_activations(
        [found for (turns, whose), found in speakers.items() if turns == whose]
    )


def other_speaker(speakers: Mapping[tuple[str, str], Activations]) -> Activations:
    """Every speaker's turns, labelled with what another speaker feels."""
    return concat_activations(
        [found for (turns, whose), found in speakers.items() if turns != whose]
    )


def concat_activations(recordings: Sequence[Activations]) -> Activations:
    """Recordings of one model at the same layers, one after the other.

    Raises:
        CorpusError: for none, or recordings of other models, layers or widths.
    """
    if not recordings:
        raise CorpusError("no recordings to join: give at least one")
    first = recordings[0]
    if any(
        r.layers != first.layers or not same_origin(r.provenance, first.provenance)
        for r in recordings
    ):
        raise CorpusError("recordings of other models or layers do not join: record them alike")
    counts = torch.tensor([float(len(r.emotions)) for r in recordings])
    norms = torch.stack([r.residual_norm for r in recordings])
    return replace(
        first,
        pooled=torch.cat([r.pooled for r in recordings]),
        emotions=tuple(e for r in recordings for e in r.emotions),
        groups=tuple(g for r in recordings for g in r.groups),
        residual_norm=(counts[:, None] * norms).sum(0) / counts.sum(),
        provenance=replace(first.provenance, texts=int(counts.sum())),
    )


def record_masked(
    model: HookedModel, dialogues: Dialogues, speaker: str = "first", **options: Any
) -> tuple[Activations, Activations]:
    """The turns of somebody who wears a mask, under two labels (PAPER 1.4, Figs. 60-74).

    Vectors of the first are the paper's emotion-deflection vectors: what is felt and not shown.

    Args:
        model: the hooked model.
        dialogues: in which that speaker shows what it does not feel.
        speaker: who wears the mask.
        options: as in `record`.

    Returns:
        Labelled with what is felt, and with what is shown.
    """
    found = record(model, dialogues.texts, positions=span(speaker), **options)
    return found.labelled(dialogues.felt[speaker]), found.labelled(dialogues.shown[speaker])


def apart_from(
    activations: Activations, vectors: EmotionVectors, *, variance: float = STORY_SPACE
) -> Activations:
    """Recordings with the space of other vectors projected out, layer by layer.

    Vectors made of what is left are what, say, deflection holds beside the stories' emotions.

    Args:
        activations: of which the part orthogonal to that space is wanted.
        vectors: of the same model at the same layers.
        variance: share of the vectors' variance that the space explains; the paper's 99%.

    Raises:
        SelectionError: if the vectors lack a layer.
    """
    left = activations.pooled.double()
    for i, layer in enumerate(activations.layers):
        basis = principal_space(vectors.at(layer), variance)
        left[:, i] -= left[:, i] @ basis.T @ basis
    return replace(activations, pooled=left.float())


def record_generated(
    model: HookedModel,
    openings: Sequence[Text],
    *,
    tokens: int = GENERATED_TOKENS,
    seed: int = 0,
    **options: Any,
) -> Activations:
    """What the model's own continuations hold, labelled as their openings are.

    Every opening is gone on with at temperature 1, and what was written is read back.

    Args:
        model: a decoder.
        openings: labelled texts that bring about an emotion.
        tokens: most that are written.
        seed: of the sampling.
        options: as in `record`.

    Raises:
        ModelError: for an encoder.
        SelectionError: if a continuation is empty.
    """
    written = generate(model, openings, tokens=tokens, seed=seed)
    texts = [
        replace(o, text=o.text + w, spans=(Span("generated", len(o.text), len(o.text + w)),))
        for o, w in zip(openings, written, strict=True)
    ]
    return record(model, texts, positions=span("generated"), **options)
