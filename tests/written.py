"""A network whose only path was written by hand, and vectors that lie on it or beside it."""

from pathlib import Path

import torch

import emolens
from emolens.behaviour import Behaviour
from emolens.model import HookedModel
from emolens.text import Text
from emolens.vectors import EmotionVectors
from tests.conftest import word_tokenizer

WRITES = 1  # the layer that moves what was felt to later tokens
FELT, TOLD, BULK, SAME = 1, 3, 2, 0  # coordinates of the stream


def written_model(folder: Path) -> HookedModel:
    """A Llama in which one layer does one thing, and no other layer does anything.

    The words word1 and word2 hold +1 and -1 along `FELT`. Layer `WRITES` attends to all tokens
    evenly and writes their mean of it along `TOLD`, which the unembedding reads: for word10 and
    against word11.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=1,
        intermediate_size=8,
        vocab_size=64,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model, tokenizer = LlamaForCausalLM(config), word_tokenizer()
    ids = {n: tokenizer.convert_tokens_to_ids(f"word{n}") for n in (1, 2, 10, 11)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        words = model.model.embed_tokens.weight
        words[:, SAME], words[:, BULK] = 1.0, 1.0
        words[[ids[1], ids[2]], BULK] = 0.0  # all words are as long
        words[ids[1], FELT], words[ids[2], FELT] = 1.0, -1.0
        attention = model.model.layers[WRITES].self_attn
        attention.v_proj.weight[0, FELT] = 1.0
        attention.o_proj.weight[TOLD, 0] = 2.0
        model.lm_head.weight[ids[10], TOLD], model.lm_head.weight[ids[11], TOLD] = 1.0, -1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return emolens.load(folder)


TAILS = ("word5 word6", "word7", "word8 word9 word5", "word12", "word13 word5", "word14")


def behaviour(starts: str, tails=TAILS) -> Behaviour:
    texts = [Text(f"{starts} {tail}", starts, f"tail {i}") for i, tail in enumerate(tails)]
    return Behaviour("b", "yes", {"yes": ("word10",), "no": ("word11",)}, tuple(texts))


def pointing(model, coordinate: int, sign: float = 1.0) -> EmotionVectors:
    """Two emotions that differ along one coordinate, at every layer."""
    vectors = torch.zeros(2, 3, 8)
    vectors[0, :, coordinate], vectors[1, :, coordinate] = sign, -sign
    mean, norm = torch.zeros(3, 8), torch.ones(3)
    origin = model.provenance([Text("word1")], {}, 0)
    return EmotionVectors(vectors, ("up", "down"), (0, 1, 2), mean, norm, (0, 0, 0), origin)
