"""Corpus to pooled activations: one pass for all layers and rules, nothing per token kept."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from emolens.activations import Activations
from emolens.errors import CorpusError, SelectionError
from emolens.hooks import hooked
from emolens.interventions import Intervention, Residual
from emolens.model import HookedModel
from emolens.positions import PositionRule, pick, story
from emolens.progress import progress_bar
from emolens.resume import Ledger
from emolens.sites import Site
from emolens.text import Text

CPU_BATCH, GPU_BATCH = 4096, 8192  # tokens; a 30M network on a CPU takes 1/6 longer with 8192
ENCODED = 1000  # texts that are tokenised at a time


def record(
    model: HookedModel,
    texts: Sequence[Text],
    *,
    layers: Sequence[int] | None = None,
    positions: PositionRule = story,
    batch_tokens: int | None = None,
    folder: Path | str | None = None,
) -> Activations:
    """Mean residual of each text at every layer, over the tokens that a rule picks.

    The run ends after the last layer that is asked for; logits are never computed. The result does
    not depend on the order of texts, on batch size or on padding (but for rounding: 1e-5).

    Args:
        model: the hooked model.
        texts: what to read.
        layers: 0-based blocks; all of them by default.
        positions: which tokens; the default is the rule for stories.
        batch_tokens: most tokens of a batch, padding included; by default 4,096 on a CPU, whose
            caches hold about as much, and 8,192 on a GPU. A batch for which memory does not suffice
            is halved, and a line says so.
        folder: where to keep what was read so far, and the result. A run that was killed and is
            started again with the same folder goes on, and ends with the same bytes (on one
            machine, with as many threads).

    Raises:
        CorpusError: if there are no texts.
        SelectionError: for an unknown layer, a rule that picks no token of a text, or a text that
            does not fit into memory.
        ArtefactError: if the folder holds a recording of another model, other texts or positions.
        HookError: if there is a folder, and hooks are in force.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> stories = emolens.organism_stories(per_emotion=2)
    >>> emolens.record(model, stories, layers=[3])
    Activations(50 texts of 24 emotions, 1 layers, d_model 160, model 'organism')
    """
    rules = {"": positions}
    found = record_at(model, texts, rules, layers=layers, batch_tokens=batch_tokens, folder=folder)
    return found[""]


def record_at(
    model: HookedModel,
    texts: Sequence[Text],
    rules: Mapping[str, PositionRule],
    *,
    layers: Sequence[int] | None = None,
    batch_tokens: int | None = None,
    folder: Path | str | None = None,
) -> dict[str, Activations]:
    """What `record` gives for each of several position rules, from one pass.

    Args:
        model: the hooked model.
        texts: what to read.
        rules: position rules, under names of your own.
        layers: as in `record`.
        batch_tokens: as in `record`.
        folder: as in `record`.

    Raises:
        CorpusError: if there are no texts.
        SelectionError: as in `record`.
        ArtefactError: as in `record`.
        HookError: as in `record`.

    >>> import emolens
    >>> from emolens import positions
    >>> model = emolens.load("organism")
    >>> stories = emolens.organism_stories(per_emotion=2)
    >>> rules = {"story": positions.story, "last": positions.last}
    >>> sorted(emolens.record_at(model, stories, rules, layers=[3]))
    ['last', 'story']
    """
    if not texts:
        raise CorpusError("no texts to read: the corpus is empty")
    chosen = model.check_layers(layers if layers is not None else range(model.n_layers))
    if folder is not None:
        model.require_unchanged(str(folder))
    if batch_tokens is None:
        batch_tokens = usual_batch(model)
    encoded = _encode(model, texts, rules)
    origin = model.provenance(texts, {}, encoded.cut)
    made = [replace(origin, positions=dict(used)) for used in encoded.used]
    ledger = Ledger.open(
        Path(folder) if folder is not None else None,
        tuple(plan_batches(encoded.lengths, batch_tokens)),
        (len(rules), len(texts), len(chosen), model.d_model),
        {
            "model": [origin.fingerprint, origin.weights, origin.dtype],
            "texts": origin.corpus,
            "layers": chosen,
            "positions": hashlib.sha256(encoded.picked.numpy().tobytes()).hexdigest(),
        },
    )
    _read(model, encoded, chosen, ledger)
    pooled = ledger.result()
    return {
        name: Activations(
            pooled=pooled[i],
            layers=chosen,
            emotions=tuple(t.emotion for t in texts),
            groups=tuple(t.group for t in texts),
            residual_norm=ledger.norms[i].double().sum(0).div(encoded.picked[i].sum()).float(),
            provenance=made[i],
            n_layers=model.n_layers,
        )
        for i, name in enumerate(rules)
    }


@dataclass(frozen=True, eq=False)
class _Encoded:
    """All texts as one row of tokens, without padding; mapped into memory from temporary files."""

    ids: Int[Tensor, " token"]
    picked: Bool[Tensor, "rule token"]
    lengths: Int[Tensor, " text"]
    used: tuple[Counter[str], ...]
    cut: int

    def padded(
        self, rows: Int[Tensor, " row"]
    ) -> tuple[Int[Tensor, "row token"], Bool[Tensor, "row token"], Bool[Tensor, "rule row token"]]:
        """Ids, which of them are tokens, and which are picked, of some texts."""
        lengths, ends = self.lengths[rows], self.lengths.cumsum(0)[rows]
        column = torch.arange(int(lengths.max()))
        mask = column < lengths[:, None]
        at = ((ends - lengths)[:, None] + column).clamp(max=len(self.ids) - 1)
        return self.ids[at].long(), mask, self.picked[:, at] & mask


def _encode(
    model: HookedModel, texts: Sequence[Text], rules: Mapping[str, PositionRule]
) -> _Encoded:
    lengths, cut = [], 0
    used: tuple[Counter[str], ...] = tuple(Counter() for _ in rules)
    with TemporaryFile() as ids, TemporaryFile() as picked:
        for start in range(0, len(texts), ENCODED):
            some = texts[start : start + ENCODED]
            tokens = model.tokenize(some)
            found = [pick(rule, some, tokens) for rule in rules.values()]
            for count, positions in zip(used, found, strict=True):
                count.update(positions.used)
            tokens.ids[tokens.mask].int().numpy().tofile(ids)
            torch.stack([p.mask[tokens.mask] for p in found], 1).numpy().tofile(picked)
            lengths.append(tokens.mask.sum(1))
            cut += len(tokens.cut)
        return _Encoded(
            torch.from_numpy(np.memmap(ids, np.int32)),
            torch.from_numpy(np.memmap(picked, np.bool_)).view(-1, len(rules)).T,
            torch.cat(lengths),
            used,
            cut,
        )


def usual_batch(model: HookedModel) -> int:
    """How many tokens, padding included, are read together where nobody says."""
    return CPU_BATCH if model.device.type == "cpu" else GPU_BATCH


def plan_batches(lengths: Int[Tensor, " text"], batch_tokens: int) -> Iterator[tuple[int, ...]]:
    """Rows of similar length together, longest first, at most `batch_tokens` with padding."""
    order = lengths.argsort(descending=True, stable=True)
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // int(lengths[order[start]]))
        yield tuple(order[start : start + size].tolist())
        start += size


def _read(model: HookedModel, encoded: _Encoded, layers: tuple[int, ...], ledger: Ledger) -> None:
    """Read every batch that is not in the ledger yet."""
    batches = [torch.tensor(rows) for rows in ledger.batches]
    tokens = [int(encoded.lengths[rows].sum()) for rows in batches]
    room = max(len(rows) * int(encoded.lengths[rows].max()) for rows in batches)
    with model.bare(), progress_bar() as bar:
        task = bar.add_task(
            f"reading {len(encoded.lengths):,} texts", total=sum(tokens), unit="tokens"
        )
        for number, rows in enumerate(batches):
            width = int(encoded.lengths[rows].max())
            while not ledger.done[number]:
                size = min(len(rows), max(1, room // width))
                try:
                    pieces = [_pool(model, encoded, layers, some) for some in rows.split(size)]
                except RuntimeError as error:
                    room = _half(error, size, width)
                    bar.console.print(f"out of memory: batches now of at most {room:,} tokens")
                else:
                    ledger.write(
                        number, *(torch.cat(found, 1) for found in zip(*pieces, strict=True))
                    )
            bar.advance(task, tokens[number])


def _half(error: RuntimeError, size: int, width: int) -> int:
    """Tokens that a batch may have after one of `size` texts did not fit into memory.

    Raises:
        SelectionError: if it was a single text.
        RuntimeError: the error itself, if it is of another kind.
    """
    if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
        raise error
    if size == 1:
        raise SelectionError(
            f"memory does not suffice for one text of {width:,} tokens: cut it, read fewer layers, "
            "or open the model in half precision"
        ) from None
    return size // 2 * width


class _Enough(Exception):
    """Ends a pass after the last layer that is asked for."""


def _pool(
    model: HookedModel, encoded: _Encoded, layers: tuple[int, ...], rows: Int[Tensor, " row"]
) -> tuple[Float[Tensor, "rule row layer d_model"], Float[Tensor, "rule row layer"]]:
    """Mean residuals of some texts, and the summed norms of what the means are over."""
    ids, mask, picked = encoded.padded(rows)
    picked = picked.to(model.device, torch.float32)  # once, not at every layer
    share = picked / picked.sum(-1, keepdim=True)
    pooled = torch.empty(*picked.shape[:2], len(layers), model.d_model, device=model.device)
    norms = torch.empty(*picked.shape[:2], len(layers), device=model.device)

    def see(column: int, residual: Residual) -> None:
        wide = residual.float()
        pooled[:, :, column] = einsum(share.to(wide), wide, "k row tok, row tok d -> k row d")
        length = torch.linalg.vector_norm(wide, dim=-1)
        norms[:, :, column] = einsum(picked.to(wide), length, "k row tok, row tok -> k row")

    run_to(model, ids, mask, layers, see)
    return pooled.cpu(), norms.cpu()


def residuals(
    model: HookedModel,
    ids: Int[Tensor, "row token"],
    mask: Bool[Tensor, "row token"],
    layers: Sequence[int],
) -> Float[Tensor, "row token layer d_model"]:
    """The stream at every token of a batch (padding too), float32, from a pass that ends early."""
    found = torch.empty(*ids.shape, len(layers), model.d_model)

    def see(column: int, residual: Residual) -> None:
        found[:, :, column] = residual.float().cpu()

    run_to(model, ids, mask, tuple(layers), see)
    return found


def run_to(
    model: HookedModel,
    ids: Int[Tensor, "row token"],
    mask: Bool[Tensor, "row token"],
    layers: tuple[int, ...],
    see: Callable[[int, Residual], None],
) -> None:
    """Run a batch up to the last of the layers; `see` gets each one's place and its stream."""

    def keep(column: int) -> Intervention:
        def change(residual: Residual) -> Residual:
            see(column, residual)
            if layers[column] == max(layers):
                raise _Enough
            return residual

        return change

    sites = {Site(layer): keep(column) for column, layer in enumerate(layers)}
    with torch.inference_mode(), hooked(model, sites), suppress(_Enough):
        model.forward(ids, mask)
