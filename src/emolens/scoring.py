"""What a model's logits say of given words: options of several tokens, ranks, whole texts."""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from emolens.behaviour import Behaviour
from emolens.decisions import Decision, option_ids, prompt_tokens
from emolens.errors import SelectionError
from emolens.generation import UNCHANGED, Steering, one_each, steered
from emolens.model import HookedModel
from emolens.recording import usual_batch
from emolens.text import Text, Tokens


def option_logprobs(
    model: HookedModel,
    prompts: Sequence[Text],
    options: Sequence[str],
    steering: Steering | Sequence[Steering] = UNCHANGED,
) -> Float[Tensor, "text option"]:
    """How likely each option is as what comes next, of one token or several.

    Args:
        model: a decoder.
        prompts: what the options may follow.
        options: words, with a leading space where the tokenizer needs one.
        steering: of all prompts, or one of each. The words of an option are changed as the first
            written tokens are, by `Steering.written`.

    Returns:
        Natural logarithm of the probability of all of an option's tokens.

    Raises:
        ModelError: for an encoder.
        SelectionError: for an option without tokens or with an unknown word, a prompt that leaves
            no room for it, or not one steering of each prompt.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> found = option_logprobs(model, [Text("mira fed the goat .")], [" so", " so she spoke ."])
    >>> bool(found[0, 0] > found[0, 1])
    True
    """
    read, final = prompt_tokens(model, prompts, "the likelihood of options")
    ids = option_ids(model, prompts, options)
    plans = one_each(steering, len(prompts))
    rows = [(i, j) for i in range(len(prompts)) for j in range(len(options))]
    found = torch.zeros(len(prompts), len(options))
    starts = (final + 1).tolist()
    sizes = [starts[i] + len(ids[i][j]) for i, j in rows]
    if max(sizes) > model.n_ctx:
        raise SelectionError(
            f"a prompt and an option of {max(sizes)} tokens do not go into a context of "
            f"{model.n_ctx}: shorten it"
        )
    for some in in_batches(model, rows, sizes):
        written = [(i, starts[i], ids[i][j]) for i, j in some]
        values = _scored(model, prompts, read, plans, written)
        for (i, j), value in zip(some, values, strict=True):
            found[i, j] = value
    return found


def decide_options(
    model: HookedModel, behaviour: Behaviour, steering: Steering | Sequence[Steering] = UNCHANGED
) -> Decision:
    """A behaviour's decision where the words of its classes have several tokens.

    As `Trial.run`, for words of any length: P(class) is the sum over its words, and the logit
    difference is that of the logarithms, which for words of one token is the same number.

    Raises:
        ModelError: as `option_logprobs`.
        SelectionError: as `option_logprobs`.
    """
    words = [word for own in behaviour.classes.values() for word in own]
    found = option_logprobs(model, behaviour.prompts, words, steering)
    parts = found.split([len(own) for own in behaviour.classes.values()], dim=1)
    by_class = {
        name: part.logsumexp(1) for name, part in zip(behaviour.classes, parts, strict=True)
    }
    others = [part for name, part in by_class.items() if name != behaviour.target]
    return Decision(
        probability={name: part.exp() for name, part in by_class.items()},
        logit_difference=by_class[behaviour.target] - torch.stack(others).logsumexp(0),
        target=behaviour.target,
    )


@torch.inference_mode()
def word_ranks(
    model: HookedModel,
    prompts: Sequence[Text],
    words: Sequence[str],
    steering: Steering | Sequence[Steering] = UNCHANGED,
) -> pd.DataFrame:
    """Where words stand among all that may come next (Figs. 52 and 53).

    Args:
        model: a decoder.
        prompts: read up to their last token.
        words: of which the first token counts.
        steering: of all prompts, or one of each.

    Returns:
        Columns prompt (its row), word, logprob (natural, of the first token), rank (1 is likeliest)
        and tokens (how many the word has).

    Raises:
        ModelError: for an encoder.
        SelectionError: as `option_logprobs`.
    """
    read, final = prompt_tokens(model, prompts, "the rank of words")
    ids = option_ids(model, prompts, words)
    plans = one_each(steering, len(prompts))
    first = torch.tensor([[own[0] for own in row] for row in ids])
    rows = []
    for some in in_batches(model, range(len(prompts)), (final + 1).tolist()):
        logprobs = next_logprobs(model, prompts, read, final, plans, some).cpu()
        for i, own, ahead in zip(some, logprobs, logprobs.gather(1, first[some]), strict=True):
            for j, word in enumerate(words):
                rank = 1 + int((own > ahead[j]).sum())
                rows.append((i, word, float(ahead[j]), rank, len(ids[i][j])))
    found = pd.DataFrame(rows, columns=["prompt", "word", "logprob", "rank", "tokens"])
    return found.sort_values("prompt", kind="stable", ignore_index=True)


