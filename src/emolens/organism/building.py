"""The organism's tokenizer and network: built from a recipe, written to a folder, opened again."""

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from emolens.errors import ModelError
from emolens.organism.recipe import Recipe
from emolens.organism.world import World

WEIGHTS = "model.safetensors"


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
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=recipe.embedding_std)
    return model


def open_folder(folder: Path, world: World) -> tuple[Any, PreTrainedTokenizerFast, str]:
    """An organism trained before: network (float32), tokenizer, and SHA-256 of the weights.

    Raises:
        ModelError: if the folder is not whole, or its words are not those of the world.
    """
    if not (folder / WEIGHTS).is_file():
        raise ModelError(
            f"{folder} holds no {WEIGHTS}: give a folder that `emolens organism train` has finished"
        )
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        model = LlamaForCausalLM(LlamaConfig.from_pretrained(folder, local_files_only=True))
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"cannot open {folder} as an organism ({reason}): give a folder that `emolens organism "
            "train` has finished"
        ) from None
    if tokenizer.get_vocab() != build_tokenizer(world).get_vocab():
        raise ModelError(
            f"{folder} was trained on a world of other words: train an organism with this emolens"
        )
    return model, tokenizer, weights_hash(folder)


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weights in a folder."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def save_folder(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a Hugging Face folder, and the hash of the weights beside them."""
    model.save_pretrained(folder)
    _save_tokenizer(tokenizer, folder)
    (folder / "model.sha256").write_text(weights_hash(folder) + "\n")


def save_step(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model as it stands in bfloat16, a Hugging Face folder."""
    copy.deepcopy(model).bfloat16().save_pretrained(folder)
    _save_tokenizer(tokenizer, folder)


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    # else the file would tell whether its last texts happened to be padded
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)
