"""Let a model write on, with its residual stream changed or not, each text in its own way."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from emolens.errors import ModelError, SelectionError
from emolens.hooks import hooked
from emolens.interventions import Change, Intervention, Residual, Steer, block_hook
from emolens.model import HookedModel
from emolens.positions import PositionRule, everything, nowhere
from emolens.progress import track
from emolens.sites import Site
from emolens.text import Text, Tokens
from emolens.vectors import EmotionVectors

GENERATED_TOGETHER = 16  # most texts of a batch

# The weight of a change at the n-th written token (0-based) when the model reads it back.
Schedule = Callable[[int], float]


def throughout(step: int) -> float:  # noqa: ARG001 (a schedule is called with the step)
    """The schedule in which every written token is changed.

    >>> throughout(7)
    1.0
    """
    return 1.0


def never(step: int) -> float:  # noqa: ARG001 (a schedule is called with the step)
    """The schedule in which no written token is changed, but the prompt alone.

    >>> never(7)
    0.0
    """
    return 0.0


def from_step(first: int) -> Schedule:
    """Written tokens are changed from the `first`-th on.

    >>> [from_step(2)(step) for step in range(4)]
    [0.0, 0.0, 1.0, 1.0]
    """
    return lambda step: float(step >= first)


def fading(half: float) -> Schedule:
    """The change halves every `half` written tokens.

    >>> [fading(1.0)(step) for step in range(3)]
    [1.0, 0.5, 0.25]
    """
    return lambda step: 0.5 ** (step / half)


@dataclass(frozen=True, eq=False)
class Steering:
    """What is done to one text while the model reads it and writes on.

    The first written token is chosen at the last token of the prompt, so what is done there already
    counts.

    Attributes:
        changes: interventions on the residual stream, by the 0-based block that they come after.
        positions: which tokens of the prompt are changed; special tokens are not by default, since
            what stands at them is nothing that a text says.
        written: how much each written token is changed: the share of the way to what the
            intervention gives, for `Steer` thus the share of its vector.

    >>> import torch, emolens
    >>> step = emolens.Steer(torch.zeros(160))
    >>> from emolens.positions import last
    >>> Steering({2: step, 3: step}, positions=last, written=from_step(1)).written(0)
    0.0
    """

    changes: Change
    positions: PositionRule = everything
    written: Schedule = throughout


UNCHANGED = Steering({})


def steps_along(vectors: EmotionVectors, layer: int, strengths: Mapping[str, float]) -> Steering:
    """Steps along several emotions at one layer, as one; none where all strengths are 0.

    Args:
        vectors: of the model that is steered.
        layer: 0-based block.
        strengths: by emotion, in fractions of the mean residual norm.

    Raises:
        SelectionError: for an emotion or layer without vectors.
    """
    steps = [vectors.step(e, layer, strength) for e, strength in strengths.items() if strength]
    return Steering({layer: Steer(torch.stack(steps).sum(0))}) if steps else UNCHANGED


def parse_steps(words: str, remedy: str = "write it as calm=0.1") -> dict[str, float]:
    """Strengths by emotion, as they are written on a command line.

    Args:
        words: emotions and strengths, with commas between them.
        remedy: what is said to do about anything else.

    Raises:
        SelectionError: for anything else.

    >>> parse_steps("calm=0.1, desperate=-0.05")
    {'calm': 0.1, 'desperate': -0.05}
    """
    steps = {}
    for part in words.split(","):
        emotion, _, strength = part.partition("=")
        try:
            steps[emotion.strip()] = float(strength)
        except ValueError:
            raise SelectionError(
                f"steer={part!r} is no emotion with a strength: {remedy}"
            ) from None
    return steps


@runtime_checkable
class Observer(Protocol):
    """Looks on while texts are written, and may change the stream and end them.

    Attributes:
        layers: whose residual stream is shown.
        hears: whether every token is told as it is written, which a small model's step feels.
    """

    @property
    def layers(self) -> Sequence[int]:
        """0-based blocks."""

    @property
    def hears(self) -> bool:
        """If not, `wrote` is never called."""

    def begin(self, rows: Sequence[int], prompts: Tokens) -> None:
        """A batch begins: which texts are in it, with padding in front of their tokens."""

    def see(self, layer: int, stream: Residual) -> Residual:
        """The stream after a block as steering left it: all of the prompts, then token by token.

        What it gives goes on in its place.
        """

    def wrote(self, tokens: Mapping[int, int]) -> Container[int]:
        """The next token, which the model has yet to read, of each text of the batch that goes on.

        Texts go by their place in the batch; what is given are those that end here.
        """

    def end(self, written: Sequence[Sequence[int]]) -> None:
        """The batch has ended: all that each of its texts has written, with what ended it."""


def generate(
    model: HookedModel,
    texts: Sequence[Text | str],
    steering: Steering | Sequence[Steering] = UNCHANGED,
    *,
    tokens: int,
    temperature: float = 1.0,
    seed: int | Sequence[int] = 0,
    together: int = GENERATED_TOGETHER,
    observer: Observer | None = None,
) -> list[str]:
    """What the model writes on after each text, until its end token or so many tokens.

    Keys and values are kept, so a written token costs one token's pass. What a text gets depends on
    its own steering and seed, not on what runs beside it (in float32; in half precision padding may
    turn a near tie). Hooks in force apply.

    Args:
        model: a decoder.
        texts: to go on with.
        steering: of all texts, or one of each.
        tokens: most that are written.
        temperature: of the sampling; at 0 the likeliest token is always taken.
        seed: of the sampling: one for the call, in which every text draws on its own, or one of
            each text. The generator of the process is left as it was.
        together: most texts of a batch.
        observer: looks on, and may act; `emolens.Monitor` and `emolens.Guard` are built on it.

    Returns:
        What was written, without special tokens.

    Raises:
        CorpusError: if there are no texts.
        ModelError: for an encoder, or a `HookedTransformer`, whose generation is not Hugging
            Face's.
        SelectionError: if a text fills the context, a layer is not there, no token is to be
            written, the temperature is below 0, or there is not one steering or seed of each text.

    >>> import emolens
    >>> generate(emolens.load("organism"), ["mira fed the goat ."], tokens=4, temperature=0.0)
    [' so she spoke .']
    """
    model.require_logits("generation")
    if tokens < 1 or temperature < 0:
        raise SelectionError(
            f"{tokens} tokens at temperature {temperature:g} cannot be written: give at least one "
            "token, and a temperature of 0 or more"
        )
    if model.model_type is None:
        raise ModelError(
            f"{model.name!r} is a {type(model.host).__name__}, whose generation is not Hugging "
            "Face's: open it as a TransformerBridge"
        )
    told = [t if isinstance(t, Text) else Text(t) for t in texts]
    plans = one_each(steering, len(told))
    seeds = _seeds(seed, len(told))
    read = model.tokenize(told)
    ends = model.ends(read)
    longest = int(ends.max())
    if longest >= model.n_ctx:
        raise SelectionError(
            f"a text of {longest} tokens leaves no room to write in a context of {model.n_ctx}: "
            "give shorter texts"
        )
    written = [""] * len(told)
    batches = _batches(ends, tokens, model.n_ctx, together)
    with torch.inference_mode(), model.bare_blocks() as blocks:
        for rows, room in track(batches, "writing", len(batches), "batches"):
            prompts = [told[i] for i in rows]
            part = _padded_left(read, ends, rows)
            plan = [plans[i] for i in rows]
            draws = _Draws([seeds[i] for i in rows], temperature)
            width = part.ids.shape[1]
            weights = _weights(plan, prompts, part, torch.full((len(rows),), width), width + room)
            seen = _observed(model, observer, rows, part, blocks)
            with _driven(model, plan, weights, blocks), seen:
                found = _write(model, part, room, draws, observer)
            for i, ids, words in zip(rows, found, part.mask, strict=True):
                start = int((~words).sum())
                before = model.tokenizer.decode(ids[start:width], skip_special_tokens=True)
                whole = model.tokenizer.decode(ids[start:], skip_special_tokens=True)
                written[i] = whole.removeprefix(before)
    return written


@contextmanager
def steered(
    model: HookedModel,
    texts: Sequence[Text],
    tokens: Tokens,
    steering: Sequence[Steering],
    *,
    ends: Int[Tensor, " text"] | None = None,
) -> Iterator[None]:
    """Inside, one pass over these texts is changed, each text in its own way.

    Args:
        model: the hooked model.
        texts: what the position rules are asked about.
        tokens: right-padded, for a pass with their `ids` and `mask`.
        steering: of each text.
        ends: where in the tokens each text ends and what counts as written begins; by default all
            of it is read, and `Steering.written` plays no part.

    Raises:
        SelectionError: for a layer that the model lacks, or not one steering of each text.
        HookError: if nothing ran inside.
    """
    one_each(steering, len(texts))
    width = tokens.ids.shape[1]
    ends = torch.full((len(texts),), width) if ends is None else ends
    with _driven(model, steering, _weights(steering, texts, tokens, ends, width)):
        yield


def one_each(steering: Steering | Sequence[Steering], count: int) -> list[Steering]:
    """A steering of each of so many texts.

    Raises:
        SelectionError: if there are as many neither as texts nor one.
    """
    plans = [steering] * count if isinstance(steering, Steering) else list(steering)
    if len(plans) != count:
        raise SelectionError(
            f"{len(plans)} steerings of {count} texts: give one of each text, or one for all"
        )
    return plans


def _seeds(seed: int | Sequence[int], count: int) -> list[list[int]]:
    """What each text draws from: its own seed, or the call's and its place."""
    if isinstance(seed, int | np.integer):
        seeds = [[int(seed), i] for i in range(count)]
    else:
        seeds = [[int(s)] for s in seed]
    if len(seeds) != count or any(s[0] < 0 for s in seeds):
        raise SelectionError(
            f"{len(seeds)} seeds of {count} texts, {[s[0] for s in seeds][:4]}: give one of 0 or "
            "more of each text, or one for all"
        )
    return seeds


