"""What a recording has read so far: in memory, or in a folder that outlives the process."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emolens.errors import ArtefactError, first_line

PLAN, DONE = "plan.json", "done.bool"


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
            )
        folder.mkdir(parents=True, exist_ok=True)
        batches = _agreed(folder / PLAN, batches, {**identity, "shape": list(shape)})
        done = folder / DONE
        begun = done.exists() and done.stat().st_size > 0  # made last: the others are whole by then
        return cls(
            batches,
            _mapped(folder / "pooled.f32", shape, torch.float32, begun),
            _mapped(folder / "norms.f32", shape[:3], torch.float32, begun),
            _mapped(done, (len(batches),), torch.bool, begun),
        )

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
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps({"identity": identity, "batches": batches}))
        fresh.replace(file)
        return batches
    try:
        plan = json.loads(file.read_text("utf-8"))
        kept, rows = dict(plan["identity"]), tuple(tuple(map(int, b)) for b in plan["batches"])
        if sorted(row for batch in rows for row in batch) != list(range(identity["shape"][1])):
            raise ValueError("its batches are not every text once")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
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
    if begun and not (file.exists() and file.stat().st_size == size * dtype.itemsize):
        raise ArtefactError(
            f"{file} is missing or cut short, and would be read as zeros: delete its folder or "
            "choose another"
        )
    return torch.from_file(str(file), shared=True, size=size, dtype=dtype).view(shape)
