"""Vectors to and from other tools: GGUF, repeng, steering-vectors, vLLM, npz, pt, the Hub."""

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from safetensors import safe_open
from torch import Tensor

from emolens.errors import ArtefactError, ModelError, SelectionError, first_line
from emolens.generation import Steering
from emolens.interventions import Steer
from emolens.model import HookedModel
from emolens.positions import pick
from emolens.text import Text, Tokens
from emolens.vectors import EmotionVectors, load_vectors

ARCHITECTURE = "controlvector"
FILENAME = "vectors.safetensors"
# What llama.cpp calls an architecture where that is more than Hugging Face's name without
# underscores; llama.cpp writes its own name into a control vector, repeng Hugging Face's.
_LLAMA_CPP_NAMES = {"mistral": "llama", "mixtral": "llama", "phi": "phi2", "gemma3text": "gemma3"}

_Found = dict[tuple[str | None, int | None], Tensor]
_Named = Iterator[tuple[str, Callable[[], Tensor]]]


@dataclass(frozen=True)
class Directions:
    """Directions that another tool made.

    They have no provenance, and no mean or residual norm either: a strength in fractions of the
    residual norm and a centred readout need those, so fit vectors of your own for them.

    Attributes:
        vectors: as the file held them, in residual units of whoever made them.
        emotions: names of the first axis.
        layers: 0-based blocks of the second axis, whose output the directions belong to.
        source: the file they came from.
        model_type: Hugging Face's or llama.cpp's name of the architecture they were made on, for
            example `"llama"`; None where nobody said.
    """

    vectors: Float[Tensor, "emotion layer d_model"]
    emotions: tuple[str, ...]
    layers: tuple[int, ...]
    source: str
    model_type: str | None

    def __repr__(self) -> str:
        """One line."""
        return (
            f"Directions({len(self.emotions)} emotions, {len(self.layers)} layers, "
            f"d_model {self.vectors.shape[-1]}, from {self.source!r}, "
            f"model_type {self.model_type!r})"
        )

    def at(self, layer: int) -> Float[Tensor, "emotion d_model"]:
        """All emotions' directions after one block.

        Raises:
            SelectionError: if there is none.
        """
        if layer not in self.layers:
            raise SelectionError(f"no directions at layer {layer}: {self.source} has {self.layers}")
        return self.vectors[:, self.layers.index(layer)]

    def of(self, emotion: str) -> Float[Tensor, "layer d_model"]:
        """One emotion's direction at every layer.

        Raises:
            SelectionError: for an emotion that is not there.
        """
        if emotion not in self.emotions:
            known = ", ".join(self.emotions)
            raise SelectionError(f"unknown emotion {emotion!r}: {self.source} has {known}")
        return self.vectors[self.emotions.index(emotion)]

    def check_fits(self, model: HookedModel) -> None:
        """See that the directions can belong to this model; that they do, no file can show.

        Raises:
            ModelError: if the width, a layer, the architecture or the basis is another.

        >>> import torch, emolens
        >>> found = emolens.Directions(torch.ones(1, 1, 160), ("calm",), (9,), "calm.gguf", "llama")
        >>> found.check_fits(emolens.load("organism"))
        Traceback (most recent call last):
        emolens.errors.ModelError: calm.gguf has a direction at layer 9 and 'organism' has layers \
0..5: give directions made on this model
        """
        remedy = "give directions made on this model"
        width, last = self.vectors.shape[-1], max(self.layers)
        if width != model.d_model:
            raise ModelError(
                f"{self.source} has directions of width {width} and {model.name!r} has d_model "
                f"{model.d_model}: {remedy}"
            )
        if last >= model.n_layers:
            raise ModelError(
                f"{self.source} has a direction at layer {last} and {model.name!r} has layers "
                f"0..{model.n_layers - 1}: {remedy}"
            )
        if not _same_architecture(self.model_type, model.model_type):
            raise ModelError(
                f"{self.source} was made on a {self.model_type!r} network and {model.name!r} is a "
                f"{model.model_type!r}: {remedy}"
            )
        if model.weights != "raw":
            raise ModelError(
                f"{self.source} is in the basis of raw weights and {model.name!r} holds "
                f"{model.weights} ones: open the model raw"
            )


def _same_architecture(hint: str | None, model_type: str | None) -> bool:
    """Whether the two names can be of one architecture; what is not known is not compared."""
    if hint is None or model_type is None:
        return True
    found, ours = (re.sub(r"[^a-z0-9]", "", name.lower()) for name in (hint, model_type))
    return found in (ours, _LLAMA_CPP_NAMES.get(ours))