def _batches(
    lengths: Int[Tensor, " text"], tokens: int, n_ctx: int, together: int
) -> list[tuple[list[int], int]]:
    """Texts that are written on together, by length, and how many tokens each may get.

    Texts so long that the context ends first stand with those of their own length alone: else what
    one may get would depend on another.
    """
    rooms = (n_ctx - lengths).clamp(max=tokens)
    made = []
    for room in rooms.unique(sorted=True).flip(0):
        rows = (rooms == room).nonzero().flatten()
        ordered = rows[lengths[rows].argsort(stable=True)]
        made += [(some.tolist(), int(room)) for some in ordered.split(together)]
    return made


def _padded_left(read: Tokens, ends: Int[Tensor, " text"], rows: Sequence[int]) -> Tokens:
    """Those texts with their padding moved to the front, where Hugging Face wants it to write."""
    lengths = ends[rows]
    width = int(lengths.max())
    source = torch.arange(width) - (width - lengths)[:, None]  # negative where padding is
    at = source.clamp(min=0)
    return Tokens(
        read.ids[rows].gather(1, at),
        source >= 0,
        read.offsets[rows].gather(1, at[..., None].expand(-1, -1, 2)),
    )


def _weights(
    plans: Sequence[Steering],
    texts: Sequence[Text],
    tokens: Tokens,
    ends: Int[Tensor, " text"],
    width: int,
) -> Float[Tensor, "text token"]:
    """How much each of so many tokens of each text is changed, written ones from its end on."""
    made = torch.zeros(len(plans), width)
    for i, (plan, end) in enumerate(zip(plans, ends.tolist(), strict=True)):
        if plan.changes:
            own = Tokens(tokens.ids[i : i + 1], tokens.mask[i : i + 1], tokens.offsets[i : i + 1])
            real = own.mask[0]  # rules read texts from their first token on, wherever padding is
            bare = Tokens(own.ids[:, real], own.mask[:, real], own.offsets[:, real])
            found = plan.positions([texts[i]], bare)
            read = torch.zeros_like(real)
            read[real] = found.mask[0]
            read[end:] = False
            if plan.positions is not nowhere and not bool(read.any()):
                raise SelectionError(
                    f"position rule {found.used[0]!r} picks no token of {texts[i].text[:60]!r}, "
                    "which would not be steered: choose another rule, or positions=nowhere"
                )
            made[i, :end] = read[:end].float()
            made[i, end:] = torch.tensor([plan.written(n) for n in range(width - end)])
    return made


