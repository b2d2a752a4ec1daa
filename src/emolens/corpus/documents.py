"""Documents of a corpus that may be larger than memory, one after the other; bad rows are named."""

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from emolens.corpus import json_lines, opened, parquet_rows
from emolens.errors import CorpusError, SelectionError, first_line
from emolens.text import Text

Source = Path | str | Iterable[object]
ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")
SAVED = ("state.json", "dataset_dict.json")  # what save_to_disk leaves in a folder
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """One row of a corpus.

    Attributes:
        text: what is read; empty where there is a problem.
        id: its name in the corpus, or empty.
        where: file and line, for messages.
        problem: why it cannot be read; empty where it can.
    """

    text: str
    id: str = ""
    where: str = ""
    problem: str = ""


class _NotJson:
    """Stands for a line that is not JSON."""


def stream_documents(
    source: Source,
    *,
    text_field: str = "text",
    id_field: str = "id",
    split: str = "train",
    subset: str | None = None,
) -> Iterator[Document]:
    """Read a corpus row by row; nothing of it is kept.

    Args:
        source: a file of JSONL (`.jsonl`, `.jsonl.gz`) or Parquet, a folder with such files at any
            depth (in the order of their paths), a folder that `datasets` saved with
            `save_to_disk`, the id of a dataset on the Hugging Face Hub, which is then streamed, or
            rows: strings, texts, or mappings with the fields.
        text_field: name of the field that holds the text.
        id_field: name of the field that holds the document's name; it may be missing.
        split: of a dataset that has several.
        subset: of a dataset on the Hub that has several (there called configuration).

    Raises:
        CorpusError: for a path where nothing is, a file that cannot be read, or a hub that does
            not give the dataset.
        SelectionError: for a split that is not there, or a dataset without the package `datasets`.

    >>> rows = [{"text": "a cold lake"}, {"title": "x"}, {"text": 3}]
    >>> [document.problem for document in stream_documents(rows)]
    ['', 'no text field', 'text is not a string']
    """
    fields = (text_field, id_field)
    for where, row in _rows(source, fields, split, subset):
        yield _document(row, where, *fields)


def count_documents(source: Source, *, split: str = "train") -> int | None:
    """How many rows a corpus has, found without parsing them; None where only reading would tell.

    Raises:
        CorpusError: as `stream_documents`.
        SelectionError: as `stream_documents`.
    """
    if not isinstance(source, Path | str):
        return len(source) if isinstance(source, Sized) else None
    if not Path(source).exists():
        return None
    if _is_saved(Path(source)):
        return len(_saved(Path(source), split))
    return sum(map(_count, _files(Path(source))))


def _document(row: object, where: str, text_field: str, id_field: str) -> Document:
    """The row as a document, or with its problem."""
    if isinstance(row, Text):
        row = {text_field: row.text, id_field: row.id}
    elif isinstance(row, str):
        row = {text_field: row}
    if not isinstance(row, Mapping):
        problem = "not JSON" if isinstance(row, _NotJson) else "not an object"
        return Document("", "", where, problem)
    given = row.get(id_field)
    name = "" if given is None else str(given).encode("utf-8", "replace").decode()
    text = row.get(text_field)
    problem = _problem(text)
    return Document("" if problem else str(text), name, where, problem)


def _problem(text: object) -> str:
    """Why this cannot be read as a text, in words of its own kind, so that kinds can be counted."""
    if text is None:
        return "no text field"
    if not isinstance(text, str):
        return "text is not a string"
    if not text.strip():
        return "empty text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "text holds half of a surrogate pair"
    return ""


def _rows(
    source: Source, fields: tuple[str, str], split: str, subset: str | None
) -> Iterator[tuple[str, object]]:
    """Every row, with a name for messages."""
    if not isinstance(source, Path | str):
        yield from ((f"row {i}", row) for i, row in enumerate(source, 1))
    elif not Path(source).exists():
        found = _from_hub(str(source), split, subset)
        yield from ((f"{source}, row {i}", row) for i, row in enumerate(found, 1))
    elif _is_saved(Path(source)):
        found = _saved(Path(source), split)
        wanted = found.select_columns([f for f in fields if f in found.column_names])
        yield from ((f"{source}, row {i}", row) for i, row in enumerate(wanted, 1))
    else:
        for file in _files(Path(source)):
            yield from parquet_rows(file, fields) if file.suffix == ".parquet" else _parsed(file)


def _parsed(file: Path) -> Iterator[tuple[str, object]]:
    """The rows of a JSONL file; a line that is not JSON is told, and the next is read."""
    for where, line in json_lines(file):
        try:
            yield where, json.loads(line.decode())
        except (ValueError, RecursionError):
            yield where, _NotJson()


def _files(path: Path) -> list[Path]:
    """The file, or those below the folder."""
    if path.is_file():
        return [path]
    found = sorted(f for f in path.rglob("*") if f.name.endswith(ENDINGS) and f.is_file())
    if not found:
        raise CorpusError(f"{path} holds no documents: expected files of {', '.join(ENDINGS)}")
    return found


def _count(file: Path) -> int:
    """Rows of a Parquet file, lines of another."""
    from pyarrow import ArrowException, parquet

    try:
        if file.suffix == ".parquet":
            return parquet.read_metadata(file).num_rows
        with opened(file) as lines:
            return sum(block.count(b"\n") for block in iter(lambda: lines.read(BLOCK), b""))
    except (OSError, EOFError, zlib.error, ArrowException) as error:
        raise CorpusError(f"cannot read {file} ({first_line(error)}): expected documents") from None


def _datasets() -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise SelectionError(
            "a Hugging Face dataset needs the package datasets, which is missing: pip install "
            "'emolens[datasets]', or give files of JSONL or Parquet"
        ) from None
    return datasets


def _is_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in SAVED)


def _saved(folder: Path, split: str) -> Any:
    """What `save_to_disk` left; of several splits the one that is asked for."""
    datasets = _datasets()
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # the package raises many kinds, from pyarrow's to its own
        raise CorpusError(
            f"cannot read the dataset in {folder} ({first_line(error)}): save it again"
        ) from None
    if not isinstance(found, dict):
        return found
    if split not in found:
        raise SelectionError(f"{folder} has no split {split!r}: there are {', '.join(found)}")
    return found[split]


def _from_hub(name: str, split: str, subset: str | None) -> Iterable[object]:
    """A dataset of the Hub, streamed."""
    if name.endswith(ENDINGS) or not HUB_ID.fullmatch(name):
        raise CorpusError(
            f"no corpus at {name}: give a file ({', '.join(ENDINGS)}), a folder of them or the id "
            "of a dataset on the Hub"
        )
    datasets = _datasets()
    try:
        return datasets.load_dataset(name, subset, split=split, streaming=True)
    except Exception as error:  # as in _saved
        raise CorpusError(
            f"no corpus at {name}, neither a file nor a folder, and the Hub did not give split "
            f"{split!r} of it ({first_line(error)}): check the path, or id, subset, split, login "
            "and network"
        ) from None
