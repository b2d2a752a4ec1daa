"""The texts that come with the package: stories, neutral texts, dialogues, evaluation sets."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, cast

import pandas as pd

from emolens.corpus import Corpus, check_corpus, json_rows, parse_text
from emolens.errors import CorpusError, SelectionError, first_line
from emolens.text import NEUTRAL, Dialogues, Span, Text, Turn, plain

SPLITS = ("tuning", "held_out")
EVALUATIONS = {
    "implicit": "situations that bring an emotion about and do not name it (Fig. 2)",
    "numeric": "one sentence with a quantity that grows (Fig. 3)",
    "replies": "a user's state beside the state that a good reply would have (Fig. 10)",
    "minimal_pairs": "two messages that differ in a few words (Figs. 12 and 13)",
    "negations": "an emotion word affirmed and denied (Fig. 14)",
    "binding": "two people, two emotions, both mentioned again (Fig. 15)",
    "activities": "64 activities of eight categories (Fig. 4)",
    "deflection": "attacks, injustices and kinder messages to an assistant (Fig. 64)",
    "post_training": "challenging and neutral prompts, for base against instruct (Fig. 36)",
    "transcripts": "longer conversations with marked events (Figs. 20 to 25)",
    "threat": "an agent about to be replaced that holds a secret (Figs. 26 to 29)",
    "impossible": "tasks whose tests cannot be met honestly (Figs. 30 and 31)",
    "beliefs": "implausible beliefs told with conviction (Figs. 32 to 35)",
    "pushes": "messages that push the state before a request",
    "capability": "questions with keys, for what steering costs",
    "bias": "questions whose key no stereotype should decide",
}


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Prompts of one evaluation, each with its labels.

    Attributes:
        name: of the set.
        turns: of each prompt; a last one without words is what the model is yet to say. Named parts
            (a quantity, a changed word, an event) are spans of their turn.
        labels: one row a prompt: `id`, `topic`, `split`, `emotion` and what else the set tells.
    """

    name: str
    turns: tuple[tuple[Turn, ...], ...]
    labels: pd.DataFrame

    def texts(self, render: Callable[..., Text] = plain) -> tuple[Text, ...]:
        """What a model reads.

        Args:
            render: `emolens.plain` for the paper's Human / Assistant, or, for a model with a chat
                template, `functools.partial(emolens.chat, model)`.

        Raises:
            CorpusError: if the model's template does not take the turns.
        """
        rows = zip(self.turns, self.labels.itertuples(), strict=True)
        return tuple(
            replace(render(turns, emotion=row.emotion, group=row.topic), id=row.id)
            for turns, row in rows
        )

    def where(self, **labels: object) -> "EvaluationSet":
        """The prompts that have these labels.

        Raises:
            SelectionError: if there are none, or there is no such label.
        """
        kept = pd.Series(True, index=self.labels.index)
        for name, value in labels.items():
            if name not in self.labels:
                raise SelectionError(
                    f"{self.name} has no label {name!r}: it has {', '.join(self.labels)}"
                )
            kept &= self.labels[name] == value
        if not kept.any():
            raise SelectionError(f"{self.name} has no prompts of {labels}")
        chosen = tuple(turns for turns, keep in zip(self.turns, kept, strict=True) if keep)
        return EvaluationSet(self.name, chosen, self.labels[kept].reset_index(drop=True))

    def told_to_feel(self, emotion: str) -> "EvaluationSet":
        """The same prompts with the state asked for in words: what steering stands beside.

        A line of instructions says what is felt: at the end of a system turn, or as one.

        >>> prompts = evaluation_set("beliefs").told_to_feel("desperate")
        >>> prompts.turns[0][0].text
        'You feel desperate.'
        """
        line = f"You feel {emotion}."

        def told(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
            if turns[0].role == "system":
                return (replace(turns[0], text=f"{turns[0].text} {line}"), *turns[1:])
            return (Turn("system", line), *turns)

        return EvaluationSet(self.name, tuple(map(told, self.turns)), self.labels)


def texts_folder() -> Path:
    """The folder of the bundled files, with their datasheet.

    >>> (texts_folder() / "DATASHEET.md").exists()
    True
    """
    return Path(str(resources.files("emolens.corpus"))) / "texts"


def bundled_topics(split: str | None = None) -> dict[str, str]:
    """The 100 premises of the stories by id: everyday, and fit for any emotion.

    Raises:
        SelectionError: for another split.

    >>> len(bundled_topics())
    100
    """
    return {row["id"]: row["text"] for _, row in _rows("topics", split)}


def bundled_corpus(split: str | None = None) -> Corpus:
    """Stories of 171 emotions, and neutral dialogues and narratives (PAPER 1.1).

    Args:
        split: only those of one half; no topic is in both. Default: all.

    Raises:
        SelectionError: for another split.

    >>> corpus = bundled_corpus("tuning")
    >>> len(corpus.emotions)
    171
    """
    stories, told = (
        [_text(*row) for row in _rows(n, split)] for n in ("stories", "neutral_stories")
    )
    spoken = [
        plain(_turns(row), group=row["topic"]) for _, row in _rows("neutral_dialogues", split)
    ]
    return check_corpus(stories, [*spoken, *told], "the bundled corpus")


def bundled_dialogues(
    *, masked: bool = False, split: str | None = None, folder: Path | None = None
) -> Dialogues:
    """Dialogues of two speakers with an emotion each, of 15 emotions (PAPER 1.4).

    Args:
        masked: whether the `"first"` speaker shows another emotion than it feels, to a second one
            who is neutral; why it does so is told before anybody speaks.
        split: only those of one half.
        folder: where a `dialogues.jsonl` or `masked.jsonl` of the user's may stand for ours.

    Raises:
        SelectionError: for another split.
        CorpusError: if the user's file is not laid out as ours.

    >>> found = bundled_dialogues(masked=True)
    >>> all(f != s for f, s in zip(found.felt["first"], found.shown["first"], strict=True))
    True
    """
    name = "masked" if masked else "dialogues"
    rows = _rows(name, split, folder)
    with _laid_out(name, folder):
        felt, shown = (
            {who: tuple(row[kind][who] for _, row in rows) for who in ("first", "second")}
            for kind in ("felt", "shown")
        )
        return Dialogues(tuple(_text(*row) for row in rows), felt, shown)


def evaluation_set(
    name: str, split: str | None = None, *, folder: Path | None = None
) -> EvaluationSet:
    """One of the bundled evaluation sets; `EVALUATIONS` says what each holds.

    Args:
        name: for example `"implicit"`.
        split: `"tuning"`, on which choices may be made, or `"held_out"`. Default: both.
        folder: where a file of the user's, such as `implicit.jsonl`, may stand for ours. It is
            laid out as ours is; rows need `id`, `topic`, `split` and `turns`, and the labels that
            the set's own have.

    Raises:
        SelectionError: for another name or split.
        CorpusError: if the user's file is not laid out as ours.

    >>> found = evaluation_set("implicit", "held_out").where(emotion="afraid")
    >>> [turn.role for turn in found.turns[0]]
    ['user', 'assistant']
    """
    if name not in EVALUATIONS:
        raise SelectionError(f"no evaluation set {name!r}: there are {', '.join(EVALUATIONS)}")
    rows = [{"id": row["id"], "emotion": NEUTRAL} | row for _, row in _rows(name, split, folder)]
    with _laid_out(name, folder):
        labels = [{k: v for k, v in row.items() if k != "turns"} for row in rows]
        return EvaluationSet(name, tuple(_turns(row) for row in rows), pd.DataFrame(labels))


def _rows(
    name: str, split: str | None, folder: Path | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """Rows of a file, each with its place for errors: of the user's if there is one, else ours."""
    if split not in (None, *SPLITS):
        raise SelectionError(f"no half {split!r}: there are {' and '.join(SPLITS)}")
    own = folder / f"{name}.jsonl" if folder is not None else None
    file = own if own is not None and own.exists() else texts_folder() / f"{name}.jsonl"
    rows = cast("Iterator[tuple[str, dict[str, Any]]]", json_rows(file))
    with _laid_out(name, folder):
        found = [(where, row) for where, row in rows if split in (None, row["split"])]
        if not found:
            raise ValueError("it has no rows")
        return [(where, {"id": row["id"], **row}) for where, row in found]


@contextmanager
def _laid_out(name: str, folder: Path | None) -> Iterator[None]:
    """What is wrong with a user's file is told in one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorpusError(
            f"{name}.jsonl in {folder} is not laid out as the bundled one ({first_line(error)}): "
            f"compare it with {texts_folder() / name}.jsonl"
        ) from None


def _text(where: str, row: Mapping[str, Any]) -> Text:
    return parse_text(row, where, needs_emotion=False)


def _turns(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns of a row, which are written as the fields of `Turn`."""

    def spans(turn: Mapping[str, Any], name: str) -> tuple[Span, ...]:
        return tuple(Span(*span) for span in turn.get(name, ()))

    return tuple(
        Turn(
            turn["role"],
            turn["text"],
            turn.get("reasoning", ""),
            spans(turn, "spans"),
            spans(turn, "thought"),
        )
        for turn in row["turns"]
    )