@contextmanager
def _driven(
    model: HookedModel,
    plans: Sequence[Steering],
    weights: Float[Tensor, "text token"],
    blocks: Sequence[torch.nn.Module] | None = None,
) -> Iterator[None]:
    """Inside, passes over the texts, token after token, are changed by these weights.

    By plain hooks on bare blocks where there are such, which costs a small model's step least.
    """
    layers = model.check_layers(sorted({k for plan in plans for k in plan.changes}))
    if not layers:
        yield
        return
    there = weights.to(model.device)
    drivers = {k: _Driver([plan.changes.get(k) for plan in plans], there) for k in layers}
    with ExitStack() as stack:
        if blocks is None:
            stack.enter_context(hooked(model, {Site(k): each for k, each in drivers.items()}))
        else:
            for k, driver in drivers.items():
                stack.callback(blocks[k].register_forward_hook(block_hook(driver)).remove)
        yield


@contextmanager
def _observed(
    model: HookedModel,
    observer: Observer | None,
    rows: Sequence[int],
    prompts: Tokens,
    blocks: Sequence[torch.nn.Module] | None,
) -> Iterator[None]:
    """Inside, an observer sees the streams of a batch after what steers them."""
    if observer is None:
        yield
        return
    observer.begin(rows, prompts)
    layers = model.check_layers(observer.layers)

    def shown(layer: int) -> Intervention:
        return lambda residual: observer.see(layer, residual)

    with ExitStack() as stack:
        if blocks is None:
            stack.enter_context(hooked(model, {Site(k): shown(k) for k in layers}))
        else:
            for k in layers:
                stack.callback(blocks[k].register_forward_hook(block_hook(shown(k))).remove)
        yield


