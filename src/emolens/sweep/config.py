"""A sweep as a value: the fields of its YAML file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from emolens.errors import SelectionError, first_line
from emolens.steering import STRENGTHS
from emolens.text import NEUTRAL


def _not_zero(strength: float) -> float:
    if not strength:
        raise ValueError("a step of no length is in every sweep")
    return strength


Strength = Annotated[FiniteFloat, AfterValidator(_not_zero)]


@dataclass(frozen=True)
class Sweep:
    """Which steps are taken in which model, and on what they are read.

    Every step is taken on every prompt: each emotion's and each random one's, at each layer or from
    it on, in each strength, at all tokens or at the decision alone.

    Attributes:
        model: `"organism"`, a Hugging Face folder with safetensors, or a hub id.
        vectors: file of `EmotionVectors`; None fits them on the organism's own stories.
        controls: file of directions that are no emotion's, as `control_vectors` makes them; None
            makes them where the vectors are fitted, and takes none beside a file of vectors.
        behaviour: scene of the organism (`"cheat"`), or the JSON file of a behaviour.
        after: the situations whose prompts are read. Neutral ones show a push best: there is room
            on both sides.
        emotions: whose vectors; None for all.
        layers: 0-based blocks after which a step is added; None for all that have vectors.
        strengths: fractions of the mean residual norm of the layer; negative ones push the other
            way.
        at: `"all"` tokens or the `"decision"` alone, or both.
        reach: at the `"layer"` alone, or `"onward"`: also at every later layer of the sweep, an
            emotion by its vector there, a random step in its own direction; or both.
        random: how many random directions a layer, each in every strength; p is at least
            2 / (random + 1), so fewer than 1,000 tell little.
        seed: of the random directions.
        device: for example `"cuda"`; None for the CPU.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=False)

    model: str = "organism"
    vectors: str | None = None
    controls: str | None = None
    behaviour: str = "cheat"
    after: tuple[str, ...] = (NEUTRAL,)
    emotions: tuple[str, ...] | None = None
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    strengths: Annotated[tuple[Strength, ...], Field(min_length=1)] = STRENGTHS
    at: Annotated[tuple[Literal["all", "decision"], ...], Field(min_length=1)] = ("all",)
    reach: Annotated[tuple[Literal["layer", "onward"], ...], Field(min_length=1)] = ("layer",)
    random: Annotated[int, Field(ge=1)] = 1000
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    device: str | None = None

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Sweep":
        """A sweep of fields by name, checked.

        Raises:
            SelectionError: for an unknown field or a value that it cannot have.

        >>> Sweep.of({"layers": [2, 3], "strengths": [0.5]}).layers
        (2, 3)
        """
        try:
            return _CHECK.validate_python(dict(fields))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the sweep"
            raise SelectionError(
                f"{field} of the sweep: {first['msg']}, not {first['input']!r}; the fields are "
                f"{', '.join(cls.__dataclass_fields__)}"
            ) from None


_CHECK = TypeAdapter(Sweep)


def load_sweep(file: Path | str) -> Sweep:
    """Read a sweep from YAML; paths in it are as on the command line.

    Raises:
        SelectionError: if the file is no YAML, or as `Sweep.of`.
    """
    try:
        fields = yaml.safe_load(Path(file).read_text("utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SelectionError(f"cannot read the sweep {file} ({first_line(error)})") from None
    if not isinstance(fields, dict):
        raise SelectionError(f"{file} is no sweep: it must have fields such as layers: [3, 4]")
    return Sweep.of(fields)