def to_repeng(
    vectors: EmotionVectors, emotion: str, *, layers: Sequence[int] | None = None
) -> dict[int, Float32[np.ndarray, " d_model"]]:
    """What `repeng.ControlVector(model_type=..., directions=...)` takes.

    repeng numbers blocks from 0 as emolens does, and adds a direction to the block's output.

    Args:
        vectors: fitted on raw weights.
        emotion: one of theirs.
        layers: which; all unless given.

    Raises:
        SelectionError: for an emotion or layer that was not fitted.
        ArtefactError: for vectors of processed weights.

    >>> import torch, emolens
    >>> from emolens.provenance import Provenance
    >>> made = Provenance("tiny", (1.0,), "raw", "float32", "resid_post", {"all": 2}, "0", 2, 0)
    >>> vectors = emolens.EmotionVectors(
    ...     torch.ones(1, 2, 4), ("calm",), (4, 5), torch.zeros(2, 4), torch.ones(2), (0, 0), made)
    >>> emolens.to_repeng(vectors, "calm", layers=[5])
    {5: array([1., 1., 1., 1.], dtype=float32)}
    """
    return {k: v.numpy() for k, v in to_steering_vectors(vectors, emotion, layers=layers).items()}


def to_steering_vectors(
    vectors: EmotionVectors, emotion: str, *, layers: Sequence[int] | None = None
) -> dict[int, Float32[Tensor, " d_model"]]:
    """What `steering_vectors.SteeringVector(layer_activations=...)` takes.

    Its `layer_type` stays `"decoder_block"`; it numbers blocks from 0 as emolens does, and adds a
    vector to the block's output.

    Raises:
        SelectionError: for an emotion or layer that was not fitted.
        ArtefactError: for vectors of processed weights.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> stories = emolens.record(model, emolens.organism_stories(per_emotion=3))
    >>> neutral = emolens.record(model, emolens.organism_neutral(count=20))
    >>> vectors = emolens.fit_vectors(stories, neutral)
    >>> sorted(emolens.to_steering_vectors(vectors, "calm"))
    [0, 1, 2, 3, 4, 5]
    """
    if vectors.provenance.weights != "raw":
        raise ArtefactError(
            f"these vectors are in the basis of {vectors.provenance.weights} weights, and other "
            "tools run raw ones: fit them on the model opened raw"
        )
    rows = vectors.of(emotion).detach().to("cpu", torch.float32)
    wanted = vectors.layers if layers is None else layers
    return {layer: rows[vectors.column(layer)].clone() for layer in wanted}


