"""Does steering change the tone and not the content (Tables 8, 10, 11)?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from torch import Tensor

from emolens import figures
from emolens.controls import CONTROL, random_directions
from emolens.decisions import prompt_tokens
from emolens.experiments.paper.claims import BOUND, CONTROLS, Claim, Found, Measured, against
from emolens.experiments.paper.content import EMOTIONS, Words, token_of, tone_and_content
from emolens.experiments.paper.study import Experiment, Study, logits_needed
from emolens.generation import Steering, one_each
from emolens.interventions import Steer
from emolens.progress import track
from emolens.report import Exhibit
from emolens.scoring import divergence, next_logprobs
from emolens.text import Text

PROMPTS = 8
LENGTHS = (8, 40)  # words of the shortest and of the longest prompt
RANDOM = 20
STRENGTH = 0.3  # of the residual norm: recolours, says the paper, where .5 loses what is told

TONE = Claim(
    "tone",
    "share of emotions whose own words rise more than the content of their stories, each over "
    "those of the other emotions",
    least=0.75,
)
QUIET = Claim(
    "quiet",
    "share of emotions that raise their own words more than 95% of random directions, and change "
    "neutral text no more than these",
    least=0.75,
)


def run(study: Study) -> Found:
    """Each vector and random directions on cut neutral texts."""
    words = tone_and_content(study)
    if len(words) < 2:
        return Found({}, {}, "of fewer than two emotions are own and content words single tokens")
    prompts, every = _prompts(study), _every(words)
    base = _logprobs(study, prompts, every, None)
    draws = random_directions(RANDOM, study.model.d_model, study.seed)
    norm = float(study.vectors.residual_norm[study.vectors.column(study.layer)])
    steps = {(e, "emotion"): study.vectors.step(e, study.layer, STRENGTH) for e in words}
    steps |= {(f"random {i}", CONTROL): STRENGTH * norm * d for i, d in enumerate(draws)}
    rises, moved = {}, {}
    for name, step in track(steps.items(), "tone and content", len(steps), "directions"):
        rises[name] = _logprobs(study, prompts, every, step) - base
        moved[name] = _moved(study, prompts, step)
    rise = pd.DataFrame(rises, index=every).T
    tone, content = (_over_others(rise, words, kind) for kind in ("own", "content"))
    size = pd.Series(moved)
    ours = size.xs("emotion", level=1)[list(words)]
    table = pd.DataFrame({"emotion": list(words), "divergence": ours.to_numpy()})
    table["tone"], table["content"] = (_diagonal(t, list(words)) for t in (tone, content))
    table["own_words"] = [", ".join(w.own) for w in words.values()]
    table["content_words"] = [", ".join(w.content) for w in words.values()]
    return Found(
        {
            TONE.name: _tone(tone - content, list(words), study.seed),
            QUIET.name: _quiet(tone, size, list(words), study.seed),
        },
        {
            "emotions": table,
            "divergence": size.rename_axis(["direction", "kind"]).rename("nats").reset_index(),
        },
        f"{len(words)} emotions, {STRENGTH} of the residual norm at layer {study.layer}, "
        f"{len(prompts)} neutral texts, cut off; own words {table.tone.mean():+.2f} nats over "
        f"those of other emotions, content {table.content.mean():+.2f}.",
    )


def _prompts(study: Study) -> list[Text]:
    """The beginnings of neutral texts, each after another number of words."""
    texts, cut = study.materials.corpus.neutral[:PROMPTS], []
    for text, count in zip(texts, np.linspace(*LENGTHS, len(texts)).astype(int), strict=True):
        cut.append(replace(text, text=" ".join(text.text.split(" ")[:count]), spans=()))
    return cut


def _every(words: Mapping[str, Words]) -> list[str]:
    return list(dict.fromkeys(w for own in words.values() for w in (*own.own, *own.content)))


def _steering(study: Study, step: Tensor | None) -> Steering:
    return Steering({} if step is None else {study.layer: Steer(step)})


def _logprobs(
    study: Study, prompts: Sequence[Text], words: Sequence[str], step: Tensor | None
) -> np.ndarray:
    """Mean log-probability of each word as what comes next."""
    read, final = prompt_tokens(study.model, prompts, "the likelihood of words")
    plans = one_each(_steering(study, step), len(prompts))
    rows = list(range(len(prompts)))
    found = next_logprobs(study.model, prompts, read, final, plans, rows).cpu()
    return found[:, [token_of(study, w) for w in words]].mean(0).numpy()


def _moved(study: Study, prompts: Sequence[Text], step: Tensor) -> float:
    return float(divergence(study.model, prompts, _steering(study, step)).mean())


def _over_others(rise: pd.DataFrame, words: Mapping[str, Words], kind: str) -> pd.DataFrame:
    """Of each direction (row), the mean rise of an emotion's words over the other emotions'."""
    by = pd.DataFrame({e: rise[list(getattr(w, kind))].mean(axis=1) for e, w in words.items()})
    return by.sub(by.sum(axis=1), axis=0).add(by.mul(by.shape[1] - 1)).div(by.shape[1] - 1)


def _diagonal(table: pd.DataFrame, emotions: Sequence[str]) -> np.ndarray:
    return np.array([table.loc[(e, "emotion"), e] for e in emotions])


def _tone(lead: pd.DataFrame, emotions: Sequence[str], seed: int) -> Measured:
    """Beside random directions, and vectors of other emotions, in the emotions' places."""
    ours = _diagonal(lead, emotions) > 0
    values, own = lead.to_numpy(), lead.index.get_level_values(1) == "emotion"
    draw, places = np.random.default_rng(seed), np.arange(len(emotions))

    def placed(rows: np.ndarray) -> float:
        return float((values[rows, places] > 0).mean())

    found = [
        against(
            len(ours),
            lambda rows: float(ours[rows].mean()),
            [placed(draw.permutation(np.flatnonzero(at))[: len(places)]) for _ in range(CONTROLS)],
            seed=seed,
        )
        for at in (own, ~own)
    ]
    return max(found, key=lambda measured: measured.bound)


