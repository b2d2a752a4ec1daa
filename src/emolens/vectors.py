"""Emotion vectors: fit, denoise, save, load."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from emolens.activations import Activations
from emolens.controls import shuffled
from emolens.errors import ArtefactError, SelectionError, first_line
from emolens.interventions import unit
from emolens.provenance import Provenance, same_origin
from emolens.text import NEUTRAL

FORMAT = "emolens.vectors"
VERSION = "1"


@dataclass(frozen=True)
class EmotionVectors:
    """One direction per emotion and layer, in residual units.

    The sign is that of more of the emotion: a stream steered along `+vector` moves towards the
    stories of that emotion.

    Attributes:
        vectors: class mean minus mean over emotions, neutral components projected out.
        emotions: names of the first axis.
        layers: 0-based blocks of the second axis.
        mean: mean over emotions, what readouts are centred on and ablation returns to.
        residual_norm: mean norm of the residual at the read tokens; strengths are fractions of it.
        neutral_components: how many neutral components were projected out, per layer.
        provenance: model, texts and positions that the vectors were fitted on.
    """

    vectors: Float[Tensor, "emotion layer d_model"]
    emotions: tuple[str, ...]
    layers: tuple[int, ...]
    mean: Float[Tensor, "layer d_model"]
    residual_norm: Float[Tensor, " layer"]
    neutral_components: tuple[int, ...]
    provenance: Provenance

    def __repr__(self) -> str:
        """One line."""
        return (
            f"EmotionVectors({len(self.emotions)} emotions, {len(self.layers)} layers, "
            f"d_model {self.mean.shape[-1]}, from {self.provenance.texts} texts, "
            f"model {self.provenance.model!r})"
        )

    def column(self, layer: int) -> int:
        """Where a layer stands on the layer axis.

        Raises:
            SelectionError: if no vector was fitted there.
        """
        if layer not in self.layers:
            raise SelectionError(f"no vectors at layer {layer}: fitted at layers {self.layers}")
        return self.layers.index(layer)

    def at(self, layer: int) -> Float[Tensor, "emotion d_model"]:
        """All emotions' vectors after one block."""
        return self.vectors[:, self.column(layer)]

    def of(self, emotion: str) -> Float[Tensor, "layer d_model"]:
        """One emotion's vector at every layer.

        Raises:
            SelectionError: for an emotion that was not fitted.
        """
        return self.vectors[self.row(emotion)]

    def row(self, emotion: str) -> int:
        """Where an emotion stands on the emotion axis.

        Raises:
            SelectionError: for an emotion that was not fitted.
        """
        if emotion not in self.emotions:
            known = ", ".join(self.emotions)
            raise SelectionError(f"unknown emotion {emotion!r}: these vectors have {known}")
        return self.emotions.index(emotion)

    def step(self, emotion: str, layer: int, strength: float) -> Float[Tensor, " d_model"]:
        """What to add for a strength in fractions of the mean residual norm at that layer."""
        direction = unit(self.of(emotion)[self.column(layer)])
        return strength * self.residual_norm[self.column(layer)] * direction

    def only(self, layers: Sequence[int]) -> "EmotionVectors":
        """The same vectors at some of their layers.

        Raises:
            SelectionError: for a layer without vectors.
        """
        columns = [self.column(layer) for layer in layers]
        return replace(
            self,
            vectors=self.vectors[:, columns],
            layers=tuple(layers),
            mean=self.mean[columns],
            residual_norm=self.residual_norm[columns],
            neutral_components=tuple(self.neutral_components[c] for c in columns),
        )

    def save(self, file: Path | str) -> None:
        """Write one safetensors file; labels and provenance stand in its header.

        Raises:
            ArtefactError: if it cannot be written there.
        """
        tensors = {
            "vectors": self.vectors.contiguous(),
            "mean": self.mean.contiguous(),
            "residual_norm": self.residual_norm.contiguous(),
        }
        header = {
            "format": FORMAT,
            "version": VERSION,
            "emotions": json.dumps(self.emotions),
            "layers": json.dumps(self.layers),
            "neutral_components": json.dumps(self.neutral_components),
            "provenance": self.provenance.to_json(),
        }
        try:
            save_file(tensors, Path(file), metadata=header)
        except (OSError, SafetensorError) as error:
            raise ArtefactError(
                f"cannot write {file} ({first_line(error)}): choose a file in a folder that exists"
            ) from None