def save_gguf(
    vectors: EmotionVectors,
    emotion: str,
    file: Path | str,
    *,
    model_type: str,
    layers: Sequence[int] | None = None,
) -> None:
    """Write one emotion as the control vector that llama.cpp and repeng read.

    The tensor `direction.5` is what they add to the output of block 5, counted from 0. llama.cpp
    refuses a file with a `direction.0`, so block 0 is left out. They add every direction of the
    file at once: name the layers to steer at, or give llama.cpp `--control-vector-layer-range`.

    Args:
        vectors: fitted on raw weights.
        emotion: one of theirs.
        file: to write.
        model_type: the network's architecture, as `HookedModel.model_type` says it.
        layers: which; all but block 0 unless given.

    Raises:
        SelectionError: for an emotion or layer that was not fitted, or for block 0.
        ArtefactError: for vectors of processed weights, or without the `gguf` package.

    >>> import tempfile, torch, emolens
    >>> from emolens.provenance import Provenance
    >>> made = Provenance("tiny", (1.0,), "raw", "float32", "resid_post", {"all": 2}, "0", 2, 0)
    >>> vectors = emolens.EmotionVectors(
    ...     torch.ones(1, 2, 4), ("calm",), (4, 5), torch.zeros(2, 4), torch.ones(2), (0, 0), made)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     emolens.save_gguf(vectors, "calm", folder + "/calm.gguf", model_type="llama")
    ...     emolens.load_gguf(folder + "/calm.gguf", "calm").layers
    (4, 5)
    """
    if layers is None:
        layers = [layer for layer in vectors.layers if layer > 0]
    if 0 in layers or not layers:
        raise SelectionError(
            f"a control vector for layers {list(layers)} cannot be: llama.cpp refuses block 0 and "
            "an empty file, so choose layers from 1 on"
        )
    directions = to_repeng(vectors, emotion, layers=layers)
    writer = _gguf().GGUFWriter(file, ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", model_type)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(directions))
    # Readers pass over keys that they do not know, so the record of origin can travel along.
    writer.add_string("emolens.emotion", emotion)
    writer.add_string("emolens.provenance", vectors.provenance.to_json())
    for layer, direction in directions.items():
        writer.add_tensor(f"direction.{layer}", direction)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load_gguf(file: Path | str, emotion: str) -> Directions:
    """Read a control vector that llama.cpp, repeng or `save_gguf` wrote, under a name of yours.

    `direction.5` becomes layer 5, the block to whose output both tools add it. (llama.cpp's own
    generator names what it found after block 4 `direction.5`: steering is the same, but the
    direction was measured one block earlier.)

    Raises:
        ArtefactError: if the file is missing, damaged or no control vector, or without the `gguf`
            package.
    """
    gguf = _gguf()

    class Reader(gguf.GGUFReader):
        """Refuses to read past the end, where gguf's own reader counts an array's empty items."""

        def _get(self, offset: Any, dtype: Any, count: Any = 1, **order: Any) -> np.ndarray:
            found = super()._get(offset, dtype, count, **order)
            if len(found) < count:
                raise ValueError("it ends early")
            return found

    found: _Found = {}
    try:
        reader = Reader(file)
        kind = reader.fields["general.architecture"].contents()
        hint = reader.fields[f"{ARCHITECTURE}.model_hint"].contents()
        if kind != ARCHITECTURE or not isinstance(hint, str):
            raise ValueError(f"its architecture is {kind!r}, its model_hint {hint!r}")
        for tensor in reader.tensors:
            if number := re.fullmatch(r"direction\.([0-9]{1,6})", tensor.name):
                found[None, int(number[1])] = _floats(torch.from_numpy(np.array(tensor.data)))
    except Exception as error:  # on a damaged file gguf and numpy raise a dozen kinds
        raise ArtefactError(
            f"{file} is no control vector, or damaged ({first_line(error)}): give a .gguf file "
            "with tensors direction.1, direction.2 and so on"
        ) from None
    layers = tuple(sorted(layer for _, layer in found if layer is not None))
    vectors = _stack(file, found, (emotion,), layers, (False, True))
    return Directions(vectors, (emotion,), layers, str(file), hint)


def _gguf() -> Any:
    try:
        import gguf
    except ImportError:
        raise ArtefactError(
            "GGUF files need the gguf package, which is missing: pip install 'emolens[gguf]'"
        ) from None
    return gguf


def steering_specs(
    steering: Steering, text: Text | str, tokenizer: Any
) -> dict[str, dict[str, Any]]:
    """What `intervene=` of a `RemoteBridge` of TransformerLens takes: steps, where they are added.

    For a model that vLLM runs (`RemoteBridge.boot_vllm` with `enable_position_interventions=True`),
    or Inspect (`boot_inspect`). Such an engine is told what to do instead of being handed a
    function, so only `Steer` can be said. It runs one forward pass: what a steering does to written
    tokens plays no part.

    Args:
        steering: of `Steer` alone.
        text: that is read; the positions of the steering are looked up in it.
        tokenizer: the model's own, a fast one; the bridge is to be given what it makes of the text,
            `tokenizer(text)["input_ids"]`.

    Returns:
        By the bridge's name of each block's output, one step and its token positions.

    Raises:
        SelectionError: for another intervention, or a position rule that picks no token.

    >>> import torch, emolens
    >>> model = emolens.load("organism")
    >>> steering = emolens.Steering({3: emolens.Steer(torch.zeros(160))})
    >>> specs = steering_specs(steering, "so she", model.tokenizer)
    >>> [(name, spec["op"], spec["pos"]) for name, spec in specs.items()]
    [('blocks.3.hook_out', 'add', [1, 2])]
    """
    told = text if isinstance(text, Text) else Text(text)
    row = tokenizer(told.text, return_offsets_mapping=True)
    ids = torch.tensor([row["input_ids"]])
    offsets = torch.tensor([row["offset_mapping"]])
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool), offsets)
    places = pick(steering.positions, [told], tokens).mask[0].nonzero().flatten().tolist()
    specs = {}
    for layer, change in sorted(steering.changes.items()):
        if not isinstance(change, Steer):
            raise SelectionError(
                f"{type(change).__name__} at layer {layer} cannot be told to an engine elsewhere, "
                "which adds steps alone: use Steer, or run the model here"
            )
        # numbers and not a tensor: they go to another process
        specs[f"blocks.{layer}.hook_out"] = {
            "op": "add",
            "value": change.vector.tolist(),
            "pos": places,
        }
    return specs


