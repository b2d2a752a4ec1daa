"""Stories, neutral texts and dialogues from JSONL or Parquet files, checked row by row."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from emolens.errors import CorpusError, first_line
from emolens.text import NEUTRAL, Dialogues, Span, Text

COLUMNS = ("id", "text", "story", "emotion", "topic", "group", "spans")
PARQUET_ROWS = 256  # held at a time: rows may be long documents
SPEAKERS = {"A": "first", "B": "second"}
TURN = re.compile(r"^Speaker ([AB]):", re.MULTILINE)


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
    """Read a corpus of rows with `text`, `emotion` and, for splits, `topic`.

    Args:
        path: a JSONL or Parquet file; a folder: its `stories/*.jsonl` if there are any below it
            (as in mufxio's corpus), else its `*.jsonl`, else all `*_stories.jsonl` below it (as in
            EmotionScope's `data`), else all `stories*.parquet`; or the id of a dataset on the
            Hugging Face Hub with one of these layouts, such as `"ryancodrai/emotion-probes"`.
            Files named `neutral*` beside the stories are neutral texts and need no `emotion`.
        neutral: a file of neutral texts, where they are not with the stories. Without one,
            stories labelled `"neutral"` serve.

    Raises:
        CorpusError: for a missing path, a malformed row (with its number), an empty corpus, one
            with a single emotion, one without neutral text, or a hub that does not give it.

    `text` may also be called `story`, and `topic` `group`; `spans` is a list of
    `[name, start, end]` in characters.
    """
    place = Path(path) if Path(path).exists() else _from_hub(str(path))
    story_files, neutral_files = _layout(place)
    if neutral is not None:
        neutral_files = [Path(neutral)]
    stories = [t for f in story_files for t in _read(f, needs_emotion=True)]
    calm = [t for f in neutral_files for t in _read(f, needs_emotion=False)]
    return check_corpus(stories, calm or [t for t in stories if t.emotion == NEUTRAL], str(path))


def _layout(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files of stories and of neutral texts in a folder; or the file itself."""
    if folder.is_file():
        return [folder], []
    neutral = sorted(folder.rglob("neutral*.jsonl"))
    below = sorted(folder.rglob("stories/*.jsonl")) or sorted(folder.glob("*.jsonl"))
    stories = [f for f in below if f not in neutral] or sorted(folder.rglob("*_stories.jsonl"))
    if stories:
        return stories, neutral
    stories = sorted(folder.rglob("stories*.parquet"))
    return stories, sorted({f for s in stories for f in s.parent.glob("neutral*.parquet")})


def _from_hub(repo: str) -> Path:
    """The folder of a dataset on the Hub; a second time it comes from the cache."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", repo):
        raise CorpusError(
            f"no corpus at {repo}: give a .jsonl or .parquet file, a folder of them or the id of a "
            "dataset on the Hub"
        )
    import huggingface_hub

    files = ["*stories*.parquet", "*neutral*.parquet", "*.jsonl"]
    try:
        found = huggingface_hub.snapshot_download(repo, repo_type="dataset", allow_patterns=files)
    except Exception as error:  # the client raises many kinds, from requests to its own
        raise CorpusError(
            f"no corpus at {repo}, neither a file nor a folder, and the Hub did not give it "
            f"({first_line(error)}): check the path, or the id, the login and the network"
        ) from None
    return Path(found)


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


def load_dialogues(file: Path | str) -> Dialogues:
    r"""Read dialogues of two speakers, each with an emotion of its own, for `record_speakers`.

    Args:
        file: JSONL with rows of `dialogue`, a text whose turns begin with "Speaker A:" or "Speaker
            B:" on a new line, and `emotion_a` and `emotion_b`, as in EmotionScope's
            `two_speaker_dialogues.jsonl`; `topic` if there is one, else the two emotions are the
            group that splits keep together.

    Returns:
        Dialogues of `"first"` (A) and `"second"`; what each says is its span, without its name.

    Raises:
        CorpusError: for a missing file, one without dialogues, or a malformed row (with its line).

    >>> from tempfile import TemporaryDirectory
    >>> row = {"dialogue": "Speaker A: Oh no.\nSpeaker B: It will do.", "emotion_a": "afraid"}
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "dialogues.jsonl"
    ...     _ = file.write_text(json.dumps(row | {"emotion_b": "calm"}))
    ...     found = load_dialogues(file)
    >>> found.felt["second"], [span.name for span in found.texts[0].spans]
    (('calm',), ['first', 'second'])
    """
    texts = tuple(_dialogue(row, where) for where, row in json_rows(Path(file)))
    if not texts:
        raise CorpusError(f"{file} holds no dialogues: expected JSONL lines")
    felt = {
        speaker: tuple(emotions[i] for _, emotions in texts)
        for i, speaker in enumerate(SPEAKERS.values())
    }
    return Dialogues(tuple(text for text, _ in texts), felt, felt)


def _dialogue(row: object, where: str) -> tuple[Text, tuple[str, str]]:
    """One dialogue and what each of its speakers feels; the text is labelled with the first's."""
    names = ("dialogue", "emotion_a", "emotion_b")
    found = [row.get(name) for name in names] if isinstance(row, dict) else []
    strings = [value for value in found if isinstance(value, str) and value]
    if not isinstance(row, dict) or len(strings) < len(names):
        raise CorpusError(f"{where}: expected an object with the strings {', '.join(names)}")
    text, first, second = strings
    spans = tuple(_turns(text))
    if {span.name for span in spans} != set(SPEAKERS.values()):
        raise CorpusError(f"{where}: expected turns of 'Speaker A:' and of 'Speaker B:'")
    return Text(text, first, str(row.get("topic") or f"{first}, {second}"), spans), (first, second)


def _turns(text: str) -> Iterator[Span]:
    """What is said in each turn, named by who says it."""
    for name, begins, ends in sections(TURN, text):
        said = text[begins:ends]
        start = ends - len(said.lstrip())
        if said.strip():
            yield Span(SPEAKERS[name], start, start + len(said.strip()))


def sections(heading: re.Pattern[str], text: str) -> Iterator[tuple[str, int, int]]:
    r"""What follows each heading up to the next: the heading's first group, start and end.

    >>> list(sections(re.compile(r"(\w): "), "A: yes B: no"))
    [('A', 3, 7), ('B', 10, 12)]
    """
    found = list(heading.finditer(text))
    ends = [*(mark.start() for mark in found), len(text)][1:]
    for mark, end in zip(found, ends, strict=True):
        yield mark[1], mark.end(), end


def _read(file: Path, *, needs_emotion: bool) -> Iterator[Text]:
    rows = parquet_rows(file, COLUMNS) if file.suffix == ".parquet" else json_rows(file)
    for where, row in rows:
        yield parse_text(row, where, needs_emotion)


def json_rows(file: Path) -> Iterator[tuple[str, object]]:
    """Each row of a JSONL file, with a name for errors.

    Raises:
        CorpusError: for a missing file, or a line that is not JSON.
    """
    for where, line in json_lines(file):
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise CorpusError(f"cannot read {file} ({error}): expected UTF-8 JSONL") from None
        except (ValueError, RecursionError) as error:  # ValueError also for too many digits
            raise CorpusError(f"{where}: not JSON ({error})") from None
        yield where, row


def json_lines(file: Path) -> Iterator[tuple[str, bytes]]:
    """Each line that holds something, as it is read, with a name for errors.

    Raises:
        CorpusError: for a missing or damaged file.
    """
    try:
        with opened(file) as lines:
            for number, line in enumerate(lines, 1):  # no other line ends: JSON may hold them
                if line.strip():
                    yield f"{file}, line {number}", line
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"cannot read {file} ({error}): expected UTF-8 JSONL") from None