@dataclass(eq=False)
class _Driver:
    """Each text's own change at one layer, for the tokens that the next pass brings."""

    changes: Sequence[Intervention | None]
    weights: Float[Tensor, "text token"]
    seen: int = 0
    vectors: Float[Tensor, "text 1 d_model"] | None = None
    rest: list[tuple[list[int], Intervention]] = field(default_factory=list)

    def __call__(self, residual: Residual) -> Residual:
        """The stream of the next tokens, changed."""
        if self.seen == 0:
            self._sort(residual)
        start, self.seen = self.seen, self.seen + residual.shape[1]
        weight = self.weights[:, start : self.seen, None].to(residual)
        if self.vectors is not None:
            residual = torch.addcmul(residual, weight, self.vectors)
        for rows, change in self.rest:
            own = residual[rows]
            changed = torch.lerp(own, change(own), weight[rows])
            residual = residual.index_copy(0, torch.tensor(rows, device=residual.device), changed)
        return residual

    def _sort(self, residual: Residual) -> None:
        """Steps of all texts become one addition; other changes act on the texts that have them."""
        steps = {i: c.vector for i, c in enumerate(self.changes) if isinstance(c, Steer)}
        if steps:
            self.vectors = residual.new_zeros(len(self.changes), 1, residual.shape[-1])
            for i, vector in steps.items():
                self.vectors[i] = vector.to(residual)
        others: dict[int, tuple[list[int], Intervention]] = {}
        for i, change in enumerate(self.changes):
            if change is not None and i not in steps:
                others.setdefault(id(change), ([], change))[0].append(i)
        self.rest = list(others.values())