def load_directions(
    file: Path | str,
    name: str,
    *,
    emotions: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    first_layer: int = 0,
    model_type: str | None = None,
) -> Directions:
    """Read directions that others wrote as `.safetensors`, `.npz` or `.pt`.

    No pickle is ever run: an `.npz` with objects and a `.pt` with more than tensors in plain
    containers are refused.

    Args:
        file: its ending tells the format. Of a `.pt`, nested dictionaries have their keys joined
            by dots, and a bare tensor is called `"tensor"`.
        name: what its tensors are called, with `{emotion}` and `{layer}` where those stand. What
            the name does not tell are axes of the tensor, in the order emotion, layer, d_model:
            `"layer_{layer}__{emotion}"` for single vectors, `"{emotion}"` for a matrix of layers
            each, `"layer_{layer}"` for a matrix of emotions each, `"vectors"` for one tensor of
            all. An axis of one label may be left out.
        emotions: which to read, or the labels of the axis; needed unless in the name.
        layers: the same for layers, in the file's own numbers.
        first_layer: the number that the file gives to the output of the first block; 1 where it
            counts Hugging Face's `hidden_states`. What stands before it is left out.
        model_type: the architecture of the network they were made on, for `check_fits`.

    Raises:
        SelectionError: if labels are needed and not given.
        ArtefactError: if the file is missing, damaged, or not laid out as `name` says.

    >>> import tempfile, numpy, emolens
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     numpy.savez(folder + "/v.npz", layer_8__calm=numpy.ones(4), layer_9__calm=numpy.ones(4))
    ...     emolens.load_directions(folder + "/v.npz", "layer_{layer}__{emotion}").layers
    (8, 9)
    """
    named = "{emotion}" in name, "{layer}" in name
    for told, given, what in (
        (named[0], emotions, "emotions"),
        (named[1], layers, "layers"),
    ):
        if not told and given is None:
            raise SelectionError(
                f"the name {name!r} does not tell the {what} of {file}: pass {what}=[...]"
            )
    found = _read(Path(file), _pattern(name))
    if emotions is None:
        emotions = list(dict.fromkeys(emotion for emotion, _ in found if emotion is not None))
    if layers is None:
        layers = sorted({layer for _, layer in found if layer is not None})
    vectors = _stack(file, found, tuple(emotions), tuple(layers), named)
    kept = [column for column, layer in enumerate(layers) if layer >= first_layer]
    if not kept:
        raise ArtefactError(
            f"{file} has layers {list(layers)}, all before the first block ({first_layer}): "
            "check first_layer"
        )
    blocks = tuple(layers[column] - first_layer for column in kept)
    return Directions(vectors[:, kept], tuple(emotions), blocks, str(file), model_type)


def _pattern(name: str) -> re.Pattern[str]:
    """The names of a file's tensors, with their emotion and layer as groups."""
    plain = re.escape(name)
    for word, group in (("emotion", "(?P<emotion>.+)"), ("layer", "(?P<layer>[0-9]{1,6})")):
        plain = plain.replace(re.escape(f"{{{word}}}"), group, 1)
    return re.compile(plain)


def _read(file: Path, pattern: re.Pattern[str]) -> _Found:
    """The tensors whose names match, by emotion and layer."""
    readers = {".safetensors": _safetensors, ".npz": _npz, ".pt": _pt}
    if file.suffix not in readers:
        raise ArtefactError(
            f"{file} ends in none of {', '.join(readers)}: give one of these, or read GGUF with "
            "load_gguf"
        )
    found: _Found = {}
    others = []
    try:
        for name, read in readers[file.suffix](file):
            if match := pattern.fullmatch(name):
                labels = match.groupdict()
                layer = labels.get("layer")
                key = labels.get("emotion"), None if layer is None else int(layer)
                if key in found:
                    raise ValueError(f"two tensors for emotion {key[0]!r} at layer {key[1]}")
                found[key] = _floats(read())
            else:
                others.append(name)
    except Exception as error:  # on a damaged file the three libraries raise a dozen kinds
        raise ArtefactError(
            f"{file} is missing, damaged or holds more than plain arrays ({first_line(error)}): "
            "write it again as tensors only"
        ) from None
    if not found:
        raise ArtefactError(
            f"{file} has no tensor called like {pattern.pattern!r}: it has {others[:5]}"
        )
    return found


def _safetensors(file: Path) -> _Named:
    with safe_open(file, framework="pt") as reader:
        for name in reader.keys():  # noqa: SIM118 (not a dictionary)
            yield name, partial(reader.get_tensor, name)


