"""Shared models: the organism, and tiny random ones of several families, all offline."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, models, pre_tokenizers, processors

settings.register_profile("tests", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("tests")

WORDS = [f"word{i}" for i in range(60)]
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 64}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def organism():
    import emolens

    return emolens.load("organism")


@pytest.fixture(scope="session")
def vectors(organism):
    import emolens

    stories = emolens.record(organism, emolens.organism_stories(per_emotion=18))
    return emolens.fit_vectors(stories, emolens.record(organism, emolens.organism_neutral(60)))


def word_tokenizer():
    """A closed word-level tokenizer with a begin token."""
    from transformers import PreTrainedTokenizerFast

    ids = {w: i for i, w in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
    )


def tiny_config(family: str):
    """A config of a few thousand parameters."""
    import transformers as t

    if family == "gpt2":
        return t.GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=128)
    if family == "gpt_neox":
        return t.GPTNeoXConfig(**SIZES, intermediate_size=64, max_position_embeddings=128)
    options = SIZES | {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
    options |= {"max_position_embeddings": 128}
    kinds = {"llama": t.LlamaConfig, "gemma2": t.Gemma2Config, "qwen3": t.Qwen3Config}
    return kinds[family](**options)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Make the folder of a tiny random model of a family; its weights are far from symmetric."""
    from transformers import AutoModelForCausalLM

    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            torch.manual_seed(1)
            model = AutoModelForCausalLM.from_config(tiny_config(family))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            made[family] = tmp_path_factory.mktemp(family)
            model.save_pretrained(made[family])
            word_tokenizer().save_pretrained(made[family])
        return made[family]

    return make