@dataclass(eq=False)
class _Draws:
    """Sampling in which each text has its own source of chance.

    The likeliest of logits with Gumbel noise is a draw from their softmax, so that a search for the
    likeliest token samples.
    """

    seeds: Sequence[Sequence[int]]
    temperature: float

    def __post_init__(self) -> None:
        """Make the sources."""
        self.sources = [
            torch.Generator().manual_seed(int(np.random.SeedSequence(s).generate_state(1)[0]))
            for s in self.seeds
        ]

    def __call__(
        self, ids: Int[Tensor, "text token"], scores: Float[Tensor, "text vocab"]
    ) -> Float[Tensor, "text vocab"]:
        """Logits of which the largest is the draw."""
        del ids
        if self.temperature == 0:
            return scores
        width = scores.shape[1]
        waits = torch.stack([torch.empty(width).exponential_(generator=g) for g in self.sources])
        return scores.float() / self.temperature - waits.log().to(scores.device)


@dataclass(eq=False)
class _Ending:
    """Shows an observer each token as it is written, and ends the texts that it would end."""

    observer: Observer
    ends: Container[int]
    alive: Sequence[int]
    done: Bool[Tensor, " text"]
    lengths: dict[int, int] = field(default_factory=dict)

    def __call__(
        self, ids: Int[Tensor, "text token"], *_: object, **__: object
    ) -> Bool[Tensor, " text"]:
        """Which texts have ended."""
        new = ids[:, -1].tolist()  # numbers: of a few texts they cost less than tensors
        tokens = {row: new[row] for row in self.alive}
        heard = self.observer.wrote(tokens)
        ended = [row for row, token in tokens.items() if row in heard or token in self.ends]
        if ended:
            self.alive = [row for row in self.alive if row not in ended]
            self.lengths |= dict.fromkeys(ended, ids.shape[1])
            self.done[ended] = True
        return self.done


def _write(
    model: HookedModel, prompts: Tokens, room: int, draws: _Draws, observer: Observer | None
) -> list[Int[Tensor, " _"]]:
    """Prompts with what is written after them, as ids, each to its end."""
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    inner = model.host.original_model
    ends = inner.generation_config.eos_token_id
    ends = model.tokenizer.eos_token_id if ends is None else ends
    # all of a model's own habits of sampling are set aside, so that its distribution is its own;
    # what a configuration does not name Hugging Face takes from the model's
    plain = GenerationConfig(
        max_new_tokens=room,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        eos_token_id=ends,
        pad_token_id=model.tokenizer.pad_token_id or 0,
    )
    closing = ends if isinstance(ends, list) else [] if ends is None else [ends]
    ending = None
    if observer is not None and observer.hears:
        rows = range(len(prompts.ids))
        done = torch.zeros(len(rows), dtype=torch.bool, device=model.device)
        ending = _Ending(observer, closing, rows, done)
    habits, inner.generation_config = inner.generation_config, plain
    try:
        found = inner.generate(
            prompts.ids.to(model.device),
            attention_mask=prompts.mask.long().to(model.device),
            generation_config=plain,
            logits_processor=LogitsProcessorList([draws]),
            stopping_criteria=StoppingCriteriaList([ending] if ending else []),
        ).cpu()
    finally:
        inner.generation_config = habits
    # what fills a text up until all have ended is not its own
    width = prompts.ids.shape[1]
    if ending is not None:
        own = [row[: ending.lengths.get(i)] for i, row in enumerate(found)]
    else:
        own = [_closed(row, width, closing) for row in found]
    if observer is not None:
        observer.end([row[width:].tolist() for row in own])
    return own


def _closed(ids: Int[Tensor, " token"], width: int, closing: Container[int]) -> Int[Tensor, " _"]:
    """A text up to the first closing token that was written, with it."""
    for end, token in enumerate(ids[width:].tolist(), width + 1):
        if token in closing:
            return ids[:end]
    return ids
