"""The shape of a set of vectors from a file, held against human norms and the paper's clusters."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emolens import figures
from emolens.errors import SelectionError
from emolens.exchange import Directions, load_directions
from emolens.geometry import (
    CLUSTERS,
    COMPONENTS,
    VectorSet,
    circumplex,
    cluster_agreement,
    clusters,
    correlations,
    principal_components,
    rsa,
    similarity,
)
from emolens.norms import VADER, Ceiling, Norms, ceilings, vader_valence
from emolens.provenance import versions
from emolens.report import write_tables
from emolens.sites import two_thirds
from emolens.vectors import EmotionVectors, load_vectors

SCHEMA = 1
PICTURE_SCALE = 2
NPZ_NAME = "layer_{layer}__{emotion}"


@dataclass(frozen=True)
class Geometry:
    """What the geometry of one set of vectors is.

    Attributes:
        tables: tidy tables by name. They hold no values of the user's norms, only what was
            computed with them: such files may not be passed on.
        ceilings: what humans reach, by norm and axis.
        provenance: of what: file, model, layer, seed, versions.
        not_applicable: parts that this set cannot have, with the reason.
    """

    tables: Mapping[str, pd.DataFrame]
    ceilings: Mapping[str, Mapping[str, Ceiling]]
    provenance: Mapping[str, Any]
    not_applicable: Mapping[str, str]

    def __repr__(self) -> str:
        """What the command line prints."""
        of, plane = self.provenance, self.tables["principal_components"].iloc[0]
        shares = ", ".join(f"{c.upper()} {plane[f'share{i}']:.0%}" for i, c in _numbered())
        lines = [
            f"{of['file']}: {of['emotions']} emotions, d_model {of['d_model']}, layers "
            f"{', '.join(map(str, of['layers']))}",
            f"layer {of['layer']}: share of variance {shares}",
        ]
        if len(self.tables["correlations"]):
            lines += ["", _screen(self.tables["correlations"]), *self._sources(), ""]
        if "cluster_agreement" in self.tables:
            lines.append(_clustered(self.tables["cluster_agreement"]))
        if "rsa" in self.tables:
            lines.append(_over_layers(self.tables["rsa"]))
        lines += [f"not applicable: {part} ({why})" for part, why in self.not_applicable.items()]
        return "\n".join(lines)

    def _sources(self) -> list[str]:
        found = self.tables["correlations"][["norm", "axis"]].drop_duplicates()
        return [
            "interval: bootstrap over words; p: two-sided, permuted words, each row by itself",
            *(
                f"ceiling, {row.norm} {row.axis}: {self.ceilings[row.norm][row.axis].source}"
                for row in found.itertuples()
            ),
        ]

    def to_json(self) -> str:
        """One JSON object; a number that is not known is null."""
        plane = self.tables["principal_components"].iloc[0]
        found = {
            "schema": SCHEMA,
            **self.provenance,
            "variance_share": [float(plane[f"share{i}"]) for i, _ in _numbered()],
            "ceiling_sources": {
                norm: {axis: ceiling.source for axis, ceiling in axes.items()}
                for norm, axes in self.ceilings.items()
            },
            "not_applicable": dict(self.not_applicable),
        }
        for name in ("correlations", "circumplex", "cluster_agreement", "rsa"):
            if name in self.tables:
                found[name] = json.loads(self.tables[name].to_json(orient="records"))
        return json.dumps(found, indent=1)

    def save(self, out: Path) -> None:
        """Write `geometry.json`, the tables and `circumplex.png` into a folder that exists."""
        (out / "geometry.json").write_text(self.to_json() + "\n")
        write_tables(out, self.tables)
        picture = figures.circumplex(self.tables["principal_components"])
        picture.save(out / "circumplex.png", scale_factor=PICTURE_SCALE)


def geometry(
    file: Path | str,
    norms: Mapping[str, Norms] | None = None,
    *,
    layer: int | None = None,
    seed: int = 0,
) -> Geometry:
    """Principal components, norms, clusters and similarity over layers of the vectors in a file.

    Args:
        file: safetensors of emolens, or a third party's `.npz`.
        norms: the user's, by name, beside VADER's valence.
        layer: where; two thirds through the layers of the file by default (the paper's depth, if
            these are all the model has).
        seed: of resampling, permutations and k-means.

    Raises:
        ArtefactError: if the file holds no vectors.
        SelectionError: for a layer that it does not have, or fewer than two emotions.
    """
    vectors = read_vectors(Path(file))
    if len(vectors.emotions) < 2:
        raise SelectionError(f"{file} has one emotion, {vectors.emotions[0]}: geometry needs two")
    shown = two_thirds(vectors.layers) if layer is None else layer
    known = {VADER: {"valence": vader_valence(vectors.emotions)}, **(norms or {})}
    limits = {name: ceilings(name, vectors.emotions) for name in known}
    tables = {
        "principal_components": _plane(vectors, shown, known),
        "similarity": similarity(vectors, shown),
        "correlations": _by_norm(
            {
                name: correlations(vectors, shown, own, ceilings=limits[name], seed=seed)
                for name, own in known.items()
            }
        ),
        "circumplex": _by_norm(
            {
                name: circumplex(vectors, vectors.layers, own, seed=seed)
                for name, own in known.items()
            }
        ),
    }
    not_applicable = {}
    if tables["correlations"].empty:
        not_applicable["norms"] = "fewer than four of these emotions are rated in any norm"
    try:
        tables["clusters"] = clusters(vectors, shown, seed=seed)
        tables["cluster_agreement"] = cluster_agreement(tables["clusters"], seed=seed)
    except SelectionError as error:
        not_applicable["clusters"] = str(error)
    if len(vectors.layers) > 1:
        try:
            tables["rsa"] = rsa(vectors, vectors, seed=seed)
        except SelectionError as error:
            not_applicable["similarity over layers"] = str(error)
    return Geometry(tables, limits, _provenance(Path(file), vectors, shown, seed), not_applicable)


def _provenance(file: Path, vectors: VectorSet, layer: int, seed: int) -> dict[str, Any]:
    return {
        "file": str(file),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "model": vectors.provenance.model if isinstance(vectors, EmotionVectors) else None,
        "emotions": len(vectors.emotions),
        "d_model": vectors.at(layer).shape[-1],
        "layers": list(vectors.layers),
        "layer": layer,
        "seed": seed,
        "versions": versions(),
    }


def _plane(vectors: VectorSet, layer: int, known: Mapping[str, Norms]) -> pd.DataFrame:
    """The plane turned by all norms at hand, showing only VADER's, which may be passed on."""
    turning = {
        axis: next((own[axis] for own in known.values() if own.get(axis)), {})
        for axis in ("valence", "arousal")
    }
    return principal_components(vectors, layer, turning).drop(columns="arousal")


