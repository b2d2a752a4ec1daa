"""What a model or a corpus wrote, made harmless before it meets a page."""

import json
import math
import re
import unicodedata

import pandas as pd
from markupsafe import Markup

# joiners shape Persian and emoji; a soft hyphen only breaks a long word
PLAIN_FORMATS = "\u200c\u200d\u00ad"
KEPT_CONTROLS = "\n\t"
NOT_PRINTED = ("Cc", "Cf", "Cs", "Zl", "Zp")
DIGITS = 4  # significant ones, in what pictures are drawn from
THOUSAND = 1000


def visible(text: str) -> str:
    r"""Control characters, marks of direction and other unseen ones as something to be seen.

    Line ends and tabs stay.

    >>> visible("a\x07b\u202ec")
    'a‹U+0007›b‹U+202E›c'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    kept = character in KEPT_CONTROLS or character in PLAIN_FORMATS
    if kept or unicodedata.category(character) not in NOT_PRINTED:
        return character
    return f"\u2039U+{ord(character):04X}\u203a"


def visible_token(token: str) -> str:
    r"""The same for one token, whose line ends and tabs would else be lost.

    >>> visible_token("\n\tno")
    '↵\n→no'
    """
    return visible(token.replace("\r\n", "\n")).replace("\n", "\u21b5\n").replace("\t", "\u2192")


def data_island(value: object) -> Markup:
    r"""A value as JSON that cannot end the script element it stands in; numbers to 4 digits.

    What is not a finite number becomes null.

    >>> data_island({"p": 0.123456, "word": "</script>"})
    Markup('{"p":0.1235,"word":"\\u003c/script\\u003e"}')
    """
    compact = _compact(value)
    text = json.dumps(compact, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)


def _compact(value: object) -> object:
    match value:
        case dict():
            return {visible(str(k)): _compact(v) for k, v in value.items()}
        case list() | tuple():
            return [_compact(v) for v in value]
        case str():
            return visible(value)
        case float():
            return _rounded(value)
    return value


def _rounded(number: float) -> float | int | None:
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else float(f"{number:.{DIGITS}g}")


def script(source: str) -> Markup:
    """A library's source as the text of a script element.

    Nothing in it may end the element or look for files beside the page.
    """
    source = re.sub(r"//# sourceMappingURL=\S*", "", source.replace("\r\n", "\n"))
    return Markup(source.replace("</script", "<\\/script"))


def cell(value: object) -> str:
    """A table's cell: numbers with three digits, nothing where nothing was measured."""
    if isinstance(value, str | list | tuple | bool):
        return str(value)
    if pd.isna(value):
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= THOUSAND else f"{value:.3g}"
    return str(value)
