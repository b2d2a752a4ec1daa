"""Many changes of one run: each begins at the layer that it changes, several in one batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from operator import itemgetter

import torch

from emolens.decisions import Decision, Trial
from emolens.hooks import reading
from emolens.interventions import Intervention, Residual
from emolens.model import HookedModel
from emolens.recording import usual_batch

Change = tuple[int, Intervention]  # what is done to the residual stream after which block


@torch.inference_mode()
def run_changed(
    trial: Trial, changes: Sequence[Change], *, batch_tokens: int | None = None
) -> Iterator[Decision]:
    """What `trial.run()` gives under each change alone, in the order given.

    A change after a block leaves that block and those below it as they were, so their work is done
    once; changes after one block run together. The numbers are those of `hooked` around
    `trial.run()`, but for rounding (1e-5). Hooks in force apply, to several copies of the prompts.

    Args:
        trial: prompts and model.
        changes: 0-based block and intervention; those after one block should stand together.
        batch_tokens: most tokens of a batch, padding included; by default as in `record`.

    Raises:
        SelectionError: for a layer that the model lacks.

    >>> import emolens, torch
    >>> from emolens.decisions import Trial
    >>> model = emolens.load("organism")
    >>> trial = Trial.prepare(model, emolens.organism_behaviour(per_emotion=2))
    >>> steps = [(layer, emolens.Steer(torch.zeros(128))) for layer in (2, 4)]
    >>> [torch.allclose(d.p, trial.run().p, atol=1e-5) for d in run_changed(trial, steps)]
    [True, True]
    """
    model, ids, mask = trial.model, trial.tokens.ids, trial.tokens.mask
    together = max(1, (batch_tokens or usual_batch(model)) // ids.numel())
    layers = tuple(dict.fromkeys(layer for layer, _ in changes))
    with reading(model, layers) as streams:
        trial.logits()
    for layer, of_layer in groupby(changes, key=itemgetter(0)):
        while some := [change for _, change in islice(of_layer, together)]:
            stream = torch.cat([change(streams[layer]) for change in some])
            count = len(some)
            with beginning_after(model, layer, stream):
                logits = model.logits_at(
                    ids.repeat(count, 1), mask.repeat(count, 1), trial.final.repeat(count)
                )
            yield from map(trial.decide, logits.float().cpu().chunk(count))


@contextmanager
def beginning_after(model: HookedModel, layer: int, stream: Residual) -> Iterator[None]:
    """Inside, runs take `stream` for what block `layer` gives; it and those below do nothing.

    Their hooks do not run. Whatever else a run is given (mask, positions) has to fit the stream.
    """
    skipped = model.host.blocks[: layer + 1]
    for block in skipped:  # by its dict: a bridge's attributes are those of the block inside it
        block.__dict__["forward"] = lambda *_args, **_options: stream
    try:
        yield
    finally:
        for block in skipped:
            del block.__dict__["forward"]
