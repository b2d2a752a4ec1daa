"""Nothing is lost: files that are whole or not there, and what a recording has read so far."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emolens.errors import ArtefactError, first_line

PLAN, DONE, POOLED = "plan.json", "done.bool", "pooled.f32"
UNFINISHED = ".new"  # what a file's name ends in while it is written


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Where to write a file so that nobody ever sees a part of it: it gets its name at the end."""
    fresh = file.with_name(file.name + UNFINISHED)
    yield fresh
    fresh.replace(file)


@dataclass(frozen=True, eq=False)
class Ledger:
    """Where each batch of a recording writes its result, and which batches have.

    In a folder all three tensors are memory-mapped files. A batch is marked after its result has
    been written, and what a process wrote to a mapped file stays there when it is killed; so
    whoever opens the folder again finds only whole results marked.

    Attributes:
        batches: rows of each batch; fixed when the recording begins.
        pooled: mean residuals.
        norms: summed norms of the residuals at the picked tokens.
        done: which batches are in.
    """

    batches: tuple[tuple[int, ...], ...]
    pooled: Float[Tensor, "rule text layer d_model"]
    norms: Float[Tensor, "rule text layer"]
    done: Bool[Tensor, " batch"]
    folder: Path | None

    @classmethod
    def open(
        cls,
        folder: Path | None,
        batches: tuple[tuple[int, ...], ...],
        shape: tuple[int, int, int, int],
        identity: Mapping[str, Any],
    ) -> "Ledger":
        """Begin, or go on where the folder stands; its own batches are then kept.

        Args:
            folder: None for memory.
            batches: rows of each batch, if the recording begins.
            shape: of `pooled`.
            identity: what must be the same to go on.

        Raises:
            ArtefactError: if the folder holds something else.
        """
        if folder is None:
            return cls(
                batches,
                torch.zeros(shape),
                torch.zeros(shape[:3]),
                torch.zeros(len(batches), dtype=torch.bool),
                None,
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtefactError(
                f"cannot record into {folder} ({first_line(error)}): choose another folder"
            ) from None
        batches = _agreed(folder / PLAN, batches, {**identity, "shape": list(shape)})
        done = folder / DONE
        begun = done.exists() and done.stat().st_size > 0  # made last: the others are whole by then
        return cls(
            batches,
            _mapped(folder / POOLED, shape, torch.float32, begun),
            _mapped(folder / "norms.f32", shape[:3], torch.float32, begun),
            _mapped(done, (len(batches),), torch.bool, begun),
            folder,
        )

    def result(self) -> Float[Tensor, "rule text layer d_model"]:
        """The mean residuals; whoever changes them in place does not change the folder."""
        if self.folder is None:
            return self.pooled
        file, shape = str(self.folder / POOLED), self.pooled.shape
        return torch.from_file(file, shared=False, size=shape.numel()).view(shape)

    def write(
        self,
        batch: int,
        pooled: Float[Tensor, "rule row layer d_model"],
        norms: Float[Tensor, "rule row layer"],
    ) -> None:
        """Put in the result of a batch, then mark it."""
        rows = torch.tensor(self.batches[batch])
        self.pooled[:, rows] = pooled
        self.norms[:, rows] = norms
        self.done[batch] = True


def _agreed(
    file: Path, batches: tuple[tuple[int, ...], ...], identity: dict[str, Any]
) -> tuple[tuple[int, ...], ...]:
    """Write the plan, or read the one that is there if it is for the same recording."""
    if not file.exists():
        with whole(file) as fresh:
            fresh.write_text(json.dumps({"identity": identity, "batches": batches}))
        return batches
    try:
        plan = json.loads(file.read_text("utf-8"))
        kept, rows = dict(plan["identity"]), tuple(tuple(map(int, b)) for b in plan["batches"])
        found = sorted(row for batch in rows for row in batch)
        # not a list of as many as the file claims, which may be billions
        if found != list(range(len(found))) or int(kept["shape"][1]) != len(found):
            raise ValueError("its batches are not every text once")
    except (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise ArtefactError(
            f"{file} is not readable ({first_line(error)}): delete its folder or choose another"
        ) from None
    for name, value in identity.items():
        if kept.get(name) != json.loads(json.dumps(value)):
            raise ArtefactError(
                f"{file.parent} holds a recording that differs in {name}: choose another folder"
            )
    return rows


def _mapped(file: Path, shape: tuple[int, ...], dtype: torch.dtype, begun: bool) -> Tensor:
    """A tensor that lives in a file; zeros where the recording has not begun."""
    size = math.prod(shape)
    if not begun:
        _reserve(file, size * dtype.itemsize)
    elif not (file.exists() and file.stat().st_size == size * dtype.itemsize):
        raise ArtefactError(
            f"{file} is missing or cut short, and would be read as zeros: delete its folder or "
            "choose another"
        )
    return torch.from_file(str(file), shared=True, size=size, dtype=dtype).view(shape)


def _reserve(file: Path, size: int) -> None:
    """Take the disk space now: a mapped file that finds none later kills the process."""
    try:
        with file.open("ab") as opened:
            if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
                os.posix_fallocate(opened.fileno(), 0, max(size, 1))
    except OSError as error:
        raise ArtefactError(
            f"no room for the {size / 1e9:.1f} GB of {file} ({first_line(error)}): free some, or "
            "choose a folder on another disk"
        ) from None
