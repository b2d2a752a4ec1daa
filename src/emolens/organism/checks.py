"""What a training run is watched by: its loss beside the best possible, and its decisions."""

import random
from collections.abc import Sequence

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from emolens.organism.batches import batches, encode
from emolens.organism.grammar import Draw, document
from emolens.organism.losses import residuals, token_loss
from emolens.organism.world import World
from emolens.text import Text


@torch.inference_mode()
def validation_gap(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    count: int,
    seed: str,
    *,
    stage: str = "base",
) -> dict[str, float]:
    """Loss on fresh documents beside the generator's entropy on the same ones, in nats a token."""
    draw = Draw(seed)
    documents = [document(world, draw, stage) for _ in range(count)]
    ones = torch.ones(len(tokenizer), device=model.device)
    sums = torch.zeros(2, dtype=torch.float64)
    rows = encode(tokenizer, documents)
    for ids, _ in batches(rows, tokenizer.pad_token_id, 4096, random.Random(0)):
        ids = ids.to(model.device)
        total = token_loss(model, residuals(model, ids)[-1], ids[:, 1:], ones)
        sums += torch.stack(total).double().cpu()
    loss, floor = float(sums[0] / sums[1]), sum(d.nats for d in documents) / float(sums[1])
    return {"loss": loss, "floor": floor, "gap": loss - floor}


@torch.inference_mode()
def class_probability(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[Text],
    verbs: Sequence[str],
) -> float:
    """Mean probability of the verbs together as the texts' next word; to watch a run."""
    batch = tokenizer([t.text for t in texts], return_tensors="pt", padding=True).to(model.device)
    logits = model(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits
    last = batch["attention_mask"].sum(1) - 1
    p = logits[torch.arange(len(texts)), last].softmax(-1)
    return float(p[:, tokenizer.convert_tokens_to_ids(list(verbs))].sum(-1).mean())
