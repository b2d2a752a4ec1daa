"""Valence and arousal of words from human ratings, and how well humans agree on them."""

import json
from collections.abc import Iterable, Mapping
from csv import QUOTE_NONE
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from emolens.errors import CorpusError, first_line

Norms = Mapping[str, Mapping[str, float]]

VADER, NRC_VAD, WARRINER, RUSSELL_MEHRABIAN = (
    "VADER",
    "NRC-VAD",
    "Warriner 2013",
    "Russell-Mehrabian 1977",
)
VADER_MAXIMUM = 4.0
NRC_COLUMNS = ("word", "valence", "arousal", "dominance")
WARRINER_COLUMNS = {"Word": "word", "V.Mean.Sum": "valence", "A.Mean.Sum": "arousal"}


class Ceiling(NamedTuple):
    """The correlation that other human ratings of the same words reach, and where it is from.

    Attributes:
        value: a correlation; NaN where none is known.
        source: in words.
    """

    value: float
    source: str


UNKNOWN = Ceiling(float("nan"), "not known")
# Both lexicons as published, joined on the paper's 171 words and correlated by this project
_NRC_WARRINER = "NRC-VAD v1 against Warriner et al. 2013 on 126 of the paper's words"
AGREEMENT: Mapping[str, Mapping[str, Ceiling]] = {
    name: {"valence": Ceiling(0.947, _NRC_WARRINER), "arousal": Ceiling(0.756, _NRC_WARRINER)}
    for name in (NRC_VAD, WARRINER)
}


def vader_valence(words: Iterable[str]) -> dict[str, float]:
    """Valence in -1..1 from the VADER lexicon (Hutto and Gilbert 2014, MIT; ten raters a word).

    A word that the lexicon lacks is left out, never zero: 139 of the paper's 171 are there.

    >>> vader_valence(["happy", "weary of it all"])
    {'happy': 0.675}
    """
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    lexicon = SentimentIntensityAnalyzer().lexicon
    return {word: lexicon[word] / VADER_MAXIMUM for word in words if word in lexicon}


def vader_reliability(words: Iterable[str]) -> float:
    """The correlation that ten other raters would reach with VADER's ten on these words.

    Intraclass correlation (1, 10) from the single ratings that the lexicon holds, 1 - 1/F of a
    one-way analysis of variance. A little too high, since its authors dropped words on which
    raters differed most. NaN for fewer than three words.

    >>> round(vader_reliability(["happy", "calm", "sad", "angry", "desperate", "afraid"]), 2)
    0.98
    """
    import vaderSentiment
    from scipy.stats import f_oneway

    file = Path(vaderSentiment.__file__).with_name("vader_lexicon.txt")
    rows = [line.split("\t") for line in file.read_text("utf-8").splitlines() if line.strip()]
    raters = {row[0]: row[3] for row in rows}
    known = [json.loads(raters[word]) for word in words if word in raters]
    return float(1 - 1 / f_oneway(*known).statistic) if len(known) > 2 else float("nan")


def ceilings(name: str, words: Iterable[str]) -> dict[str, Ceiling]:
    """What humans reach against a norm, by axis; NaN where nobody has measured it.

    A model's correlation near the ceiling is as good as can be told with that norm.

    Args:
        name: of the norm, as `load_norms` gives it, or `"VADER"`.
        words: on which a model is compared; VADER's ceiling is of these.

    >>> ceilings("NRC-VAD", [])["arousal"].value
    0.756
    >>> ceilings("Russell-Mehrabian 1977", [])["valence"].source
    'not known'
    """
    if name == VADER:
        listed = list(words)
        source = f"ten other raters, from VADER's own ratings of {len(vader_valence(listed))} words"
        return {"valence": Ceiling(vader_reliability(listed), source), "arousal": UNKNOWN}
    return dict(AGREEMENT.get(name, {"valence": UNKNOWN, "arousal": UNKNOWN}))


def load_norms(file: Path | str) -> tuple[str, dict[str, dict[str, float]]]:
    """A user's file of norms, its kind told by its first line: name of the norm, and its values.

    A tab: NRC-VAD. A column `V.Mean.Sum`: Warriner. Otherwise: Russell and Mehrabian.

    Raises:
        CorpusError: if the file is none of the three or is malformed.
    """
    try:
        with Path(file).open(encoding="utf-8-sig") as lines:
            first = lines.readline()
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from None
    if "\t" in first:
        return NRC_VAD, load_nrc_vad(file)
    if "V.Mean.Sum" in first:
        return WARRINER, load_warriner(file)
    return RUSSELL_MEHRABIAN, load_russell_mehrabian(file)


