"""The stream of training batches: documents encoded, grouped by length, one a row."""

import math
import random
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from emolens.organism.grammar import Document, Draw, document
from emolens.organism.recipe import Fit
from emolens.organism.world import World

BUCKET = 16
DRAWN = 2000  # documents that are grouped and shuffled at a time


def encode(
    tokenizer: PreTrainedTokenizerFast, documents: list[Document]
) -> list[tuple[list[int], list[int]]]:
    """Token ids of each text and of what is felt in it, begin and end tokens included."""
    written = tokenizer([d.text.text for d in documents])["input_ids"]
    felt = tokenizer([d.felt for d in documents])["input_ids"]
    end = tokenizer.eos_token_id
    return [([*a, end], [*b, end]) for a, b in zip(written, felt, strict=True)]


def batches(
    rows: list[tuple[list[int], list[int]]], pad: int, batch_tokens: int, shuffle: random.Random
) -> list[Int[Tensor, "kind row token"]]:
    """Texts (kind 0) and what is felt (1), grouped by length (multiples of 16): few shapes."""
    buckets: dict[int, list[list[list[int]]]] = {}
    for row in rows:
        width = math.ceil(len(row[0]) / BUCKET) * BUCKET
        padded = [ids + [pad] * (width - len(ids)) for ids in row]
        buckets.setdefault(width, []).append(padded)
    made = [
        torch.tensor(bucket[i : i + batch_tokens // width]).transpose(0, 1)
        for width, bucket in sorted(buckets.items())
        for i in range(0, len(bucket), batch_tokens // width)
    ]
    shuffle.shuffle(made)
    return made


def corpus(world: World, tokenizer: PreTrainedTokenizerFast, recipe: Fit) -> Iterator[Tensor]:
    """The training stream; the recipe says which stage's documents come when."""
    draw, shuffle = Draw(f"train {recipe.seed}"), random.Random(recipe.seed)
    written = 0
    while written < recipe.tokens:
        stage = recipe.stage(written)
        rows = encode(tokenizer, [document(world, draw, stage) for _ in range(DRAWN)])
        written += sum(len(ids) for ids, _ in rows)
        yield from batches(rows, tokenizer.pad_token_id, recipe.batch_tokens, shuffle)
