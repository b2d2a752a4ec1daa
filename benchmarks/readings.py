"""The readings that run in one process: ours, everything cached, the bare body; and their texts."""

import json
import random
import tempfile
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import emolens
from emolens.positions import pick, story
from emolens.resume import PLAN


def read_stories(path: Path | None) -> list[emolens.Text]:
    """A corpus of the user's, or the organism's stories; shuffled, since files go by emotion."""
    found = emolens.organism_stories() if path is None else emolens.load_corpus(path).stories
    return random.Random(0).sample(found, len(found))


def choose_texts(count: int, path: Path | None) -> list[emolens.Text]:
    """So many of the stories; they come round again if there are fewer."""
    return list(islice(cycle(read_stories(path)), count))


def planned_batches(model: emolens.HookedModel, texts: list[emolens.Text]) -> list[list[int]]:
    """Rows of each batch of `record`, from the plan that it leaves in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        emolens.record(model, texts, folder=folder)
        return json.loads((Path(folder) / PLAN).read_text())["batches"]


def padded(
    model: emolens.HookedModel, texts: list[emolens.Text], batches: list[list[int]]
) -> list[tuple[Int[Tensor, "text token"], Int[Tensor, "text token"]]]:
    """Ids and mask of each batch, where the model is."""
    found = [model.tokenize([texts[row] for row in rows]) for rows in batches]
    return [(t.ids.to(model.device), t.mask.long().to(model.device)) for t in found]


def open_body(folder: Path, attention: str, model: emolens.HookedModel) -> Any:
    """The Hugging Face network without head, as fast as it gets by itself."""
    from transformers import AutoModel

    dtype = next(model.host.parameters()).dtype
    body = AutoModel.from_pretrained(folder, attn_implementation=attention, dtype=dtype)
    return body.to(model.device).eval()


def run_body(body: Any, batches: list[tuple[Tensor, Tensor]]) -> None:
    """One pass over each batch; nothing is read."""
    with torch.inference_mode():
        for ids, mask in batches:
            body(ids, attention_mask=mask, use_cache=False)


def cache_everything(
    model: emolens.HookedModel, texts: list[emolens.Text], batch: int
) -> Float[Tensor, "text layer d_model"]:
    """What `record` gives, the plain TransformerLens way: cache all hooks, then take the means."""
    starts = range(0, len(texts), batch)
    return torch.cat([_cached_means(model, texts[i : i + batch]) for i in starts])


def _cached_means(
    model: emolens.HookedModel, texts: list[emolens.Text]
) -> Float[Tensor, "text layer d_model"]:
    tokens = model.tokenize(texts)
    ids, mask = tokens.ids.to(model.device), tokens.mask.long().to(model.device)
    with torch.inference_mode():
        _, cache = model.host.run_with_cache(ids, attention_mask=mask)
        picked = pick(story, texts, tokens).mask.to(model.device, torch.float32)
        share = (picked / picked.sum(1, keepdim=True))[:, None]
        names = [emolens.Site(layer).name for layer in range(model.n_layers)]
        return torch.stack([(share @ cache[n].float())[:, 0] for n in names], 1).cpu()
