"""Preventative steering: a vector is added while a model is fine-tuned, and left out afterwards.

Of Chen et al. 2025, "Persona Vectors" (arXiv:2507.21509): what the vector already supplies the
weights need not learn, so it goes with the vector.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from emolens.errors import HookError, ModelError, SelectionError
from emolens.interventions import At, Change, Intervention, block_hook

Mask = Callable[[Int[Tensor, "text token"]], Bool[Tensor, "text token"]]


@contextmanager
def train_steered(
    model: nn.Module,
    changes: Change,
    *,
    positions: Mask | None = None,
    evaluating: bool = False,
) -> Iterator[None]:
    """Change the residual stream of a model's training passes, whoever trains it.

    Plain hooks on the decoder's blocks: they act in Hugging Face's `Trainer`, under PEFT, with
    gradient checkpointing and in a loop of your own. Gradients flow through the change; nothing of
    it is in the weights. It comes before hooks that were there, so hidden states that Hugging Face
    gives hold it. A model that is to be compiled is compiled inside.

    Args:
        model: a decoder of Hugging Face, also wrapped, or a `HookedModel`'s
            `host.original_model`.
        changes: what is done to the stream after which 0-based blocks, as `Steer(vector)`, in
            residual units. `Steer(-vector)` subtracts.
        positions: of the passes' input ids, the tokens that are changed (those of the assistant,
            say); all of them by default, also special ones and padding.
        evaluating: whether passes in `eval()` mode are changed too. By default they show the model
            as it will be used.

    Raises:
        ModelError: if the decoder's blocks are not found.
        SelectionError: for a layer that the model lacks, or a mask of another kind or shape than
            the ids.
        HookError: on leaving, if no pass was changed; within, if a pass brings no input ids to ask
            `positions` about, or it is not known which pass gradient checkpointing does again.

    >>> import torch, transformers, emolens
    >>> folder = emolens.organism_folder("organism-small")
    >>> network = transformers.AutoModelForCausalLM.from_pretrained(folder).train()
    >>> ids = torch.tensor([[1, 20, 30, 40]])
    >>> with train_steered(network, {2: emolens.Steer(torch.ones(128))}):
    ...     network(input_ids=ids, labels=ids).loss.backward()
    """
    stack, blocks = _decoder(model)
    missing = [layer for layer in changes if not 0 <= layer < len(blocks)]
    if missing:
        raise SelectionError(
            f"no block {missing[0]} in {type(model).__name__}: it has 0 to {len(blocks) - 1}"
        )
    passes = _Passes(positions, evaluating)
    with ExitStack() as hooks:
        if positions is not None:
            begin = stack.register_forward_pre_hook(passes.begin, with_kwargs=True)
            hooks.callback(begin.remove)
        for layer, change in changes.items():
            after = blocks[layer].register_forward_hook(passes.after(layer, change), prepend=True)
            hooks.callback(after.remove)
        yield
    if changes and not passes.changed:
        raise HookError(
            "no pass was changed: run the model inside the context, in train() mode or with "
            "evaluating=True"
        )


def _decoder(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The module that runs the blocks, and they."""
    configs = (getattr(module, "config", None) for module in model.modules())
    config = next((c for c in configs if hasattr(c, "get_text_config")), None)
    count = config.get_text_config().num_hidden_layers if config is not None else 0
    found = [
        (owner, part)
        for owner in model.modules()
        for part in owner.children()
        if isinstance(part, nn.ModuleList) and len(part) == count
    ]
    if len(found) != 1:
        raise ModelError(
            f"{len(found)} lists of {count} blocks in {type(model).__name__}: give a Hugging Face "
            "decoder, of a model with several parts the language model alone"
        )
    return found[0]


@dataclass(eq=False)
class _Passes:
    """Which tokens of the pass that is running are changed.

    Attributes:
        positions: as given.
        evaluating: as given.
        mask: of the pass that began last.
        waiting: passes since one that gradient checkpointing may yet run in part again, with it.
        done: layers that the last pass has come through; one that comes again is run again.
        again: whether blocks were run again since the last pass began.
        changed: whether any pass was.
    """

    positions: Mask | None
    evaluating: bool
    mask: Bool[Tensor, "text token"] | None = None
    waiting: int = 0
    done: set[int] = field(default_factory=set)
    again: bool = False
    changed: bool = False

    def begin(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Ask about the tokens of a pass that begins."""
        if self.positions is None or not (module.training or self.evaluating):
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise HookError(
                "a pass without input ids has no tokens to choose: give the model ids, not "
                "embeddings, or leave positions out"
            )
        self.mask = self.positions(ids)
        if self.mask.dtype != torch.bool or self.mask.shape != ids.shape:
            raise SelectionError(
                f"positions gave {self.mask.dtype} of shape {tuple(self.mask.shape)}: expected "
                f"torch.bool of shape {tuple(ids.shape)}, as the input ids"
            )
        if self.again or not self.waiting:
            self.waiting, self.again = int(torch.is_grad_enabled()), False
        else:
            self.waiting += 1
        self.done.clear()

    def after(self, layer: int, change: Intervention) -> Callable[[nn.Module, tuple, Any], Any]:
        """A hook by which a block gives its stream changed, alone or with more behind it."""

        def hook(block: nn.Module, args: tuple, given: Any) -> Any:
            if not (block.training or self.evaluating):
                return given
            chosen = self._chosen(layer, change)
            self.changed = True
            return block_hook(chosen)(block, args, given)

        return hook

    def _chosen(self, layer: int, change: Intervention) -> Intervention:
        """The change at the tokens of this pass."""
        if self.mask is None:
            return change
        if layer in self.done:
            self.again = True
            if self.waiting > 1:
                raise HookError(
                    f"{self.waiting} forward passes before a backward pass with gradient "
                    "checkpointing: which tokens to change is known of the last alone; call "
                    "backward after each, or leave positions out"
                )
        self.done.add(layer)
        return At(self.mask, change)
