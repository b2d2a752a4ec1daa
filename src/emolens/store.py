"""Activations of every token on disk: safetensors shards and a manifest, mapped when read."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from emolens.errors import ArtefactError, CorpusError, SelectionError, first_line
from emolens.model import HookedModel
from emolens.progress import progress_bar
from emolens.provenance import Provenance
from emolens.recording import plan_batches, residuals, usual_batch
from emolens.resume import whole
from emolens.text import Text, Tokens

FORMAT, VERSION = "emolens.tokens", 1
MANIFEST = "manifest.json"
SHARD_TOKENS = 32_768


@dataclass(frozen=True, eq=False)
class TokenStore:
    """The stream at every token of some texts, special tokens left out; nothing is held in memory.

    Attributes:
        folder: of the shards and the manifest.
        layers: 0-based blocks of the second axis.
        lengths: tokens of each text.
        shards: first text and end of each shard.
        dtype: of the numbers on disk.
        provenance: model and texts.
    """

    folder: Path
    layers: tuple[int, ...]
    lengths: tuple[int, ...]
    shards: tuple[tuple[int, int], ...]
    dtype: str
    provenance: Provenance

    def __len__(self) -> int:
        """How many texts."""
        return len(self.lengths)

    def text(self, index: int) -> Float[Tensor, "token layer d_model"]:
        """One text's activations; only they are read from the disk.

        Raises:
            SelectionError: for a text that is not there.
            ArtefactError: if its shard is missing or damaged.
        """
        if not 0 <= index < len(self):
            raise SelectionError(f"no text {index}: the store holds texts 0..{len(self) - 1}")
        shard = next(i for i, (_, end) in enumerate(self.shards) if index < end)
        start = self._starts[index] - self._starts[self.shards[shard][0]]
        file = shard_file(self.folder, shard)
        try:
            with safe_open(file, framework="pt") as reader:
                return reader.get_slice("residual")[start : start + self.lengths[index]]
        except (OSError, SafetensorError) as error:
            raise ArtefactError(
                f"{file} is missing or damaged ({first_line(error)}): store the texts again"
            ) from None

    @cached_property
    def _starts(self) -> list[int]:
        """Tokens before each text."""
        return torch.tensor((0, *self.lengths)).cumsum(0).tolist()


def shard_file(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / f"tokens-{shard:05d}.safetensors"


def store_tokens(
    model: HookedModel,
    texts: Sequence[Text],
    folder: Path | str,
    *,
    layers: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> TokenStore:
    """Read texts once and keep the stream at every token, for work that comes back to single ones.

    It takes tokens x layers x d_model numbers of disk space; where means over tokens are enough,
    `record` keeps those alone. Shards hold whole texts in their order. A run that was killed goes
    on after its last whole shard when it is started again with the same folder.

    Args:
        model: the hooked model.
        texts: cut where the context ends.
        folder: for shards and manifest.
        layers: 0-based blocks; all of them by default.
        dtype: of the numbers on disk; float32, since half precision loses what small steps do.

    Raises:
        CorpusError: if there are no texts.
        SelectionError: for an unknown layer.
        ArtefactError: if the folder holds a store of another model, other texts, layers or dtype.
        HookError: if hooks are in force.

    >>> import emolens, tempfile
    >>> model = emolens.load("organism")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = store_tokens(model, emolens.organism_stories(1), folder, layers=[3])
    ...     store.text(0).shape[1:]
    torch.Size([1, 160])
    """
    if not texts:
        raise CorpusError("no texts to store: the corpus is empty")
    chosen = model.check_layers(layers if layers is not None else range(model.n_layers))
    model.require_unchanged(str(folder))
    tokens = model.tokenize(texts)
    lengths = tuple(tokens.words.sum(1).tolist())
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    origin = model.provenance(texts, {"all": len(texts)}, len(tokens.cut))
    kind = str(dtype).removeprefix("torch.")
    store = TokenStore(place, chosen, lengths, tuple(_shards(lengths)), kind, origin)
    _agree(store)
    digest = hashlib.sha256(json.dumps(_identity(store)).encode()).hexdigest()
    with progress_bar() as bar:
        task = bar.add_task(f"storing {len(texts):,} texts", total=sum(lengths), unit="tokens")
        for number, (start, end) in enumerate(store.shards):
            file = shard_file(place, number)
            if not _stored(file, digest, sum(lengths[start:end])):
                found = _read(model, tokens, (start, end), chosen)
                with whole(file) as fresh:
                    save_file({"residual": found.to(dtype)}, fresh, metadata={"of": digest})
            bar.advance(task, sum(lengths[start:end]))
    return store


def open_store(folder: Path | str) -> TokenStore:
    """Open what `store_tokens` wrote.

    Raises:
        ArtefactError: if the manifest is missing, damaged or of another version, or a shard is
            missing.
    """
    store = _read_manifest(Path(folder))
    for shard in range(len(store.shards)):
        if not shard_file(store.folder, shard).exists():
            raise ArtefactError(
                f"{folder} lacks shard {shard + 1} of {len(store.shards)}: run store_tokens again "
                "with this folder to go on"
            )
    return store


def _read_manifest(folder: Path) -> TokenStore:
    file = folder / MANIFEST
    try:
        raw = json.loads(file.read_text("utf-8"))
        if (raw["format"], raw["version"]) != (FORMAT, VERSION):
            raise ValueError(f"it is {raw['format']} version {raw['version']}")
        return TokenStore(
            folder,
            tuple(map(int, raw["layers"])),
            tuple(map(int, raw["lengths"])),
            tuple((int(start), int(end)) for start, end in raw["shards"]),
            str(raw["dtype"]),
            Provenance.from_json(raw["provenance"]),
        )
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        OverflowError,
        RecursionError,
        ArtefactError,
    ) as error:
        raise ArtefactError(
            f"{file} is no manifest of {FORMAT} version {VERSION} ({first_line(error)}): store the "
            "texts again"
        ) from None


def _agree(store: TokenStore) -> None:
    """Write the manifest, or see that the one that is there is of the same store.

    Raises:
        ArtefactError: naming what differs.
    """
    file = store.folder / MANIFEST
    if not file.exists():
        raw = {name: getattr(store, name) for name in ("layers", "lengths", "shards", "dtype")}
        raw |= {"format": FORMAT, "version": VERSION, "provenance": store.provenance.to_json()}
        with whole(file) as fresh:
            fresh.write_text(json.dumps(raw))
        return
    kept = _read_manifest(store.folder)
    for name in ("model", "texts", "layers", "dtype"):
        if _identity(kept)[name] != _identity(store)[name]:
            raise ArtefactError(
                f"{store.folder} holds a store that differs in {name}: choose another folder"
            )


def _identity(store: TokenStore) -> dict[str, object]:
    origin = store.provenance
    return {
        "model": (origin.fingerprint, origin.weights, origin.dtype),
        "texts": (origin.corpus, store.lengths, store.shards),
        "layers": store.layers,
        "dtype": store.dtype,
    }


def _stored(file: Path, digest: str, tokens: int) -> bool:
    """Whether a shard is there, whole and of the store with that identity."""
    if not file.exists():
        return False
    try:
        with safe_open(file, framework="pt") as reader:
            ours = (reader.metadata() or {}).get("of") == digest
            return ours and reader.get_slice("residual").get_shape()[0] == tokens
    except (OSError, SafetensorError):
        return False


def _shards(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """First text and end of each shard: whole texts, about as many tokens in each."""
    ends, held = [0], 0
    for i, length in enumerate(lengths):
        if held and held + length > SHARD_TOKENS:
            ends.append(i)
            held = 0
        held += length
    ends.append(len(lengths))
    return list(pairwise(ends))


def _read(
    model: HookedModel, tokens: Tokens, shard: tuple[int, int], layers: tuple[int, ...]
) -> Float[Tensor, "token layer d_model"]:
    """The stream at every token of a shard's texts, in their order."""
    lengths = tokens.mask[slice(*shard)].sum(1)
    found: dict[int, Tensor] = {}
    with model.bare():
        for rows in plan_batches(lengths, usual_batch(model)):
            at, width = torch.tensor(rows) + shard[0], int(lengths[rows[0]])
            read = residuals(model, tokens.ids[at, :width], tokens.mask[at, :width], layers)
            words = tokens.words[at, :width]
            found |= {row: read[i][words[i]] for i, row in enumerate(rows)}
    return torch.cat([found[row] for row in range(len(lengths))])
