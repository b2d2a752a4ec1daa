"""Shared models: the organism, and tiny random ones of several families, all offline."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker a core, and their notebooks and commands

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook
from tokenizers import Tokenizer, models, pre_tokenizers, processors

# `grammar` and `world` draw words one by one and hold no tensors; checking their calls took a third
# of the tests' time. The packages would bring them along.
UNCHECKED = {"emolens", "emolens.organism", "emolens.organism.grammar", "emolens.organism.world"}


def checked_modules():
    """All other modules, found without importing any, whose calls are checked as tests run."""
    root = Path(find_spec("emolens").submodule_search_locations[0])
    found = set()
    for file in root.rglob("*.py"):
        parts = ("emolens", *file.relative_to(root).with_suffix("").parts)
        found.add(".".join(parts).removesuffix(".__init__"))
    return sorted(found - UNCHECKED)


install_import_hook(checked_modules(), "beartype.beartype")

settings.register_profile("tests", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("tests")

WORDS = [f"word{i}" for i in range(60)]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
HEADS = GROUPED | {"head_dim": 8}
EXPERTS = HEADS | {"num_experts_per_tok": 2}
WINDOW = {"sliding_window": 4}  # shorter than most texts of the tests
GEMMA = HEADS | WINDOW | {"query_pre_attn_scalar": 8}
CAPS = {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 2.0}  # low enough to bite
FAMILIES = {
    "llama": ("LlamaConfig", HEADS),
    "mistral": ("MistralConfig", HEADS | WINDOW),
    "qwen2": (
        "Qwen2Config",
        GROUPED | WINDOW | {"use_sliding_window": True, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3Config", HEADS),
    "gemma2": ("Gemma2Config", GEMMA | CAPS),
    "gemma3": (
        "Gemma3TextConfig",
        GEMMA | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "phi3": ("Phi3Config", GROUPED | WINDOW),
    "olmo2": ("Olmo2Config", GROUPED),
    "gpt2": ("GPT2Config", SIZES),
    "gpt_neox": ("GPTNeoXConfig", SIZES),
    "mixtral": ("MixtralConfig", EXPERTS | WINDOW | {"num_local_experts": 4}),
    "qwen3_moe": ("Qwen3MoeConfig", EXPERTS | {"num_experts": 4, "moe_intermediate_size": 32}),
    "bert": ("BertConfig", SIZES),
}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small():
    import emolens

    return emolens.load("organism-small")


@pytest.fixture(scope="session")
def small_vectors(small):
    """At block 2 of the small organism, two thirds through."""
    import emolens

    texts = emolens.organism_stories(per_emotion=4), emolens.organism_neutral(count=20)
    return emolens.fit_vectors(*(emolens.record(small, t, layers=[2]) for t in texts))


@pytest.fixture(scope="session")
def organism():
    import emolens

    return emolens.load("organism")


@pytest.fixture(scope="session")
def vectors(organism):
    import emolens

    stories = emolens.record(organism, emolens.organism_stories(per_emotion=18))
    return emolens.fit_vectors(stories, emolens.record(organism, emolens.organism_neutral(60)))


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    from tests.written import written_model

    return written_model(tmp_path_factory.mktemp("written"))


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


def qwen2_tokenizer():
    """A closed byte-pair tokenizer of the same words.

    Hugging Face opens every Qwen 2 folder as this class, which cannot read a word-level vocabulary
    and then finds no token in any text.
    """
    from transformers import Qwen2Tokenizer

    merges = [("w", "o"), ("wo", "r"), ("wor", "d"), ("Ġ", "word")]
    pieces = ["<|endoftext|>", *"Ġdorw0123456789", *map("".join, merges)]
    return Qwen2Tokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Make the folder of a tiny random model of a family.

    Its weights are far from symmetric, and large enough for every block to change the stream.
    """
    import transformers

    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            torch.manual_seed(1)
            name, options = FAMILIES[family]
            config = getattr(transformers, name)(**options)
            if family == "bert":
                model = transformers.AutoModelForMaskedLM.from_config(config)
            else:
                model = transformers.AutoModelForCausalLM.from_config(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            made[family] = tmp_path_factory.mktemp(family)
            model.save_pretrained(made[family])
            tokenizer = qwen2_tokenizer() if family == "qwen2" else word_tokenizer()
            tokenizer.save_pretrained(made[family])
        return made[family]

    return make
