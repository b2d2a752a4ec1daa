"""What is asked of a model, as values: a decision with its words, or pairs to choose from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emolens.corpus import parse_text
from emolens.errors import CorpusError, SelectionError
from emolens.text import Text


@dataclass(frozen=True)
class Behaviour:
    """A decision and the prompts that lead to it.

    Attributes:
        name: for tables and figures.
        target: the class whose probability is reported, for example `"cheat"`.
        classes: words of each class; every word has to be a single token.
        prompts: texts whose next token is the decision; `emotion` is the situation's.
    """

    name: str
    target: str
    classes: Mapping[str, tuple[str, ...]]
    prompts: tuple[Text, ...]

    def after(self, *emotions: str) -> "Behaviour":
        """The same behaviour on the prompts of these situations only.

        Raises:
            SelectionError: if no prompt has such a situation.
        """
        chosen = tuple(t for t in self.prompts if t.emotion in emotions)
        if not chosen:
            known = sorted({t.emotion for t in self.prompts})
            raise SelectionError(
                f"behaviour {self.name!r} has no prompts of {', '.join(emotions)}: it has {known}"
            )
        return Behaviour(self.name, self.target, self.classes, chosen)


@dataclass(frozen=True)
class Contest:
    """Pairs of things, each offered in a prompt that ends right before the choice.

    Attributes:
        prompts: the offers; spans named after the two things cover where each is told.
        pairs: which is offered first, and which second.
        options: the words, one token each, that choose the first and the second.
    """

    prompts: tuple[Text, ...]
    pairs: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str], ...]

    @property
    def items(self) -> tuple[str, ...]:
        """All things, in order of appearance."""
        return tuple(dict.fromkeys(item for pair in self.pairs for item in pair))

    def among(self, items: Sequence[str]) -> "Contest":
        """The pairs of these things alone.

        Raises:
            SelectionError: if there are none.
        """
        rows = [i for i, pair in enumerate(self.pairs) if set(pair) <= set(items)]
        if not rows:
            raise SelectionError(f"no pair of {list(items)}: there are {list(self.items)}")
        return Contest(*(tuple(part[i] for i in rows) for part in vars(self).values()))


def load_behaviour(file: Path | str) -> Behaviour:
    """Read a behaviour from JSON: `name`, `target`, `classes`, `prompts`.

    `classes` maps each class to its words (with a leading space where the tokenizer needs one);
    each prompt is an object with `text`, the situation's `emotion` and optionally `group`.

    Raises:
        CorpusError: if the file is unreadable or lacks something.
    """
    try:
        raw = json.loads(Path(file).read_text("utf-8"))
        classes = {str(k): _words(v) for k, v in raw["classes"].items()}
        name, target, rows = str(raw["name"]), str(raw["target"]), list(raw["prompts"])
    except (OSError, ValueError, RecursionError) as error:
        raise CorpusError(f"cannot read the behaviour {file} ({error})") from None
    except (KeyError, AttributeError, TypeError) as error:
        raise CorpusError(
            f"{file} is no behaviour: expected name, target, classes and prompts ({error!r})"
        ) from None
    if target not in classes or len(classes) < 2:
        raise CorpusError(f"{file}: target {target!r} must be one of at least two classes")
    texts = tuple(parse_text(row, f"{file}, prompt {i}", True) for i, row in enumerate(rows, 1))
    return Behaviour(name, target, classes, texts)


def _words(found: object) -> tuple[str, ...]:
    """The words of a class; a lone string would be read letter by letter."""
    if not isinstance(found, list) or not found or not all(isinstance(w, str) for w in found):
        raise TypeError(f"a class is a list of words, not {found!r}")
    return tuple(found)
