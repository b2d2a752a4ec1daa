"""Many changes of one run: each begins at the layer and token that it changes, several together."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from emolens.decisions import Decision, Trial
from emolens.errors import ModelError, SelectionError
from emolens.hooks import hooked, reading
from emolens.interventions import Change, Intervention, Residual
from emolens.model import HookedModel
from emolens.recording import usual_batch
from emolens.sites import Site


def run_changed(
    trial: Trial,
    changes: Sequence[Change],
    *,
    since: Int[Tensor, " text"] | None = None,
    batch_tokens: int | None = None,
) -> Iterator[Decision]:
    """What `trial.run()` gives under each change alone, in the order given.

    A change leaves the first block that it comes after and those below as they were, and tokens
    before the first that it changes as they were everywhere: their work is done once, their keys
    and values are kept. Changes after the same blocks run together. The numbers are those of
    `hooked` around `trial.run()`, but for rounding (in float32 1e-5 of a probability, 1e-4 of a
    logit). Hooks that are in force apply, to several copies of the prompts: keep them until all of
    it is read.

    Where blocks hand more to each other than the stream, each change has a run of its own.

    Args:
        trial: prompts and model.
        changes: each an intervention for each 0-based block that it comes after; those of the same
            blocks should stand together.
        since: the first token of each prompt that is changed, at most `trial.final`. An
            intervention is then called with the stream from there to the decision, of prompts of
            one length at a time: it must not be of single prompts, as `Patch` and `At` are. By
            default all tokens of all prompts are changed, padding too.
        batch_tokens: most tokens of a batch, those with kept keys and values included, but for the
            runs without any change; by default as in `record`.

    Raises:
        ModelError: with `since`, for a `HookedTransformer` or an architecture that keeps other
            things than keys and values.
        SelectionError: for a layer that the model lacks, a change without any, a first token beyond
            the decision, or an intervention that does not fit the prompts.

    >>> import emolens, torch
    >>> from emolens.decisions import Trial
    >>> model = emolens.load("organism")
    >>> trial = Trial.prepare(model, emolens.organism_behaviour(per_emotion=2))
    >>> steps = [{layer: emolens.Steer(torch.zeros(model.d_model))} for layer in (2, 4)]
    >>> [torch.allclose(d.p, trial.run().p, atol=1e-5) for d in run_changed(trial, steps)]
    [True, True]
    """
    if not all(isinstance(change, Mapping) and change for change in changes):
        raise SelectionError(
            "a change of a run names no block: give interventions by block, as {3: Steer(step)}"
        )
    trial.model.check_layers(tuple(dict.fromkeys(k for change in changes for k in change)))
    layers = tuple(dict.fromkeys(min(change) for change in changes))
    return Shared.prepare(trial, layers, since).run(changes, batch_tokens)


@dataclass(frozen=True, eq=False)
class _Part:
    """Prompts that run together: what is left of them to be run, and what was before that.

    Attributes:
        rows: which of the trial's.
        ids: their tokens from the first that is changed on.
        mask: which tokens there are, those before included.
        place: of the decision among `ids`.
        streams: the residual stream at `ids` after each layer.
        past: keys and values of the tokens before, as Hugging Face keeps them, if there are such.
    """

    rows: Int[Tensor, " row"]
    ids: Int[Tensor, "row token"]
    mask: Bool[Tensor, "row kept"]
    place: Int[Tensor, " row"]
    streams: dict[int, Float[Tensor, "row token d_model"]]
    past: Any = None

    def run(
        self, model: HookedModel, layers: Sequence[int], changes: Sequence[Change]
    ) -> Float[Tensor, "change row vocab"]:
        """Logits at the decisions under each of several changes after the same blocks."""
        count, (layer, *later) = len(changes), sorted(layers)
        stream = _each(changes, layer, self.streams[layer][:, None].expand(-1, count, -1, -1))

        def at(k: int) -> Intervention:
            return lambda stream: _each(changes, k, stream.unflatten(0, (-1, count)))

        above = hooked(model, {Site(k): at(k) for k in later}) if later else nullcontext()
        ids, mask, place = (
            each.repeat_interleave(count, 0) for each in (self.ids, self.mask, self.place)
        )
        past = _copies(self.past, layer + 1, count)
        with beginning_after(model, layer, stream), above:
            logits = model.logits_at(ids, mask, place, past=past)
        return logits.float().cpu().unflatten(0, (-1, count)).transpose(0, 1)


@dataclass(frozen=True, eq=False)
class Shared:
    """A trial with all that changes after some layers share done, for as many as come.

    Attributes:
        trial: prompts and model.
        since: the first token of each prompt that is changed; None for all tokens.
        parts: prompts that run together; None where each change needs a run of its own.
    """

    trial: Trial
    since: Int[Tensor, " text"] | None
    parts: tuple[_Part, ...] | None

    @classmethod
    @torch.inference_mode()
    def prepare(
        cls, trial: Trial, layers: Sequence[int], since: Int[Tensor, " text"] | None = None
    ) -> "Shared":
        """Run the prompts unchanged, and keep the stream after those layers.

        Raises:
            ModelError: as `run_changed`.
            SelectionError: as `run_changed`.
        """
        chosen = trial.model.check_layers(tuple(layers))
        if not _shares_keys(trial.model):
            with _outputs(trial.model) as given:
                parts = [_whole(trial, chosen)] if since is None else _parts(trial, since, chosen)
            if all(isinstance(output, Tensor) for output in given):
                return cls(trial, since, tuple(parts))
        if since is not None:
            raise ModelError(
                f"blocks of {trial.model.name!r} hand more to each other than the stream: run it "
                "from the first token"
            )
        return cls(trial, since, None)

    def together(self, batch_tokens: int | None = None) -> int:
        """How many changes run in one batch."""
        if self.parts is None:
            return 1
        room = batch_tokens or usual_batch(self.trial.model)
        return max(1, room // max(part.mask.numel() for part in self.parts))

    @torch.inference_mode()
    def run(self, changes: Sequence[Change], batch_tokens: int | None = None) -> Iterator[Decision]:
        """The decisions under each change alone; as `run_changed`."""
        trial = self.trial
        if self.parts is None:
            for change in changes:
                with hooked(trial.model, {Site(layer): each for layer, each in change.items()}):
                    decision = trial.run()
                yield decision
            return
        order = torch.cat([part.rows for part in self.parts]).argsort()
        together = self.together(batch_tokens)
        for layers, alike in groupby(changes, key=lambda change: sorted(change)):
            while some := list(islice(alike, together)):
                logits = torch.cat([part.run(trial.model, layers, some) for part in self.parts], 1)
                yield from map(trial.decide, logits[:, order])


def _each(
    changes: Sequence[Change], layer: int, streams: Float[Tensor, "row change token d_model"]
) -> Residual:
    """What each change does after one block to its own copy of every row."""
    # clones, since an intervention may work in place
    made = [change[layer](streams[:, i].clone()) for i, change in enumerate(changes)]
    if any(changed.shape != streams[:, 0].shape for changed in made):
        raise SelectionError(
            f"an intervention after block {layer} does not give back the "
            f"{tuple(streams[:, 0].shape)} that it is called with: one of single prompts needs all "
            "tokens (no `since`)"
        )
    return torch.stack(made, 1).flatten(0, 1)


@contextmanager
def _outputs(model: HookedModel) -> Iterator[list[Any]]:
    """What the first block gives in the runs inside: its stream, or a tuple with more."""
    given: list[Any] = []
    handle = model.host.blocks[0].register_forward_hook(lambda _m, _args, out: given.append(out))
    try:
        yield given
    finally:
        handle.remove()


def _shares_keys(model: HookedModel) -> bool:
    """Whether blocks read keys and values that blocks below have made, as in Gemma 4."""
    inner = getattr(model.host, "original_model", None)
    config = None if inner is None else inner.config.get_text_config()
    return bool(getattr(config, "num_kv_shared_layers", False))


def _whole(trial: Trial, layers: tuple[int, ...]) -> _Part:
    """All prompts with all of their tokens."""
    with reading(trial.model, layers) as streams:
        trial.logits()
    rows = torch.arange(len(trial.tokens))
    return _Part(rows, trial.tokens.ids, trial.tokens.mask, trial.final, dict(streams))


def _parts(trial: Trial, since: Int[Tensor, " text"], layers: tuple[int, ...]) -> list[_Part]:
    """The prompts by their lengths before and after the first changed token: without padding."""
    if len(since) != len(trial.tokens) or bool(((since < 0) | (since > trial.final)).any()):
        raise SelectionError(
            f"since {since.tolist()} is not one token up to the decision of each of "
            f"{len(trial.tokens)} prompts: decisions are at {trial.final.tolist()}"
        )
    model, found = trial.model, []
    cuts = torch.stack([since, trial.final], 1)
    for start, final in cuts.unique(dim=0).tolist():
        rows = (cuts == torch.tensor([start, final])).all(1).nonzero().flatten()
        ids = trial.tokens.ids[rows, : final + 1]
        mask = torch.ones_like(ids, dtype=torch.bool)
        place = torch.full((len(rows),), final - start)
        past = model.past(ids[:, :start]) if start else None
        with reading(model, layers) as streams:
            model.logits_at(ids[:, start:], mask, place, past=_copies(past, model.n_layers, 1))
        found.append(_Part(rows, ids[:, start:], mask, place, dict(streams), past))
    return found


def _copies(past: Any, first: int, count: int) -> Any:
    """Keys and values that a run may add to; those from layer `first` on `count` times over."""
    if past is None:
        return None
    made = copy.copy(past)
    made.layers = [copy.copy(held) for held in past.layers]
    for held in made.layers[first:]:
        held.batch_repeat_interleave(count)
    return made


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
