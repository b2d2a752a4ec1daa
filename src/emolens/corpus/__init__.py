"""Stories and neutral texts from JSONL files, checked line by line."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from emolens.errors import CorpusError
from emolens.text import NEUTRAL, Span, Text


@dataclass(frozen=True)
class Corpus:
    """Stories labelled with emotions, and neutral texts for the neutral components."""

    stories: tuple[Text, ...]
    neutral: tuple[Text, ...]

    @property
    def emotions(self) -> tuple[str, ...]:
        """The emotions that occur, in order of first appearance."""
        return tuple(dict.fromkeys(t.emotion for t in self.stories if t.emotion != NEUTRAL))


def load_corpus(path: Path | str, *, neutral: Path | str | None = None) -> Corpus:
    """Read a corpus from JSONL: one object a line with `text`, `emotion` and, for splits, `topic`.

    Args:
        path: a file, or a folder: its `stories/*.jsonl` if there are any below it, else its
            `*.jsonl`; files named `neutral*.jsonl` are neutral texts and need no `emotion`.
        neutral: a file of neutral texts, where they are not with the stories. Without one,
            stories labelled `"neutral"` serve.

    Raises:
        CorpusError: for a missing path, a malformed line (with its number), an empty corpus, one
            with a single emotion, or one without neutral text.

    A line may also hold `group` (another name for `topic`) and `spans`, a list of
    `[name, start, end]` in characters.
    """
    path = Path(path)
    if path.is_file():
        story_files, neutral_files = [path], []
    elif path.is_dir():
        neutral_files = sorted(path.rglob("neutral*.jsonl"))
        below = sorted(path.rglob("stories/*.jsonl")) or sorted(path.glob("*.jsonl"))
        story_files = [f for f in below if f not in neutral_files]
    else:
        raise CorpusError(f"no corpus at {path}: give a .jsonl file or a folder of them")
    if neutral is not None:
        neutral_files = [Path(neutral)]
    stories = [t for f in story_files for t in _read(f, needs_emotion=True)]
    calm = [t for f in neutral_files for t in _read(f, needs_emotion=False)]
    return check_corpus(stories, calm or [t for t in stories if t.emotion == NEUTRAL], str(path))


def check_corpus(stories: Sequence[Text], neutral: Sequence[Text], name: str) -> Corpus:
    """A corpus that vectors can be fitted on.

    Raises:
        CorpusError: if it is empty, has a single emotion, or no neutral text.
    """
    corpus = Corpus(tuple(stories), tuple(neutral))
    if not stories:
        raise CorpusError(f"{name} holds no stories: expected JSONL lines with text and emotion")
    if len(corpus.emotions) < 2:
        raise CorpusError(
            f"{name} has {len(corpus.emotions)} emotion ({', '.join(corpus.emotions)}): an emotion "
            "vector is a difference, give stories of at least two emotions"
        )
    if not neutral:
        raise CorpusError(
            f"{name} has no neutral text: add neutral*.jsonl beside the stories or pass a file of "
            "neutral texts (--neutral)"
        )
    return corpus


def _read(file: Path, *, needs_emotion: bool) -> Iterator[Text]:
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read {file} ({error}): expected UTF-8 JSONL") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorpusError(f"{file}, line {number}: not JSON ({error})") from None
        yield parse_text(row, f"{file}, line {number}", needs_emotion)


def parse_text(row: object, where: str, needs_emotion: bool) -> Text:
    """One text from a JSON object; `where` names it in errors.

    Raises:
        CorpusError: if it has no text, or no emotion where one is needed.
    """
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
        raise CorpusError(f"{where}: expected an object with a non-empty string 'text'")
    emotion = row.get("emotion", None if needs_emotion else NEUTRAL)
    if not isinstance(emotion, str) or not emotion:
        raise CorpusError(f"{where}: expected a string 'emotion' (or 'neutral')")
    group = row.get("topic", row.get("group", ""))
    try:
        spans = tuple(Span(str(n), int(a), int(b)) for n, a, b in row.get("spans", []))
    except (TypeError, ValueError):
        raise CorpusError(f"{where}: expected 'spans' as [name, start, end] triples") from None
    return Text(row["text"], emotion, str(group), spans)