def _by_norm(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    named = [table.assign(norm=name) for name, table in tables.items()]
    table = pd.concat(named, ignore_index=True)
    return table[["norm", *table.columns.drop("norm")]]


def _numbered() -> list[tuple[int, str]]:
    return list(enumerate(COMPONENTS, start=1))


def _screen(correlations: pd.DataFrame) -> str:
    """The table as text, with words for what is not known."""
    return str(
        pd.DataFrame(
            {
                "norm": correlations.norm,
                "axis": correlations.axis,
                "component": correlations.component.str.upper(),
                "r": [f"{r:.2f}" for r in correlations.r],
                "95% interval": [
                    f"{low:.2f} to {high:.2f}"
                    for low, high in zip(correlations.low, correlations.high, strict=True)
                ],
                "p": [f"{p:.3f}" for p in correlations.p],
                "human ceiling": [
                    "not known" if np.isnan(c) else f"{c:.2f}" for c in correlations.ceiling
                ],
                "words": correlations.words,
            }
        ).to_string(index=False)
    )


def _clustered(agreement: pd.DataFrame) -> str:
    row = next(agreement.itertuples())
    line = f"k-means, {row.clusters} clusters: silhouette {row.silhouette:.2f}; "
    if np.isnan(row.ari):
        return line + f"{row.words} of the paper's words, too few to compare with its clusters"
    return line + (
        f"adjusted Rand index with the paper's clusters {row.ari:.2f} (p {row.p:.3f}; "
        f"{row.words} words in {row.paper_clusters} of its {CLUSTERS})"
    )


def _over_layers(rsa: pd.DataFrame) -> str:
    other = rsa[rsa.layer_a < rsa.layer_b]
    ends = [other.loc[i] for i in dict.fromkeys((other.rho.idxmin(), other.rho.idxmax()))]
    told = [f"{e.rho:.2f} (layers {e.layer_a:.0f} and {e.layer_b:.0f})" for e in ends]
    return f"similarity over layers: Spearman {' to '.join(told)}; largest p {other.p.max():.3f}"


def read_vectors(file: Path) -> EmotionVectors | Directions:
    """Vectors of emolens, or by the file's ending a third party's.

    Raises:
        ArtefactError: if the file is missing, damaged, pickled, or laid out in another way.
    """
    return load_directions(file, NPZ_NAME) if file.suffix == ".npz" else load_vectors(file)