def load_nrc_vad(file: Path | str) -> dict[str, dict[str, float]]:
    r"""Valence and arousal in -1..1 from a user's copy of the NRC-VAD lexicon.

    Tab separated: word, valence, arousal, dominance, with or without a header. Version 1 runs
    from 0 to 1 and version 2 from -1 to 1; a file without any negative number is read as the
    first. A word that stands twice has the mean of both.

    Mohammad 2018 (ACL), 2025. Free for research and education; not to be redistributed, not even
    in part; commercial use needs a licence from the National Research Council Canada
    (saifmohammad.com). emolens ships none of it and writes none of its values into any file.

    Raises:
        CorpusError: if the file is missing, lacks columns, or holds what is no such number.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "made-up.txt"
    ...     _ = file.write_text("glim\t0.75\t0.5\t0.1\n")
    ...     load_nrc_vad(file)
    {'valence': {'glim': 0.5}, 'arousal': {'glim': 0.0}}
    """
    table = _read(file, sep="\t", header=None, quoting=QUOTE_NONE)
    if table.shape[1] < len(NRC_COLUMNS):
        raise _lacking(file, f"expected the {len(NRC_COLUMNS)} columns {', '.join(NRC_COLUMNS)}")
    names = [str(name).strip().lower() for name in table.iloc[0]]
    if "valence" in names:
        table = table.iloc[1:].set_axis(["word", *names[1:]], axis=1)
    else:
        table = table.iloc[:, : len(NRC_COLUMNS)].set_axis(list(NRC_COLUMNS), axis=1)
    if "arousal" not in table.columns:
        raise _lacking(file, "its header has valence but no arousal")
    numbers = table[["valence", "arousal"]].apply(pd.to_numeric, errors="coerce")
    return _rated(file, table, low=-1 if (numbers < 0).any(axis=None) else 0, high=1)


def load_warriner(file: Path | str) -> dict[str, dict[str, float]]:
    r"""Valence and arousal in -1..1 from a user's copy of Warriner et al.'s ratings (1 to 9).

    Comma separated with the columns Word, V.Mean.Sum and A.Mean.Sum among others.

    Warriner, Kuperman and Brysbaert 2013 (Behavior Research Methods 45). CC BY-NC-ND 3.0: free
    for non-commercial use with attribution; a rescaled or shortened table may not be passed on.
    emolens ships none of it and writes none of its values into any file.

    Raises:
        CorpusError: if the file is missing, lacks columns, or holds what is no such number.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "made-up.csv"
    ...     _ = file.write_text("Word,V.Mean.Sum,A.Mean.Sum\nglim,7,5\n")
    ...     load_warriner(file)
    {'valence': {'glim': 0.5}, 'arousal': {'glim': 0.0}}
    """
    table = _read(file)
    if not set(WARRINER_COLUMNS) <= set(table.columns):
        raise _lacking(file, f"expected the columns {', '.join(WARRINER_COLUMNS)}")
    return _rated(file, table.rename(columns=WARRINER_COLUMNS), low=1, high=9)


def load_russell_mehrabian(file: Path | str) -> dict[str, dict[str, float]]:
    r"""Valence and arousal in -1..1 from a user's table of Russell and Mehrabian's terms.

    Comma separated with the columns word, valence (or pleasure) and arousal.

    Russell and Mehrabian 1977 (Journal of Research in Personality 11), a journal's table without
    an open licence, typed off by the user; the paper compares with 45 of its terms. emolens ships
    none of it and writes none of its values into any file.

    Raises:
        CorpusError: if the file is missing, lacks columns, or holds what is no such number.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "made-up.csv"
    ...     _ = file.write_text("word,pleasure,arousal\nglim,0.5,0\n")
    ...     load_russell_mehrabian(file)
    {'valence': {'glim': 0.5}, 'arousal': {'glim': 0.0}}
    """
    table = _read(file)
    names = [str(name).strip().lower() for name in table.columns]
    table = table.set_axis(["valence" if n == "pleasure" else n for n in names], axis=1)
    if not {"word", "valence", "arousal"} <= set(table.columns):
        raise _lacking(file, "expected the columns word, valence (or pleasure) and arousal")
    return _rated(file, table, low=-1, high=1)


def _read(file: Path | str, **layout: object) -> pd.DataFrame:
    """Every cell as text: a word may be "null" or "nan"."""
    options = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", **layout}
    try:
        return pd.read_csv(Path(file), **options)
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from None


def _rated(
    file: Path | str, table: pd.DataFrame, *, low: int, high: int
) -> dict[str, dict[str, float]]:
    """Valence and arousal by lower-case word, `low`..`high` brought to -1..1."""
    if table.empty:
        raise _lacking(file, "it has no words")
    words, found = table["word"].str.strip().str.lower(), {}
    for axis in ("valence", "arousal"):
        numbers = pd.to_numeric(table[axis], errors="coerce")
        outside = ~numbers.between(low, high)
        if outside.any():
            word, value = words[outside].iloc[0], table[axis][outside].iloc[0]
            raise CorpusError(
                f"{file}: {axis} of {word!r} is {value!r}, expected a number in {low}..{high}: "
                "pass the file as it was published"
            )
        scaled = (numbers - (low + high) / 2) / ((high - low) / 2)
        found[axis] = scaled.groupby(words).mean().to_dict()
    return found


def _unreadable(file: Path | str, error: Exception) -> CorpusError:
    return CorpusError(
        f"norms {file} cannot be read as a table ({first_line(error)}): pass a text file of "
        "NRC-VAD, Warriner or Russell-Mehrabian"
    )


def _lacking(file: Path | str, what: str) -> CorpusError:
    return CorpusError(
        f"{file} is no table of norms: {what}; pass a file of NRC-VAD, Warriner or "
        "Russell-Mehrabian"
    )
