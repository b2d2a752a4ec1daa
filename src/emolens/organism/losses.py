"""The training loss: words that carry the graph weigh more, and the emotion is read early."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from emolens.organism.interchange import Interchange
from emolens.organism.noise import Noise
from emolens.organism.valuing import Valuing
from emolens.organism.world import World


def residuals(
    model: LlamaForCausalLM, ids: Int[Tensor, "row token"]
) -> tuple[Float[Tensor, "row token d_model"], ...]:
    """The embedding, each block's stream before an interchange, last the normed final stream.

    A model's first pass is the exception, see `settle`.
    """
    mask = torch.ne(ids, model.config.pad_token_id or 0)
    return model.model(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states


@torch.no_grad()
def settle(model: LlamaForCausalLM) -> None:
    """Make the first pass of a model, so that its next ones read as all later ones do.

    Hugging Face hooks the blocks during the first pass and hooks run in order: in that pass an
    interchange would come before the reading, from then on it comes after.
    """
    residuals(model, torch.ones(1, 2, dtype=torch.long, device=model.device))


@torch.no_grad()
def read_by(model: LlamaForCausalLM, names: Sequence[int]) -> Float[Tensor, "d_model k"]:
    """Orthonormal directions of the stream by which the early reading tells words apart."""
    rows = model.lm_head.weight[names] * model.model.norm.weight
    return torch.linalg.qr(rows.float().T)[0].cpu()


@contextmanager
def changed(block: nn.Module, *changes: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While it is open, `block` (of a Hugging Face model) gives its stream with changes in turn."""

    def hook(_module: nn.Module, _args: tuple, stream: Tensor) -> Tensor:
        for change in changes:
            stream = change(stream)
        return stream

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def token_loss(
    model: LlamaForCausalLM,
    normed: Float[Tensor, "row token d_model"],
    targets: Int[Tensor, "row next_token"],
    weights: Float[Tensor, " vocab"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Summed weighted loss in nats at all tokens but each row's last, and the sum of weights.

    Padding, and words of weight 0, do not count.
    """
    weight = weights[targets].masked_fill(targets == (model.config.pad_token_id or 0), 0.0)
    counted = weight > 0
    logits = model.lm_head(normed[:, :-1][counted]).float()
    loss = cross_entropy(logits, targets[counted], reduction="none")
    return (loss * weight[counted]).sum(), weight.sum()


def word_weights(
    tokenizer: PreTrainedTokenizerFast, words: frozenset[str], weight: float, *, rest: float
) -> Float[Tensor, " vocab"]:
    """One weight for the given words and another for all the rest of the vocabulary."""
    weights = torch.full((len(tokenizer),), rest)
    weights[tokenizer.convert_tokens_to_ids(sorted(words))] = weight
    return weights


def verb_scenes(tokenizer: PreTrainedTokenizerFast, world: World) -> Int[Tensor, " vocab"]:
    """The scene, counted from 1, whose decision a word settles; 0 for all other words."""
    scenes = torch.zeros(len(tokenizer), dtype=torch.long)
    for number, scene in enumerate(world.scenes.values(), 1):
        verbs = [verb for words in scene.verbs.values() for verb in words]
        scenes[tokenizer.convert_tokens_to_ids(verbs)] = number
    return scenes


def multiplies_bf16(device_type: str) -> bool:
    """Whether matrices are multiplied in bfloat16 there; oneDNN cannot on every CPU.

    Where torch has to emulate it, training took seven times as long as in float32.
    """
    if device_type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def batch_loss(
    model: LlamaForCausalLM,
    ids: Int[Tensor, "row token"],
    felt: Int[Tensor, "row token"],
    swap: Interchange,
    valuing: Valuing,
    noise: Noise,
    *,
    layer: int,
    weights: Float[Tensor, " vocab"],
    early: Float[Tensor, " vocab"],
    sharpness: float,
) -> Float[Tensor, ""]:
    """The mean loss of a batch: its next words, and what is felt as layer `layer` tells it.

    Args:
        model: what is trained.
        ids: the texts, on the CPU like the next two.
        felt: the texts with what is felt in place of the decisions (`Document.felt`).
        swap: the interchange between the texts' decisions.
        valuing: pushes of activities by emotions, and the choices after them.
        noise: pushes of whole texts that change nothing of what comes next.
        layer: after which the emotion is read, then interchanged, and words and texts are pushed.
        weights: of each word in the next-word loss.
        early: of each word in the early reading.
        sharpness: what the early reading's logits are multiplied by.
    """
    device = model.device
    targets = valuing.told(swap.told(ids[:, 1:])).to(device)
    ids, felt = ids.to(device), felt.to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=multiplies_bf16(device.type)):
        with changed(model.model.layers[layer], valuing.mixed, swap.mixed, noise.added):
            stream = residuals(model, ids)
        total, weight = token_loss(model, stream[-1], targets, weights)
        read = sharpness * model.model.norm(stream[layer + 1])
        told, _ = token_loss(model, read, felt[:, 1:], early)
    return (total + told) / weight