Method = Callable[[Activations, Activations], EmotionVectors]  # of stories and of neutral texts


def load_vectors(file: Path | str) -> EmotionVectors:
    """Read vectors that `EmotionVectors.save` wrote.

    Raises:
        ArtefactError: if the file is missing, cut short, of another kind or another version, or
            if its labels and tensors do not go together.
    """
    try:
        with safe_open(Path(file), framework="pt") as reader:
            header = reader.metadata() or {}
            tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ArtefactError(
            f"{file} is missing, damaged or cut short ({first_line(error)}): save the vectors again"
        ) from None
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        found = f"{header.get('format', 'no format')} version {header.get('version', 'unknown')}"
        raise ArtefactError(
            f"{file} holds {found}, expected {FORMAT} version {VERSION}: save it with this emolens"
        )
    try:
        return _assemble(header, tensors)
    except (ValueError, KeyError, RecursionError, ArtefactError) as error:
        raise ArtefactError(
            f"{file} contradicts itself ({first_line(error)}): save the vectors again"
        ) from None


def _assemble(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> EmotionVectors:
    """Labels and tensors together, or the reason why they do not go together."""
    emotions = _labels(header, "emotions", str)
    layers = _labels(header, "layers", int)
    removed = _labels(header, "neutral_components", int)
    if len(removed) != len(layers):
        raise ValueError(f"neutral_components are {len(removed)} for {len(layers)} layers")
    *_, d_model = tensors["vectors"].shape
    shapes = {
        "vectors": (len(emotions), len(layers), d_model),
        "mean": (len(layers), d_model),
        "residual_norm": (len(layers),),
    }
    for name, shape in shapes.items():
        if tensors[name].shape != shape or not tensors[name].is_floating_point():
            raise ValueError(f"{name} is {tuple(tensors[name].shape)}, not floats of {shape}")
    return EmotionVectors(
        vectors=tensors["vectors"],
        emotions=emotions,
        layers=layers,
        mean=tensors["mean"],
        residual_norm=tensors["residual_norm"],
        neutral_components=removed,
        provenance=Provenance.from_json(header["provenance"]),
    )


def _labels(header: Mapping[str, str], name: str, kind: type) -> tuple:
    found = json.loads(header[name])
    if not isinstance(found, list) or any(type(label) is not kind for label in found):
        raise ValueError(f"{name} is not a list of {kind.__name__}")
    return tuple(found)


def principal_space(
    rows: Float[Tensor, "row d_model"], variance: float
) -> Float[Tensor, "component d_model"]:
    """The fewest leading principal directions that explain that share of the rows' variance.

    Orthonormal; none for `variance=0`, and none where all rows are the same.
    """
    centred = rows.double() - rows.double().mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    share = singular.square().cumsum(0) / singular.square().sum().clamp_min(1e-300)
    count = int((share < variance - 1e-12).sum()) + 1 if variance > 0 else 0
    real = int((singular > 1e-9 * rows.double().norm()).sum())  # the rest is rounding
    return directions[: min(count, real)]


def fit_vectors(
    stories: Activations, neutral: Activations, *, variance: float = 0.5
) -> EmotionVectors:
    """The paper's vectors (PAPER 1.1): class mean, minus mean over emotions, neutral part removed.

    Args:
        stories: activations of texts labelled with emotions; those labelled neutral are left out.
        neutral: activations of neutral texts at the same layers of the same model.
        variance: share of the neutral texts' variance whose leading components are projected
            out; the paper's 50%. With 0 nothing is.

    Raises:
        CorpusError: for fewer than two emotions.
        SelectionError: if the two recordings differ in layers or model.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> stories = emolens.record(model, emolens.organism_stories(per_emotion=3))
    >>> neutral = emolens.record(model, emolens.organism_neutral(count=20))
    >>> emolens.fit_vectors(stories, neutral)
    EmotionVectors(24 emotions, 6 layers, d_model 160, from 75 texts, model 'organism')
    """
    stories.require_emotions()
    if stories.layers != neutral.layers or not same_origin(stories.provenance, neutral.provenance):
        raise SelectionError(
            "stories and neutral texts were recorded at other layers or from another model: "
            "record both the same way"
        )
    means = torch.stack([stories.of(e).double().mean(0) for e in stories.labels])
    grand = means.mean(0)
    vectors = means - grand
    removed = []
    for column in range(len(stories.layers)):
        basis = principal_space(neutral.pooled[:, column], variance)
        vectors[:, column] -= vectors[:, column] @ basis.T @ basis
        removed.append(len(basis))
    return EmotionVectors(
        vectors=vectors.float(),
        emotions=stories.labels,
        layers=stories.layers,
        mean=grand.float(),
        residual_norm=stories.residual_norm,
        neutral_components=tuple(removed),
        provenance=stories.provenance,
    )


def paired_vectors(stories: Activations, neutral: Activations) -> EmotionVectors:
    """The main direction of differences between paired texts, as in RepE and repeng.

    Each story of an emotion is paired with the mean of all other emotions' stories on the same
    topic (`group`), or of all of them where that topic has none. A vector is the first principal
    direction of the differences, which are not centred (their mean is what is looked for), with
    the sign of their mean and the length of the story vectors. The neutral texts are only seen to
    be of the same model and layers.

    Raises:
        CorpusError: for fewer than two emotions.
        SelectionError: if the two recordings differ in layers or model.
    """
    base = fit_vectors(stories, neutral, variance=0.0)
    labels, groups = np.array(stories.emotions), np.array(stories.groups)
    felt, vectors = np.isin(labels, base.emotions), torch.empty_like(base.vectors)
    for i, emotion in enumerate(base.emotions):
        own, other = labels == emotion, felt & (labels != emotion)
        differences = []
        for group in dict.fromkeys(groups[own].tolist()):
            same = other & (groups == group)
            opposite = stories.pooled[same if same.any() else other].double().mean(0)
            differences.append(stories.pooled[own & (groups == group)].double() - opposite)
        difference = torch.cat(differences)
        _, _, directions = torch.linalg.svd(difference.transpose(0, 1), full_matrices=False)
        mean, first = difference.mean(0), directions[:, 0]
        sign = torch.where((first * mean).sum(-1, keepdim=True) < 0, -1.0, 1.0)
        vectors[i] = (sign * first).float() * base.vectors[i].norm(dim=-1, keepdim=True)
    return replace(base, vectors=vectors)


def control_vectors(
    stories: Activations,
    neutral: Activations,
    concept: Sequence[str],
    *,
    shuffles: int = 5,
    seed: int = 0,
) -> EmotionVectors:
    """Directions that are no emotion's, found in the same texts in the same way.

    What an emotion's vector does and one of these does as well is not the emotion's doing.

    Args:
        stories: as for `fit_vectors`.
        neutral: as for `fit_vectors`.
        concept: for each story a label that has nothing to do with the emotion, such as who it is
            about. The vector of the most frequent one is taken.
        shuffles: how many vectors are fitted on shuffled labels, each with a seed of its own.
        seed: of the first.

    Returns:
        Rows in place of emotions: `"shuffled labels 0"` and so on; `"neutral"`, from the mean over
        emotions to that of neutral texts; and the concept by its label.

    Raises:
        CorpusError: for fewer than two emotions or labels of the concept, or not one a story.
        SelectionError: if the two recordings differ in layers or model.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> texts = emolens.organism_stories(per_emotion=3)
    >>> stories, neutral = (emolens.record(model, t) for t in (texts, emolens.organism_neutral(20)))
    >>> emolens.control_vectors(stories, neutral, emolens.organism_genders(texts)).emotions[-2:]
    ('neutral', 'she')
    """
    base = fit_vectors(stories, neutral)
    nothing = [
        fit_vectors(shuffled(stories, seed + i), neutral).of(base.emotions[0])
        for i in range(shuffles)
    ]
    common, _ = Counter(concept).most_common(1)[0]
    other = fit_vectors(stories.labelled(concept), neutral).of(common)
    return replace(
        base,
        vectors=torch.stack([*nothing, neutral.pooled.mean(0) - base.mean, other]),
        emotions=(*(f"shuffled labels {seed + i}" for i in range(shuffles)), NEUTRAL, common),
    )


def centred_cosine(
    vectors: Float[Tensor, "emotion d_model"],
    mean: Float[Tensor, " d_model"],
    residual: Float[Tensor, "text d_model"],
) -> Float[Tensor, "text emotion"]:
    """Cosine of each vector with the residual minus the mean over emotions, in -1..1.

    Centred, because the raw residual is dominated by a part common to all texts, on which the
    same few vectors always score highest.
    """
    return unit(residual - mean) @ unit(vectors).T
