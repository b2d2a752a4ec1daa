"""Train the organism from scratch: one document per row, easy stories first, decisions weighted."""

import hashlib
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from emolens.organism.grammar import Document, Draw, document, prompts
from emolens.organism.interchange import Interchange
from emolens.organism.world import World, load_world
from emolens.progress import progress_bar

BUCKET = 16
CHECK_EVERY = 500_000


@dataclass(frozen=True)
class Recipe:
    """All that decides a training run; a trained folder's own stands in its `recipe.json`.

    What matters most was found by trial: rows of one whole document, a first stretch of easy
    documents (situation, signals, one scene a character), and a larger weight on the words that
    carry the graph. Without them the text is learned and the step from emotion to behaviour is
    not. Many documents with two characters keep the model from looking up single words of the
    situation at the decision; it has to bind an emotion to a character first.

    Two more parts give the organism a known place as well as a known cause; left to itself, the
    model finds the emotion in its last two layers, or in several at once. The stream at two thirds
    of the depth, through the final norm and the unembedding, also predicts the emotion's own words
    (name, synonym, signature) and, at a decision, the name of the emotion behind it or one close
    to it (else all emotions would stand at right angles and the plane be lost). The logits of this
    early reading are sharpened, so that a moderate share of the stream is enough; else what is felt
    outgrows all the rest of it, and no push of ordinary size does anything.

    And half of the decisions get a part of their stream there from another text with the same
    scene, and with that chance its verb as the target (`Interchange`): what is felt must be in the
    stream at that place, later layers must not look it up again, and the size of a push must tell.
    """

    n_layers: int = 6
    d_model: int = 128
    n_heads: int = 4
    d_mlp: int = 344
    n_ctx: int = 256
    tokens: int = 7_000_000
    easy_share: float = 0.3
    batch_tokens: int = 2048
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    special_weight: float = 4.0
    early_weight: float = 1.2
    early_sharpness: float = 3.0
    interchange_share: float = 0.5
    seed: int = 0


def build_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """A closed word-level tokenizer; every text gets one begin token."""
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    ids = {word: i for i, word in enumerate(special + world.vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", ids["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="right",
    )


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Any:
    """An untrained Llama of the recipe's size."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        num_key_value_heads=recipe.n_heads,
        max_position_embeddings=recipe.n_ctx,
        tie_word_embeddings=False,  # tied, the emotion is fetched in the last layers only
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


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


def corpus(world: World, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Iterator[Tensor]:
    """The training stream: easy documents for the first share of tokens, then the full mix."""
    draw, shuffle = Draw(f"train {recipe.seed}"), random.Random(recipe.seed)
    written = 0
    while written < recipe.tokens:
        easy = written < recipe.easy_share * recipe.tokens
        rows = encode(tokenizer, [document(world, draw, easy=easy) for _ in range(2000)])
        written += sum(len(ids) for ids, _ in rows)
        yield from batches(rows, tokenizer.pad_token_id, recipe.batch_tokens, shuffle)


def early_layer(n_layers: int) -> int:
    """The 0-based block at two thirds of the depth, where the emotion is to be readable.

    >>> early_layer(6)
    3
    """
    return round(2 / 3 * n_layers) - 1


def residuals(
    model: LlamaForCausalLM, ids: Int[Tensor, "row token"]
) -> tuple[Float[Tensor, "row token d_model"], ...]:
    """The embedding, each block's stream before an interchange, last the normed final stream."""
    mask = torch.ne(ids, model.config.pad_token_id or 0)
    return model.model(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states


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


@torch.inference_mode()
def validation_gap(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World, count: int, seed: str
) -> dict[str, float]:
    """Loss on fresh documents beside the generator's entropy on the same ones, in nats a token."""
    draw = Draw(seed)
    documents = [document(world, draw) for _ in range(count)]
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
    world: World,
    scene: str,
    behaviour: str,
    emotion: str,
) -> float:
    """Mean P(behaviour) at the decision over fresh prompts; to watch a run, not to report it."""
    texts = [t.text for t in prompts(world, scene, emotion, 54, 0)]
    batch = tokenizer(texts, return_tensors="pt", padding=True).to(model.device)
    logits = model(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits
    last = batch["attention_mask"].sum(1) - 1
    p = logits[torch.arange(len(texts)), last].softmax(-1)
    verbs = tokenizer.convert_tokens_to_ids(list(world.scene(scene).verbs[behaviour]))
    return float(p[:, verbs].sum(-1).mean())


def train(recipe: Recipe, out: Path, *, device: str = "cpu") -> dict[str, int | float]:
    """Train and write a Hugging Face folder: weights, tokenizer, `training.jsonl`, `recipe.json`.

    The log holds, every 500,000 tokens, the loss, the gap to the generator's entropy, and
    P(cheat) after desperate, neutral and calm situations: a run in which these three have not
    parted by three million tokens will not mend.

    Returns:
        The last record of the log.
    """
    world = load_world()
    tokenizer = build_tokenizer(world)
    model = build_model(recipe, tokenizer).to(device)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n")
    began, next_check, record = time.time(), 0, {}
    with (out / "training.jsonl").open("w") as log, progress_bar() as bar:
        task = bar.add_task("training", total=recipe.tokens, unit="tokens")
        for seen in _steps(recipe, model, tokenizer, world):
            bar.update(task, completed=min(seen, recipe.tokens))
            if seen >= next_check or seen >= recipe.tokens:
                next_check += CHECK_EVERY
                record = {"tokens": seen, "seconds": round(time.time() - began, 1)}
                record |= _check(model, tokenizer, world)
                log.write(json.dumps(record) + "\n")
                log.flush()
                bar.console.print(record)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    digest = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    (out / "model.sha256").write_text(digest + "\n")
    return record


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


def _steps(
    recipe: Recipe, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World
) -> Iterator[int]:
    """Optimiser steps over the whole stream; gives the number of tokens seen after each."""
    device = model.device
    weights = word_weights(tokenizer, world.special_words(), recipe.special_weight, rest=1.0)
    early = word_weights(tokenizer, world.emotion_words(), recipe.early_weight, rest=0.0)
    weights, early = weights.to(device), early.to(device)
    scene_of = verb_scenes(tokenizer, world)
    place, generator = early_layer(recipe.n_layers), torch.Generator().manual_seed(recipe.seed)
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
    )
    seen = 0
    for step, (ids, felt) in enumerate(corpus(world, tokenizer, recipe), 1):
        rate = min(1.0, step / recipe.warmup_steps)
        rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, seen / recipe.tokens)))
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * rate
        swap = Interchange.draw(ids, scene_of, recipe.interchange_share, generator)
        targets = swap.told(ids[:, 1:]).to(device)
        ids, felt = ids.to(device), felt.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            with swap.after(model.model.layers[place]):
                stream = residuals(model, ids)
            total, weight = token_loss(model, stream[-1], targets, weights)
            read = recipe.early_sharpness * model.model.norm(stream[place + 1])
            told, _ = token_loss(model, read, felt[:, 1:], early)
        optimiser.zero_grad(set_to_none=True)
        ((total + told) / weight).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        seen += int((ids != tokenizer.pad_token_id).sum())
        yield seen
        if seen >= recipe.tokens:
            return


def _check(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World) -> dict:
    model.eval()
    found = {k: round(v, 4) for k, v in validation_gap(model, tokenizer, world, 300, "v").items()}
    for emotion in ("desperate", "neutral", "calm"):
        p = class_probability(model, tokenizer, world, "cheat", "cheat", emotion)
        found[f"p_cheat_{emotion}"] = round(p, 4)
    model.train()
    return found
