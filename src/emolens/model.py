"""The one door to TransformerLens: open a model, turn texts into tokens, run it."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Bool, Float, Int
from torch import Tensor

from emolens.errors import CorpusError, HookError, ModelError, SelectionError, first_line
from emolens.organism import CHECKPOINTS, organism_folder
from emolens.provenance import Provenance, corpus_hash, same_model
from emolens.sites import RESID_POST, Site
from emolens.text import Text, Tokens

Weights = Literal["raw", "processed"]
DeviceMap = str | dict[str, int | str]
_CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_FINGERPRINT_TOKENS = 8
_COMPARED_TOKENS = 32
# what Hugging Face and torch raise for a config that makes no sense, or a device that is not there
_SENSELESS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    StrictDataclassError,
)


@dataclass(frozen=True, eq=False)
class HookedModel:
    """A TransformerLens model with its tokenizer: what all of emolens works on.

    Make one with `emolens.load`. The wrapped model is left as it was: hooks live only inside
    contexts, gradients never reach its parameters.

    Attributes:
        name: `"organism"`, a folder's name or a hub id.
        host: the `TransformerBridge` (TransformerLens 3 and 4) or `HookedTransformer` (3).
        tokenizer: a fast Hugging Face tokenizer.
        n_layers: how many blocks.
        d_model: width of the residual stream.
        n_ctx: longest text in tokens; longer ones are cut at their end and counted.
        causal: whether it has next-token logits; an encoder has none, and what needs them is
            refused, never computed from a head that was not trained.
        weights: `"raw"` Hugging Face weights, or `"processed"` (folded, centred) ones.
    """

    name: str
    host: Any
    tokenizer: Any
    n_layers: int
    d_model: int
    n_ctx: int
    causal: bool
    weights: Weights

    def __repr__(self) -> str:
        """One line."""
        kind = "decoder" if self.causal else "encoder"
        return (
            f"HookedModel({self.name!r}, {kind}, {self.n_layers} layers x {self.d_model}, "
            f"{self.weights} weights, {type(self.host).__name__})"
        )

    @property
    def device(self) -> torch.device:
        """Where tokens have to be."""
        return next(self.host.parameters()).device

    @property
    def dtype(self) -> str:
        """What the model runs in, for example `"float32"`."""
        return str(next(self.host.parameters()).dtype).removeprefix("torch.")

    @property
    def rounding(self) -> float:
        """By what share of a stream's norm two ways of computing it may differ in this dtype."""
        return 1e-3 if self.dtype == "float32" else 2e-2

    @property
    def n_heads(self) -> int:
        """How many attention heads a block has (of queries, where keys and values are shared)."""
        return self.host.cfg.n_heads

    @property
    def model_type(self) -> str | None:
        """Hugging Face's name of the architecture, for example `"llama"`.

        None for a `HookedTransformer`, which holds no Hugging Face config.
        """
        inner = getattr(self.host, "original_model", None)
        return None if inner is None else inner.config.model_type

    @cached_property
    def fingerprint(self) -> tuple[float, ...]:
        """Three coordinates and the norm of the last token's residual at each layer.

        Taken on eight fixed token ids, so that two hosts of one set of weights agree.
        """
        size = len(self.tokenizer)
        ids = torch.linspace(size // 10, size - size // 10, _FINGERPRINT_TOKENS).long()[None]
        streams = self._streams(ids, torch.ones_like(ids, dtype=torch.bool))
        if len(streams) != self.n_layers:
            raise ModelError(
                f"{self.name}: {len(streams)} of {self.n_layers} residual hooks ran: this "
                "architecture does not show its residual stream to TransformerLens"
            )
        finals = [stream[-1].double() for stream in streams]
        picks = [0, self.d_model // 2, -1]
        return tuple(round(x, 6) for f in finals for x in (*f[picks].tolist(), float(f.norm())))

    @contextlib.contextmanager
    def bare(self) -> Iterator[None]:
        """Inside, blocks compute as Hugging Face wrote them, with fused attention where it can.

        So that every step shows, TransformerLens takes attention apart and works out each norm
        twice, which costs a tenth of a pass and more on long texts. Inside, only what blocks hand
        to each other can be read or changed. Where a hook is in force, and where the streams of a
        padded batch are not the same without TransformerLens's wrappers, nothing is different.
        """
        with contextlib.ExitStack() as stack:
            if self._hook_in_force() is None and self._bare_attention is not None:
                stack.enter_context(_unwrapped(self.host, self._bare_attention))
            yield

    @contextlib.contextmanager
    def bare_blocks(self) -> Iterator[Sequence[torch.nn.Module] | None]:
        """As `bare`, with Hugging Face's own blocks, whose plain hooks alone see the stream.

        Yields the blocks, or None where a hook is in force or blocks cannot run bare; then nothing
        is different.
        """
        if self._hook_in_force() is not None or self._bare_attention is None:
            yield None
            return
        shown = list(self.host.blocks)
        holder = next(
            m
            for m in self.host.original_model.modules()
            if isinstance(m, torch.nn.ModuleList) and list(m) == shown
        )
        with _unwrapped(self.host, self._bare_attention):
            try:
                for i, block in enumerate(shown):
                    holder[i] = block.original_component
                yield list(holder)
            finally:
                for i, block in enumerate(shown):
                    holder[i] = block

    @cached_property
    def _bare_attention(self) -> str | None:
        """The kind of attention with which bare blocks give the same stream, if there is one."""
        if self.model_type is None:
            return None
        config = self.host.original_model.config
        # what Hugging Face fuses knows no cap of attention's logits, as Gemma 2 has it
        capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
        own = self._padded_streams()
        for kind in ("eager",) if capped else ("sdpa", "eager"):
            with (
                contextlib.suppress(*_SENSELESS),  # parts that do not stand by themselves
                _quiet(),
                _unwrapped(self.host, kind),
            ):
                gaps = (self._padded_streams() - own).norm(dim=(1, 2)) / own.norm(dim=(1, 2))
                if config._attn_implementation == kind and float(gaps.max()) < self.rounding:
                    return kind
        return None

    def _padded_streams(self) -> Float[Tensor, "layer token d_model"]:
        """The stream at every token of two texts, one of them padded."""
        size = len(self.tokenizer)
        ids = torch.linspace(size // 10, size - size // 10, 2 * _COMPARED_TOKENS).long().view(2, -1)
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[1, _COMPARED_TOKENS // 2 :] = False
        return torch.stack(self._streams(ids, mask))

    def _streams(
        self, ids: Int[Tensor, "text token"], mask: Bool[Tensor, "text token"]
    ) -> list[Float[Tensor, "kept d_model"]]:
        """The stream at the tokens of a mask, for each layer whose hook ran."""
        found: list[Tensor] = []

        def keep(value: Tensor, hook: Any) -> None:  # noqa: ARG001 (the host passes hook= by name)
            found.append(value[mask.to(value.device)].float().cpu())

        sites = [(Site(layer).name, keep) for layer in range(self.n_layers)]
        with torch.inference_mode(), self.host.hooks(fwd_hooks=sites):
            self.forward(ids, mask)
        return found

    def tokenize(self, texts: Sequence[Text | str]) -> Tokens:
        """Texts as right-padded ids with mask and character offsets.

        The tokenizer's own special tokens are added once, as Hugging Face does by default.

        Raises:
            CorpusError: if there are no texts.
        """
        if len(texts) == 0:
            raise CorpusError("no texts to read: give at least one")
        strings = [t.text if isinstance(t, Text) else t for t in texts]
        rows = self.tokenizer(strings, return_offsets_mapping=True)
        cut = tuple(i for i, row in enumerate(rows["input_ids"]) if len(row) > self.n_ctx)
        if cut:  # again, so that an encoder keeps its closing token
            rows = self.tokenizer(
                strings, truncation=True, max_length=self.n_ctx, return_offsets_mapping=True
            )
        lengths = torch.tensor([len(row) for row in rows["input_ids"]])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        ids = torch.full(mask.shape, self.tokenizer.pad_token_id or 0)
        offsets = torch.zeros((*mask.shape, 2), dtype=torch.long)
        # one flat list each: a tensor for every row takes longer than the tokenizer
        ids[mask] = torch.tensor(list(chain.from_iterable(rows["input_ids"])), dtype=torch.long)
        ends = chain.from_iterable(chain.from_iterable(rows["offset_mapping"]))
        offsets[mask] = torch.tensor(list(ends), dtype=torch.long).view(-1, 2)
        return Tokens(ids, mask, offsets, cut)

    def ends(self, tokens: Tokens) -> Int[Tensor, " text"]:
        """Where each text ends, as the place after its last token.

        A token with which the tokenizer closes every text (BERT's `[SEP]`, `</s>` where it is
        added) is no part of it: nothing goes on after that.
        """
        special = torch.tensor(self.tokenizer.all_special_ids, dtype=torch.long)
        empty = tokens.offsets[..., 0] == tokens.offsets[..., 1]
        added = empty & torch.isin(tokens.ids, special)
        place = torch.arange(1, tokens.ids.shape[1] + 1)
        return torch.where(tokens.mask & ~added, place, 1).amax(1)

    def forward(
        self,
        ids: Int[Tensor, "text token"],
        mask: Bool[Tensor, "text token"],
    ) -> Float[Tensor, "text token out"]:
        """Logits; hooks in force apply."""
        return self._run(ids, mask)

    def _run(
        self, ids: Int[Tensor, "text token"], mask: Bool[Tensor, "text kept"], past: Any = None
    ) -> Tensor:
        ids, mask = ids.to(self.device), mask.to(self.device)
        inner = getattr(self.host, "original_model", None)
        keeps = self.causal and getattr(getattr(inner, "config", None), "use_cache", False)
        # else every layer's keys and values are copied and kept, for tokens that never come
        options = {"use_cache": False} if keeps else {}
        if past is not None:
            options = {"use_cache": True, "past_key_values": past}
        return self.host(ids, attention_mask=mask.long(), **options)

    def past(self, ids: Int[Tensor, "text token"]) -> Any:
        """Keys and values of texts of one length, for `logits_at` of what follows them.

        Raises:
            ModelError: for a `HookedTransformer`, which does not run on Hugging Face's cache, for
                an architecture that keeps other things than keys and values, and where they are
                not kept.
        """
        from transformers.cache_utils import (
            DynamicCache,
            DynamicLayer,
            DynamicSlidingWindowLayer,
        )

        if self.model_type is None:
            raise ModelError(
                f"{self.name!r} is a {type(self.host).__name__}, which keeps no keys and values of "
                "Hugging Face's: open it as a TransformerBridge"
            )
        kept = DynamicCache(config=self.host.original_model.config)
        others = {type(held) for held in kept.layers} - {DynamicLayer, DynamicSlidingWindowLayer}
        if others:
            raise ModelError(
                f"{self.name!r} keeps more than keys and values ({others.pop().__name__}): run it "
                "from the first token"
            )
        first = torch.zeros(len(ids), dtype=torch.long)  # no logits are needed; these are few
        self.logits_at(ids, torch.ones_like(ids, dtype=torch.bool), first, past=kept)
        if kept.get_seq_length() != ids.shape[1]:
            raise ModelError(
                f"{self.name!r} kept no keys and values: TransformerLens does not pass on the "
                "cache of this transformers; install transformers below 5.24"
            )
        return kept

    def logits_at(
        self,
        ids: Int[Tensor, "text token"],
        mask: Bool[Tensor, "text kept"],
        place: Int[Tensor, "*places"],
        *,
        past: Any = None,
    ) -> Float[Tensor, "*places vocab"]:
        """Next-token logits at one token, or some, of each text alone; hooks in force apply.

        Logits of every token would take more memory than all the rest of a run.

        Args:
            ids: the texts, or what of them follows after `past`.
            mask: which tokens there are, those of the past included.
            place: of the token, or of as many of each text, among `ids`.
            past: keys and values of what comes before, from `past`; those of `ids` are added.
        """
        chosen = place.cpu().reshape(len(ids), -1)  # the stream may be on another device than ids
        at = torch.arange(len(ids))[:, None], chosen

        def pick(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0][at], *args[1:])

        handle = self.host.unembed.register_forward_pre_hook(pick)
        try:
            return self._run(ids, mask, past).reshape(*place.shape, -1)
        finally:
            handle.remove()

    def unembed(
        self, residual: Float[Tensor, "*rows d_model"], *, gain: bool = True
    ) -> Float[Tensor, "*rows vocab"]:
        """Final norm and unembedding of residual vectors: the logit lens.

        Args:
            residual: vectors of the stream.
            gain: whether the norm weighs coordinates as the model does. Off, a vector is only
                brought to the norm's length (and centred where the norm centres), which shows what
                of a lens is the gain's.

        Raises:
            ModelError: for an encoder.
        """
        self.require_logits("the logit lens")
        flat = residual.reshape(1, -1, self.d_model).to(
            self.device, next(self.host.parameters()).dtype
        )
        with torch.no_grad():
            if gain:
                normed = self.host.ln_final(flat)
            else:
                centres = str(self.host.cfg.normalization_type).startswith("LN")
                flat = flat - flat.mean(-1, keepdim=True) if centres else flat
                normed = torch.nn.functional.rms_norm(flat, (self.d_model,))
            logits = self.host.unembed(normed)
        return logits.reshape(*residual.shape[:-1], -1).float().cpu()

    def require_logits(self, what: str) -> None:
        """See that the model has next-token logits.

        Raises:
            ModelError: for an encoder.
        """
        if not self.causal:
            raise ModelError(
                f"{what} needs next-token logits and {self.name!r} is an encoder without them: "
                "give a decoder"
            )

    def require_unchanged(self, what: str) -> None:
        """See that no hook is in force: what is kept under a model's name must be its own.

        Raises:
            HookError: if one is.
        """
        name = self._hook_in_force()
        if name is not None:
            raise HookError(
                f"{what} would hold what a hook at {name} made of {self.name!r}, under its "
                "own name: leave the context of the hook first"
            )

    def _hook_in_force(self) -> str | None:
        """Where the first is; those by which TransformerLens shows what is there do nothing."""
        for name, point in self.host.hook_dict.items():
            for handle in point.fwd_hooks:
                given = getattr(handle, "user_hook", None)
                if not (handle.is_permanent and _is_of_the_host(given)):
                    return name
        blocks = [(None, f"blocks.{i}", block) for i, block in enumerate(self.host.blocks)]
        for _, name, wrapper in [*blocks, *_wrappers(self.host)]:
            plain = [*wrapper._forward_hooks.values(), *wrapper._forward_pre_hooks.values()]
            if not all(map(_is_of_the_host, plain)):
                return name
        return None

    def check_layers(self, layers: Sequence[int]) -> tuple[int, ...]:
        """The layers, if the model has them all.

        Raises:
            SelectionError: naming the first that it lacks, or that layers are named twice.
        """
        if len(set(layers)) < len(layers):
            raise SelectionError(f"layers {list(layers)} name one twice: name each once")
        for layer in layers:
            if not 0 <= layer < self.n_layers:
                raise SelectionError(
                    f"layer {layer} is out of range: {self.name!r} has layers "
                    f"0..{self.n_layers - 1} (0-based)"
                )
        return tuple(layers)

    def check_sites(self, sites: Iterable[Site]) -> None:
        """See that the model has them all.

        Raises:
            SelectionError: naming the first layer that it lacks, or the first place that its block
                does not show; TransformerLens 3 would leave a hook there idle.
        """
        wanted = list(sites)
        self.check_layers(sorted({site.layer for site in wanted}))
        shown = self.host.hook_dict
        for site in wanted:
            if site.name not in shown:
                raise SelectionError(
                    f"{self.name!r} has no {site.name}: its block {site.layer} has no such part, "
                    "or does not show it to TransformerLens; give other layers, or take the "
                    "residual stream"
                )

    def provenance(self, texts: Sequence[Text], positions: dict[str, int], cut: int) -> Provenance:
        """The record of what was read from this model."""
        return Provenance(
            model=self.name,
            fingerprint=self.fingerprint,
            weights=self.weights,
            dtype=self.dtype,
            site=RESID_POST,
            positions=positions,
            corpus=corpus_hash(texts),
            texts=len(texts),
            cut=cut,
        )

    def check_origin(self, provenance: Provenance, what: str) -> None:
        """See that `what` was made from this very model.

        Raises:
            ModelError: if it was made from other weights or another basis.
        """
        if not same_model(provenance, self.fingerprint, self.weights, self.dtype):
            raise ModelError(
                f"{what} was made from {provenance.model!r} ({provenance.weights} weights), not "
                f"from this {self.name!r} ({self.weights} weights): fit it again on this model"
            )


def load(
    model: Any,
    *,
    weights: Weights = "raw",
    device: str | None = None,
    device_map: DeviceMap | None = None,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> HookedModel:
    """Open a model.

    Args:
        model: a checkpoint shipped with emolens (`"organism"` and those of `organism_folder`), a
            Hugging Face folder with `config.json` and safetensors, a hub id, or a live
            `TransformerBridge` or `HookedTransformer`.
        weights: what a live model holds. Folders and hub ids are always opened raw, so that
            vectors mean the same to plain Hugging Face hooks. A live model with folded or
            centred weights is detected and refused unless `"processed"` is said; the label then
            travels with every vector.
        device: where the whole model goes, for example `"cuda"`. By default the CPU, which has
            room for what a GPU may not hold. A live model stays where it is.
        device_map: for a model that one GPU does not hold: `"auto"` or `"balanced"` spreads blocks
            over all GPUs, a dict says the device of each module (`{"": "cpu"}`: all of it).
            Instead of `device`; needs accelerate. Nothing is left on disk, or on the CPU beside
            GPUs, where it would be fetched anew for every batch.
        dtype: for folders and hub ids; float32 because half precision differs by far more than
            the effects of small steps.
        trust_remote_code: passed to Hugging Face; off, so that no downloaded code runs.

    Raises:
        ModelError: if it cannot be opened, with the reason and what to do.

    >>> import emolens, torch
    >>> emolens.load("organism")
    HookedModel('organism', decoder, 6 layers x 160, raw weights, TransformerBridge)
    >>> emolens.load("organism", dtype=torch.bfloat16, device_map={"": "cpu"}).dtype
    'bfloat16'
    """
    if not isinstance(model, str | Path):
        return _wrap(model, weights, name=str(getattr(model.cfg, "model_name", "live model")))
    if weights != "raw":
        raise ModelError(
            f"{str(model)!r} is opened with raw weights: process a live model yourself and pass "
            "it with weights='processed'"
        )
    _check_placement(device, device_map)
    opened = partial(_open, device=device, device_map=device_map, dtype=dtype)
    if str(model) in CHECKPOINTS:
        folder = organism_folder(str(model))
        return opened(folder, str(model), trust_remote_code=False)
    if Path(model).is_dir():
        _check_folder(Path(model))
        name = Path(model).resolve().name
        return opened(model, name, trust_remote_code=trust_remote_code)
    if Path(model).is_absolute() or str(model).startswith("."):
        raise ModelError(f"no folder {str(model)!r}: give a folder with config.json and weights")
    return opened(model, str(model), trust_remote_code=trust_remote_code)


def _check_placement(device: str | None, device_map: DeviceMap | None) -> None:
    if device_map is None:
        return
    if device is not None:
        raise ModelError(
            f"device {device!r} and device_map {device_map!r} both say where the model goes: "
            "give one of them"
        )
    try:
        import accelerate  # noqa: F401 (Hugging Face calls it)
    except ImportError:
        raise ModelError("device_map needs accelerate: pip install accelerate") from None


def _check_folder(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json: give a Hugging Face model folder")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{folder} holds no weights: expected *.safetensors (pickled .bin files are not read)"
        )
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise ModelError(
                f"{file} is damaged or cut short ({error}): copy or download it again"
            ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hugging Face's bars, load reports and notes on retries off, while a model is opened."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    level, hub_level = logging.get_verbosity(), hub_logging.get_verbosity()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        logging.enable_progress_bar()


def _open(
    source: str | Path,
    name: str,
    *,
    device: str | None,
    device_map: DeviceMap | None,
    dtype: torch.dtype,
    trust_remote_code: bool,
) -> HookedModel:
    import transformers

    options = {"trust_remote_code": trust_remote_code}
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(source, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
            causal = _is_causal(config)
    except _SENSELESS as error:
        raise ModelError(
            f"unknown model {name!r}: it is not 'organism', and opening it as a folder or hub id "
            f"failed ({first_line(error)}): check the path, or the id and the network"
        ) from error
    _check_tokenizer(tokenizer, name)
    kind: Any = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForMaskedLM
    try:
        with _quiet():
            hf, report = kind.from_pretrained(
                source,
                dtype=dtype,
                device_map=device_map,
                use_safetensors=True,
                attn_implementation="eager",  # as TransformerLens forces: patterns can be hooked
                output_loading_info=True,
                **options,
            )
        if device is not None:
            hf.to(device)
    except _SENSELESS as error:
        raise ModelError(
            f"{name!r} cannot be loaded ({first_line(error)}): check its files, dtype, device and "
            "device_map"
        ) from error
    _check_complete(hf, report["missing_keys"], name, causal)
    return _wrap(
        _bridge(hf, source, name, tokenizer), "raw", name=name, tokenizer=tokenizer, causal=causal
    )


def _bridge(hf: Any, source: str | Path, name: str, tokenizer: Any) -> Any:
    """A TransformerBridge around Hugging Face's model.

    Raises:
        ModelError: if parts of the model were left on disk, or TransformerLens does not know it.
    """
    from transformer_lens.model_bridge import TransformerBridge

    if any(p.is_meta for p in hf.parameters()):
        raise ModelError(
            f"{name!r} does not fit into the devices of its device_map, so that parts of it would "
            "be fetched for every batch: add devices, or open it in half precision"
        )
    hf.requires_grad_(False).eval()
    hf.config.architectures = [type(hf).__name__]
    try:
        return TransformerBridge.boot_transformers(
            str(source),
            hf_model=hf,
            tokenizer=tokenizer,
            dtype=hf.dtype,
            device=hf.device,  # else it believes in the first GPU
        )
    except ValueError as error:
        reason = first_line(error).split(". ")[0]  # a list of all that it knows follows
        raise ModelError(
            f"TransformerLens cannot wrap {name!r}, a {type(hf).__name__} ({reason}): give a model "
            "of an architecture that it knows"
        ) from None


def _is_of_the_host(hook: Any) -> bool:
    return getattr(hook, "__module__", "").startswith("transformer_lens")


def _wrappers(host: Any) -> list[tuple[torch.nn.Module, str, Any]]:
    """Each part of a block that stands in for Hugging Face's own: where it is, name, and itself."""
    return [
        (parent, name, child)
        for block in host.blocks
        for parent in getattr(block, "original_component", torch.nn.Module()).modules()
        if not hasattr(parent, "original_component")
        for name, child in parent.named_children()
        if getattr(child, "original_component", None) is not None
    ]


@contextlib.contextmanager
def _unwrapped(host: Any, attention: str) -> Iterator[None]:
    """Inside each block Hugging Face's own modules, in place of TransformerLens's wrappers."""
    hf, shown = host.original_model, _wrappers(host)
    kinds = {"": hf.config._attn_implementation}
    for name in hf.config.sub_configs:
        if (part := getattr(hf.config, name, None)) is not None:
            kinds[name] = part._attn_implementation
    try:
        for parent, name, child in shown:
            setattr(parent, name, child.original_component)
        hf.set_attn_implementation(attention)
        yield
    finally:
        for parent, name, child in shown:
            setattr(parent, name, child)
        hf.set_attn_implementation(kinds)


def _is_causal(config: Any) -> bool:
    architectures = config.architectures or [""]
    return architectures[0].endswith(_CAUSAL)


def _check_complete(hf: Any, missing: Iterable[str], name: str, causal: bool) -> None:
    """Refuse what Hugging Face would fill with random weights; an encoder's head is unused."""
    prefix = f"{hf.base_model_prefix}."
    lacking = sorted(k for k in missing if causal or k.startswith(prefix))
    if lacking:
        raise ModelError(
            f"{name!r} lacks {len(lacking)} of its weights, the first is {lacking[0]!r}: the "
            "folder is incomplete or of another architecture"
        )


def _check_tokenizer(tokenizer: Any, name: str) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{name!r} has no fast tokenizer (tokenizer.json): emolens needs character offsets"
        )


def _detect_processing(host: Any) -> str:
    """What was done to a live model's weights, or an empty string where nothing shows."""
    if getattr(host, "compatibility_mode", False):
        return "TransformerLens compatibility mode folds and centres"
    if str(host.cfg.normalization_type).endswith("Pre"):
        return f"normalization_type {host.cfg.normalization_type!r} means folded norms"
    embedding = host.W_E.detach().float()
    if float(embedding.mean(-1).abs().max()) < 1e-5 * float(embedding.abs().max()):
        return "the embedding is centred over d_model"
    return ""


def _wrap(
    host: Any,
    weights: Weights,
    *,
    name: str,
    tokenizer: Any = None,
    causal: bool | None = None,
) -> HookedModel:
    missing = [m for m in ("cfg", "hooks", "tokenizer") if not hasattr(host, m)]
    if missing:
        raise ModelError(
            f"cannot open a {type(host).__name__}: it lacks {', '.join(missing)}; give a "
            "TransformerBridge, a HookedTransformer, a folder or a hub id"
        )
    sign = _detect_processing(host)
    if sign and weights == "raw":
        raise ModelError(
            f"{name!r} holds processed weights ({sign}), whose directions are not those of the "
            "raw model: open it raw, or say weights='processed'"
        )
    tokenizer = tokenizer or host.tokenizer
    _check_tokenizer(tokenizer, name)
    if causal is None:
        inner = getattr(host, "original_model", None)
        causal = inner is None or _is_causal(inner.config)
    cfg = host.cfg
    return HookedModel(name, host, tokenizer, cfg.n_layers, cfg.d_model, cfg.n_ctx, causal, weights)