def _quiet(tone: pd.DataFrame, size: pd.Series, emotions: Sequence[str], seed: int) -> Measured:
    """Beside random directions in the emotions' places."""
    quiet = size <= size.xs(CONTROL, level=1).quantile(BOUND)
    loud = tone > tone.xs(CONTROL, level=1).quantile(BOUND)
    both = loud.mul(quiet.reindex(loud.index), axis=0)
    ours, random = _diagonal(both, emotions), both.xs(CONTROL, level=1).to_numpy()
    draw, places = np.random.default_rng(seed), np.arange(len(emotions))
    shares = [
        float(random[draw.integers(len(random), size=len(places)), places].mean())
        for _ in range(CONTROLS)
    ]
    return against(len(ours), lambda rows: float(ours[rows].mean()), shares, seed=seed)


def draw(tables: Mapping[str, pd.DataFrame]) -> list[Exhibit]:
    """Tone against content, and how much each direction changes neutral text."""
    emotions, sizes = tables["emotions"], tables["divergence"]
    long = emotions.melt("emotion", ["tone", "content"], "words", "rise")
    grid = figures.grid(long, row="emotion", column="words", value="rise")
    bars = figures.bars(
        sizes, name="direction", value="nats", kind="kind", title="divergence on neutral text, nats"
    )
    return [
        Exhibit("Rise over other emotions' words, nats", grid, emotions, "specificity_emotions"),
        Exhibit("Change of neutral text", bars, sizes, "specificity_divergence"),
    ]


def _lacks(study: Study) -> str:
    have = study.materials.corpus.neutral
    return logits_needed(study) or ("" if have else "there are no neutral texts")


def _cost(study: Study) -> int:
    """Three passes for each direction: the words, and steered and not for the divergence."""
    return 3 * (EMOTIONS + RANDOM) * study.tokens(_prompts(study))


SPECIFICITY = Experiment(
    name="specificity",
    title="Tone and not content",
    figures="Tables 8, 10, 11",
    inputs="neutral texts, cut off; each emotion's own words, and the words that mark what its "
    "stories are about (highest tf-idf, in the stories of few emotions, no emotion's own)",
    procedure="each vector is added at two thirds of the depth, at all tokens",
    readout="change of the log-probability of words as what comes next; divergence of the next "
    "token's distribution from the unsteered one",
    control=f"{RANDOM} random directions as long, and vectors of other emotions",
    claims=(TONE, QUIET),
    lacks=_lacks,
    cost=_cost,
    run=run,
    draw=draw,
)
