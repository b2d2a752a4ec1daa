"""Open a model with vectors that watch it, for the server and the terminal."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from emolens.corpus import Corpus
from emolens.corpus.bundled import bundled_corpus
from emolens.model import HookedModel, load
from emolens.monitor import Monitor
from emolens.organism import (
    CHECKPOINTS,
    organism_behaviour,
    organism_corpus,
    organism_neutral,
    organism_world,
)
from emolens.recording import record
from emolens.rollouts import Render
from emolens.serve.engine import Engine, own_render
from emolens.sites import two_thirds
from emolens.text import Text, Turn
from emolens.vectors import EmotionVectors, fit_vectors, load_vectors

USUAL = 400  # neutral texts of the organism that set its thresholds
CALIBRATED = 32  # tokens that are written after each neutral text
EXAMPLES = ("desperate", "calm", "angry", "happy")


def prepared(
    model: str,
    vectors: Path | None,
    layer: int | None,
    *,
    rate: float | None = None,
    alarms: Sequence[str] | None = None,
    device: str | None = None,
    tell: Callable[[str], None] = print,
) -> Engine:
    """Open a model and what watches it.

    Args:
        model: `"organism-assistant"` or another shipped checkpoint, a folder, or a hub id.
        vectors: a file of vectors of this model; by default they are fitted on the stories that
            `emolens reproduce` would read.
        layer: 0-based block; two thirds through the layers of the vectors by default.
        rate: of false alarms; None for no alarms. Thresholds are set at the colon and over the
            first 32 tokens of replies to neutral texts.
        alarms: emotions that raise them; all by default.
        device: where the model is.
        tell: is called with how well thresholds keep their promise.

    Raises:
        EmolensError: for what cannot be opened, read or calibrated.
    """
    hooked = load(model, device=device)
    fitted = load_vectors(vectors) if vectors else _fitted(hooked, _corpus(model), layer)
    if layer is None:
        layer = two_thirds(fitted.layers)
    monitor = Monitor(hooked, fitted, (layer,))
    if rate is not None:
        usual = usual_prompts(hooked, own_render(hooked))
        moments = ("colon", "reply")
        monitor, found = monitor.calibrate(
            usual, emotions=alarms, moments=moments, rate=rate, tokens=CALIBRATED
        )
        tell(f"{found!r}, where a reply begins and over its first {CALIBRATED} tokens")
    return Engine(monitor, examples=_examples(model))


def usual_prompts(model: HookedModel, render: Render) -> list[Text]:
    """Neutral texts as a user would say them, up to where the reply begins.

    None of them is among those that vectors are fitted on here.
    """
    apart = organism_neutral(USUAL, seed=1) if model.name in CHECKPOINTS else _bundled(1).neutral
    return [
        render([Turn("user", text.text), Turn("assistant", "")], group=text.group) for text in apart
    ]


def _corpus(model: str) -> Corpus:
    """What vectors are fitted on."""
    if model in CHECKPOINTS:
        return organism_corpus(world=organism_world(model))
    return _bundled(0)


def _bundled(half: int) -> Corpus:
    """The bundled texts with one half of the neutral ones."""
    whole = bundled_corpus()
    return replace(whole, neutral=whole.neutral[half::2])


def _fitted(model: HookedModel, corpus: Corpus, layer: int | None) -> EmotionVectors:
    layers = [two_thirds(range(model.n_layers)) if layer is None else layer]
    stories, neutral = (record(model, t, layers=layers) for t in (corpus.stories, corpus.neutral))
    return fit_vectors(stories, neutral)


def _examples(model: str) -> list[str]:
    """What a user of the organism's world says."""
    if model not in CHECKPOINTS:
        return []
    told = organism_behaviour(
        emotions=EXAMPLES, per_emotion=1, speaker="assistant", world=organism_world(model)
    )
    parts = [(text.text, text.spans) for text in told.prompts]
    # the user's name, a situation, what it leads to; then the assistant's name
    return [text[spans[1].start : spans[3].start].strip() for text, spans in parts]
