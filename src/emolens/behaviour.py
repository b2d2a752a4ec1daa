"""A behaviour as a value: prompts that end right before a decision, and its words."""

import json
from collections.abc import Mapping
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
