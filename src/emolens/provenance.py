"""What a number was made from: model, weights, texts, positions, versions."""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version

from emolens.errors import ArtefactError, first_line
from emolens.text import Text

_KINDS = {
    "model": str,
    "fingerprint": list,
    "weights": str,
    "dtype": str,
    "site": str,
    "positions": dict,
    "corpus": str,
    "texts": int,
    "cut": int,
    "versions": dict,
}
PACKAGES = ("emolens", "torch", "transformers", "transformer-lens", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def corpus_hash(texts: Iterable[Text]) -> str:
    """SHA-256 over texts, emotions and groups, in order."""
    digest = hashlib.sha256()
    for t in texts:
        digest.update(json.dumps([t.text, t.emotion, t.group]).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Provenance:
    """The record that every artefact carries.

    Attributes:
        model: name or folder name of the model.
        fingerprint: a few coordinates of its residual stream on fixed tokens; two hosts of the
            same weights agree in it, whichever library holds them.
        weights: `"raw"` (Hugging Face residuals) or `"processed"` (folded, centred).
        dtype: what the model ran in.
        site: which activation was read.
        positions: how many texts each position rule was applied to.
        corpus: SHA-256 of the texts.
        texts: how many.
        cut: how many were longer than the context and lost their end.
        versions: of the packages that matter.
    """

    model: str
    fingerprint: tuple[float, ...]
    weights: str
    dtype: str
    site: str
    positions: Mapping[str, int]
    corpus: str
    texts: int
    cut: int
    versions: Mapping[str, str] = field(default_factory=versions)

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Provenance":
        """Read what `to_json` wrote.

        Raises:
            ArtefactError: if fields are missing, unknown or of another kind.
        """
        try:
            raw = json.loads(text)
            for name, kind in _KINDS.items():
                if type(raw[name]) is not kind:
                    raise TypeError(f"{name} must be a {kind.__name__}")
            if not all(type(n) is int for n in raw["positions"].values()):
                raise TypeError("positions must be counts")
            if not all(isinstance(v, str) for v in raw["versions"].values()):
                raise TypeError("versions must be strings")
            return cls(**raw | {"fingerprint": tuple(map(float, raw["fingerprint"]))})
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ArtefactError(
                f"provenance is not readable ({first_line(error)}): make the file again"
            ) from None


def same_origin(a: Provenance, b: Provenance) -> bool:
    """Whether two records are of one model, in the tolerance of `same_model`."""
    return same_model(a, b.fingerprint, b.weights, b.dtype)


def same_model(a: Provenance, fingerprint: tuple[float, ...], weights: str, dtype: str) -> bool:
    """Whether a live model is the one a record was made from.

    The tolerance is that of float32 arithmetic on other hardware (1e-3 of the largest entry), or
    of half precision (2e-2) where either side ran in it.
    """
    if len(a.fingerprint) != len(fingerprint) or a.weights != weights:
        return False
    tolerance = 1e-3 if a.dtype == dtype == "float32" else 2e-2
    scale = max(abs(x) for x in (*a.fingerprint, 1e-12))
    gap = max(abs(x - y) for x, y in zip(a.fingerprint, fingerprint, strict=True))
    return gap <= tolerance * scale