@torch.inference_mode()
def next_logprobs(
    model: HookedModel,
    prompts: Sequence[Text],
    read: Tokens,
    final: Int[Tensor, " text"],
    plans: Sequence[Steering],
    rows: list[int],
) -> Float[Tensor, "row vocab"]:
    """Log-probability of every token as what comes after some of the prompts."""
    part = read.only(rows)
    with steered(model, [prompts[i] for i in rows], part, [plans[i] for i in rows]):
        return model.logits_at(part.ids, part.mask, final[rows]).float().log_softmax(-1)


def token_logprobs(
    model: HookedModel,
    texts: Sequence[Text],
    steering: Steering | Sequence[Steering] = UNCHANGED,
) -> tuple[Float[Tensor, "text token"], Tokens]:
    """How likely each token of a text is after those before it; NaN at the first and at padding.

    exp(-mean) over a text is its perplexity.

    Raises:
        CorpusError: if there are no texts.
        ModelError: for an encoder.
        SelectionError: if a text is longer than the context, or there is not one steering of each.
    """
    model.require_logits("the likelihood of a text")
    read = model.tokenize(texts)
    if read.cut:
        raise SelectionError(
            f"{len(read.cut)} texts are longer than the context of {model.n_ctx} tokens, so that "
            "their ends are not read: split them"
        )
    return logprobs_of(model, texts, read, one_each(steering, len(texts))), read


@torch.inference_mode()
def logprobs_of(
    model: HookedModel, texts: Sequence[Text], read: Tokens, plans: Sequence[Steering]
) -> Float[Tensor, "text token"]:
    """What `token_logprobs` gives, of texts that may have been cut at the end of the context."""
    found = torch.full(read.mask.shape, float("nan"))
    lengths = read.mask.sum(1).tolist()
    for rows in in_batches(model, range(len(texts)), lengths):
        part = read.only(rows)
        with steered(model, [texts[i] for i in rows], part, [plans[i] for i in rows]):
            logits = model.forward(part.ids, part.mask)[:, :-1].float()
        next_ids = part.ids[:, 1:, None].to(logits.device)
        own = logits.log_softmax(-1).gather(-1, next_ids)[..., 0].cpu()
        found[rows, 1 : part.ids.shape[1]] = own.where(part.mask[:, 1:], float("nan"))
    return found


@torch.inference_mode()
def divergence(
    model: HookedModel, prompts: Sequence[Text], steering: Steering | Sequence[Steering]
) -> Float[Tensor, " text"]:
    """Kullback-Leibler divergence of the steered next-token distribution from the model's own.

    In nats, at the last token of each prompt: the sum of p(steered) log(p(steered) / p(own)).

    Raises:
        ModelError: for an encoder.
        SelectionError: if a prompt is longer than the context, or there is not one steering of
            each.
    """
    read, final = prompt_tokens(model, prompts, "the divergence of steering")
    plans, unsteered = one_each(steering, len(prompts)), one_each(UNCHANGED, len(prompts))
    found = torch.zeros(len(prompts))
    for rows in in_batches(model, range(len(prompts)), (final + 1).tolist()):
        own, changed = (
            next_logprobs(model, prompts, read, final, steerings, rows)
            for steerings in (unsteered, plans)
        )
        found[rows] = (changed.exp() * (changed - own)).sum(-1).cpu()
    return found


def in_batches(model: HookedModel, items: Sequence, lengths: Sequence[int]) -> Iterator[list]:
    """Items by length, in batches of about as many tokens as `record` takes."""
    order = sorted(range(len(items)), key=lengths.__getitem__)
    batch: list = []
    for at in order:
        if batch and (len(batch) + 1) * lengths[at] > usual_batch(model):
            yield batch
            batch = []
        batch.append(items[at])
    if batch:
        yield batch


@torch.inference_mode()
def _scored(
    model: HookedModel,
    prompts: Sequence[Text],
    read: Tokens,
    plans: Sequence[Steering],
    rows: Sequence[tuple[int, int, Tensor]],
) -> Float[Tensor, " row"]:
    """Log-probability of options after prompts, in one pass.

    A row is of a prompt, where its option starts, and the option's tokens.
    """
    starts = torch.tensor([start for _, start, _ in rows])
    sizes = torch.tensor([len(option) for _, _, option in rows])
    width, most = int((starts + sizes).max()), int(sizes.max())
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    offsets = torch.zeros(len(rows), width, 2, dtype=torch.long)  # those of options stay empty
    for row, (i, start, option) in enumerate(rows):
        ids[row, :start], ids[row, start : start + len(option)] = read.ids[i, :start], option
        offsets[row, :start] = read.offsets[i, :start]
    tokens = Tokens(ids, torch.arange(width) < (starts + sizes)[:, None], offsets)
    places = ((starts - 1)[:, None] + torch.arange(most)).clamp(max=width - 1)
    texts, own = [prompts[i] for i, _, _ in rows], [plans[i] for i, _, _ in rows]
    with steered(model, texts, tokens, own, ends=starts):
        logits = model.logits_at(ids, tokens.mask, places).float().cpu()
    targets = ids.gather(1, (places + 1).clamp(max=width - 1))
    found = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    return found.where(torch.arange(most) < sizes[:, None], 0.0).sum(1)