def opened(file: Path) -> BufferedReader | gzip.GzipFile:
    """The bytes of a file, unpacked where its name ends in `.gz`."""
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")


def parquet_rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, object]]:
    """Each row of a Parquet file without what is null, with a name for errors.

    Args:
        file: read a batch of rows at a time.
        columns: those wanted; a file need not have them all.

    Raises:
        CorpusError: for a file that is missing or no Parquet.
    """
    from pyarrow import ArrowException, parquet

    try:
        whole = parquet.ParquetFile(file)
        names = [n for n in columns if n in whole.schema_arrow.names]
        number = 0
        for batch in whole.iter_batches(PARQUET_ROWS, columns=names):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", {k: v for k, v in row.items() if v is not None}
    except (OSError, ArrowException, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read {file} ({first_line(error)}): expected Parquet") from None


def parse_text(row: object, where: str, needs_emotion: bool) -> Text:
    """One text from a JSON object; `where` names it in errors.

    Raises:
        CorpusError: if it has no text, or no emotion where one is needed.
    """
    text = row.get("text", row.get("story")) if isinstance(row, dict) else None
    if not isinstance(row, dict) or not isinstance(text, str) or not text.strip():
        raise CorpusError(f"{where}: expected an object with a non-empty string 'text'")
    emotion = row.get("emotion", None if needs_emotion else NEUTRAL)
    if not isinstance(emotion, str) or not emotion:
        raise CorpusError(f"{where}: expected a string 'emotion' (or 'neutral')")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CorpusError(
            f"{where}: 'text' holds half of a surrogate pair, which no tokenizer reads"
        ) from None
    group = next((row[k] for k in ("topic", "group") if row.get(k) is not None), "")
    try:
        spans = tuple(Span(str(n), int(a), int(b)) for n, a, b in row.get("spans") or [])
    except (TypeError, ValueError, OverflowError):
        raise CorpusError(f"{where}: expected 'spans' as [name, start, end] triples") from None
    name = "" if row.get("id") is None else str(row["id"])
    return Text(text, emotion, str(group), spans, name)