def _npz(file: Path) -> _Named:
    with np.load(file, allow_pickle=False) as reader:
        for name in reader.files:
            yield name, partial(_array, reader, name)


def _array(reader: Any, name: str) -> Tensor:
    return torch.from_numpy(reader[name])


def _pt(file: Path) -> _Named:
    def flat(prefix: str, value: Any) -> _Named:
        if isinstance(value, Tensor):
            yield prefix, lambda: value
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield from flat(f"{prefix}.{key}" if prefix else str(key), inner)

    loaded = torch.load(file, map_location="cpu", weights_only=True)
    yield from flat("tensor" if isinstance(loaded, Tensor) else "", loaded)


def _floats(tensor: Tensor) -> Float32[Tensor, "..."]:
    """A tensor of its own in float32, or the reason why it cannot be a direction."""
    if not tensor.is_floating_point() or tensor.layout is not torch.strided:
        raise ValueError(f"it holds {tensor.dtype} {tensor.layout}, not plain floats")
    plain = tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
    if not bool(plain.isfinite().all()):
        raise ValueError("it holds numbers that are not finite")
    return plain


def _stack(
    file: Path | str,
    found: _Found,
    emotions: tuple[str, ...],
    layers: tuple[int, ...],
    named: tuple[bool, bool],
) -> Float32[Tensor, "emotion layer d_model"]:
    """One tensor of all; an axis is either told apart by names or part of each tensor."""
    if not emotions or not layers:
        raise ArtefactError(f"{file} holds no directions: give a file with one or more")
    shape = 1 if named[0] else len(emotions), 1 if named[1] else len(layers)
    rows = []
    for emotion in emotions if named[0] else (None,):
        parts = []
        for layer in layers if named[1] else (None,):
            tensor = found.get((emotion, layer))
            if tensor is None:
                raise ArtefactError(
                    f"{file} has no direction for emotion {emotion!r} at layer {layer}: name the "
                    "emotions and layers that it has"
                )
            axes = [n for n in tensor.shape[:-1] if n != 1]
            if tensor.numel() == 0 or axes != [n for n in shape if n != 1]:
                raise ArtefactError(
                    f"{file} holds a tensor of shape {tuple(tensor.shape)}, expected "
                    f"{len(emotions)} emotions and {len(layers)} layers and d_model but for what "
                    "the names tell: check the name and the labels"
                )
            parts.append(tensor.reshape(*shape, -1))
        rows.append(parts)
    widths = sorted({part.shape[-1] for parts in rows for part in parts})
    if len(widths) != 1:
        raise ArtefactError(
            f"{file} holds directions of widths {widths[:5]}, expected one width: give directions "
            "of one model"
        )
    return torch.cat([torch.cat(parts, dim=1) for parts in rows])


def push_vectors(
    vectors: EmotionVectors, repo: str, *, filename: str = FILENAME, revision: str | None = None
) -> str:
    """Put the vectors into an existing model repository of the Hugging Face Hub.

    Who is logged in (`hf auth login`) decides where one may write.

    Args:
        vectors: what to upload.
        repo: for example `"someone/emotion-vectors"`.
        filename: within the repository.
        revision: a branch; the default branch unless given.

    Returns:
        The address of the commit.

    Raises:
        ArtefactError: if the Hub refuses or cannot be reached.
    """
    import huggingface_hub

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / FILENAME
        vectors.save(file)
        try:
            commit = huggingface_hub.upload_file(
                path_or_fileobj=file, path_in_repo=filename, repo_id=repo, revision=revision
            )
        except Exception as error:  # the Hub, its HTTP and its transfers each raise their own
            raise ArtefactError(
                f"cannot push {filename} to {repo!r} ({first_line(error)}): check that the "
                "repository exists, the login and the network"
            ) from None
    return str(commit.commit_url)


def pull_vectors(
    repo: str, *, filename: str = FILENAME, revision: str | None = None
) -> EmotionVectors:
    """Fetch vectors that `push_vectors` put there; a second time they come from the cache.

    Args:
        repo: for example `"someone/emotion-vectors"`.
        filename: within the repository.
        revision: a branch, a tag or, for numbers that can be made again, a commit.

    Raises:
        ArtefactError: if they are not there, the Hub cannot be reached, or the file is damaged.
    """
    import huggingface_hub

    try:
        file = huggingface_hub.hf_hub_download(repo, filename, revision=revision)
    except Exception as error:  # as in push_vectors
        raise ArtefactError(
            f"cannot pull {filename} from {repo!r} ({first_line(error)}): check the id, the file "
            "name, the login and the network"
        ) from None
    return load_vectors(file)
