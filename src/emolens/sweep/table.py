"""What a sweep has found so far: a folder of Parquet files, each whole or not there."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from torch import Tensor

from emolens.errors import ArtefactError, first_line
from emolens.provenance import Provenance, same_origin
from emolens.resume import UNFINISHED, whole
from emolens.sweep.grid import Cell, Task

FORMAT, VERSION = "emolens.sweep", 1
MANIFEST, CELLS = "sweep.json", "cells"
NUMBERS = ("p", "legal", "logit_difference", "estimate")


@dataclass(frozen=True)
class Table:
    """Numbers of cells on disk, under the hash of what they are of.

    A folder holds one model's; its cells may be of several sweeps, and a later one takes what it
    needs of them.
    """

    folder: Path

    @classmethod
    def open(cls, folder: Path | str, origin: Provenance) -> "Table":
        """Begin a folder, or go on with one of the same model.

        Raises:
            ArtefactError: if it cannot be written, holds something else, or another model's cells.
        """
        place = Path(folder)
        try:
            (place / CELLS).mkdir(parents=True, exist_ok=True)
            manifest = place / MANIFEST
            if not manifest.exists():
                raw = {"format": FORMAT, "version": VERSION, "origin": origin.to_json()}
                with whole(manifest) as fresh:
                    fresh.write_text(json.dumps(raw))
            for left in (place / CELLS).glob(f"*{UNFINISHED}"):
                left.unlink()  # of a process that was killed while it wrote
        except OSError as error:
            raise ArtefactError(
                f"cannot write a sweep into {place} ({first_line(error)}): choose another folder"
            ) from None
        known = _origin(manifest)
        if not same_origin(known, origin):
            raise ArtefactError(
                f"{place} holds a sweep of {known.model!r}, not of this {origin.model!r}: choose "
                "another folder"
            )
        return cls(place)

    def done(self) -> set[str]:
        """Keys of the cells that are in.

        Raises:
            ArtefactError: for a damaged file.
        """
        return {key for file in self._files() for key in _read(file, ["cell"])["cell"].to_pylist()}

    def write(self, task: Task, found: Float[Tensor, "cell prompt number"]) -> None:
        """Keep what a task has found."""
        cells, prompts = found.shape[:2]
        numbers = found.flatten(0, 1).numpy()
        columns = {
            "cell": [cell.key for cell in task.cells for _ in range(prompts)],
            "prompt": list(range(prompts)) * cells,
            **{name: numbers[:, i] for i, name in enumerate(NUMBERS)},
        }
        with whole(self.folder / CELLS / f"{task.key}.parquet") as fresh:
            pq.write_table(pa.table(columns), fresh, compression="zstd")

    def read(self, cells: Sequence[Cell]) -> pd.DataFrame:
        """The numbers of some cells on every prompt, in their order; those not in are left out.

        Raises:
            ArtefactError: for a damaged file.
        """
        told = pd.DataFrame(
            [
                (c.key, c.at, c.reach, c.push.layer, c.push.direction, c.push.kind, c.push.strength)
                for c in cells
            ],
            columns=["cell", "at", "reach", "layer", "direction", "kind", "strength"],
        )
        parts = [_read(file) for file in self._files()]
        if not parts:
            return told.iloc[:0].assign(prompt=0, **dict.fromkeys(NUMBERS, 0.0))
        found = pa.concat_tables(parts).to_pandas()
        return told.merge(found, on="cell", how="inner", sort=False)

    def _files(self) -> list[Path]:
        return sorted((self.folder / CELLS).glob("*.parquet"))


def _read(file: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(file, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise ArtefactError(
            f"{file} is damaged ({first_line(error)}): delete it, and its cells are run again"
        ) from None


def _origin(manifest: Path) -> Provenance:
    try:
        raw = json.loads(manifest.read_text("utf-8"))
        if (raw["format"], raw["version"]) != (FORMAT, VERSION):
            raise ValueError(f"it is {raw['format']} version {raw['version']}")
        return Provenance.from_json(raw["origin"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError, ArtefactError) as error:
        raise ArtefactError(
            f"{manifest} is no manifest of {FORMAT} version {VERSION} ({first_line(error)}): "
            "choose another folder"
        ) from None
