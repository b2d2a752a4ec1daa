"""A training run and its state on disk, from which it goes on to the same weights bit by bit."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from emolens.errors import ArtefactError, TrainingError

STATE = "state.safetensors"
LOG = "training.jsonl"


@dataclass
class Run:
    """A training run as it stands.

    The stream of batches is no part of its state: a recipe decides it, and `step` is the place.

    Attributes:
        folder: where its files are.
        recipe: all that decides it, as in `recipe.json`.
        model: what is trained.
        optimiser: with its moments.
        generator: of the interchanges.
        step: optimiser steps taken.
        seen: tokens trained on.
        log: the record of each check.
    """

    folder: Path
    recipe: dict[str, Any]
    model: LlamaForCausalLM
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0
    seen: int = 0
    log: list[dict[str, int | float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Spent up to the last check."""
        return self.log[-1]["seconds"] if self.log else 0.0

    def write_log(self) -> None:
        """Write one line for each check."""
        lines = "".join(json.dumps(record) + "\n" for record in self.log)
        (self.folder / LOG).write_text(lines)

    def save(self) -> None:
        """Write the state in one move: a kill leaves the last whole one.

        It holds the log too, so that after a kill between the two files they agree again.
        """
        header = {
            "recipe": json.dumps(self.recipe),
            "step": str(self.step),
            "tokens": str(self.seen),
            "seconds": str(self.seconds),
            "log": json.dumps(self.log),
        }
        part = self.folder / f"{STATE}.part"
        save_file(self._tensors(), part, metadata=header)
        part.replace(self.folder / STATE)

    def restore(self) -> None:
        """Go on from the state in the folder, if there is one.

        Raises:
            TrainingError: if it is of another recipe.
            ArtefactError: if it is damaged.
        """
        path = self.folder / STATE
        if not path.exists():
            return
        try:
            with safe_open(path, framework="pt") as reader:
                header = reader.metadata()
                tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ArtefactError(
                f"{path} is damaged or cut short ({error}): delete it to train from the start"
            ) from None
        self._refuse_another(json.loads(header["recipe"]))
        self._fill(tensors)
        self.step, self.seen = int(header["step"]), int(header["tokens"])
        self.log = json.loads(header["log"])

    def forget(self) -> None:
        """Remove the state: the run is over."""
        (self.folder / STATE).unlink(missing_ok=True)

    def _tensors(self) -> dict[str, Tensor]:
        named = {f"model.{name}": p.data for name, p in self.model.named_parameters()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            named |= {f"optimiser.{index}.{key}": value for key, value in moments.items()}
        return named | {"generator": self.generator.get_state()}

    def _fill(self, tensors: dict[str, Tensor]) -> None:
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser."):
                _, index, key = name.split(".")
                moments.setdefault(int(index), {})[key] = value
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": moments})
        self.generator.set_state(tensors["generator"])
        for name, parameter in self.model.named_parameters():
            parameter.data.copy_(tensors[f"model.{name}"])

    def _refuse_another(self, found: dict[str, Any]) -> None:
        names = [k for k in {**self.recipe, **found} if self.recipe.get(k) != found.get(k)]
        if names:
            differs = ", ".join(f"{k} {found.get(k)}, not {self.recipe.get(k)}" for k in names)
            raise TrainingError(
                f"{self.folder} holds a stopped run of another recipe ({differs}): choose another "
                f"folder, or delete {STATE} in it to start anew"
            )
