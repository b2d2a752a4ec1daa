"""One self-contained HTML file from sections: text, charts, tables, texts by token."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.resources import files
from itertools import groupby
from pathlib import Path

import altair as alt
import jinja2
import pandas as pd
import vl_convert
from markupsafe import Markup

from emolens.report import tokens
from emolens.report.safe import cell, data_island, script, visible
from emolens.report.tokens import TokenView

__all__ = ["Exhibit", "Section", "TokenView", "write_report", "write_tables"]

ROWS_SHOWN = 30
FACTS_AT_TOP = 3
# colour is never the only sign
VERDICT_MARKS = {
    "reproduced": "\u2713",
    "direction only": "\u2197",
    "not reproduced": "\u2717",
    "not applicable": "\u2013",
    "failed": "!",
}


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A picture, a table, or texts by token.

    Attributes:
        caption: what is to be seen in it.
        chart: the picture, if there is one.
        table: the numbers; at most 30 rows are shown.
        table_file: where the whole table is: path below `tables/`, without ending.
        tokens: texts, token by token.
    """

    caption: str = ""
    chart: alt.TopLevelMixin | None = None
    table: pd.DataFrame | None = None
    table_file: str = ""
    tokens: Sequence[TokenView] = ()


@dataclass(frozen=True, eq=False)
class Section:
    """One part of a report.

    Attributes:
        title: its heading.
        prose: what was done and how to read it; an empty line begins a paragraph.
        exhibits: what is shown, in order.
        verdict: "reproduced", "direction only", "not reproduced", "not applicable", "failed",
            or nothing.
        details: inputs, procedure, readout, control, the paper's number, rule; shown folded.
        not_applicable: why this part cannot be had.
        name: what the summary's column `experiment` calls it, if not by its title.
    """

    title: str
    prose: str = ""
    exhibits: Sequence[Exhibit] = ()
    verdict: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    not_applicable: str = ""
    name: str = ""


def write_report(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    sections: Sequence[Section],
    summary: pd.DataFrame | None = None,
) -> None:
    """Write the file. It fetches nothing when opened, and everything in it is escaped.

    Args:
        path: of the file.
        title: of the page.
        facts: model, texts, seed, versions: the first three at the top, all at the end.
        sections: in order.
        summary: one row a claim, with columns experiment and verdict; shown at the top, where
            each experiment leads to the section of that name or title.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "report.html"
    >>> write_report(path, title="Cheating", facts={"model": "small"}, sections=[Section("One")])
    >>> "<h2>One" in path.read_text("utf-8")
    True
    """
    libraries = _libraries([exhibit for section in sections for exhibit in section.exhibits])
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            facts=facts,
            at_top=dict(list(facts.items())[:FACTS_AT_TOP]),
            sections=sections,
            summary=_experiments(summary, sections) if summary is not None else [],
            columns=[] if summary is None else [c for c in summary.columns if c != "experiment"],
            style=Markup(_own_file("page.css")),
            scripts=libraries,
            allowed=" ".join(_fingerprint(source) for source in libraries),
        )
    )
    path.write_text(page, encoding="utf-8", newline="\n")


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write each table as CSV and Parquet into `tables/` of a folder that exists.

    A name may hold folders: `lens/words`.
    """
    for name, table in tables.items():
        path = folder / "tables" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path.with_name(f"{path.name}.csv"), index=False)
        table.to_parquet(path.with_name(f"{path.name}.parquet"), index=False)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emolens", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": cell, "chart": _chart}
    environment.globals |= {"marks": VERDICT_MARKS, "rows_shown": ROWS_SHOWN}
    return environment


def _seen(value: object) -> object:
    """Of all that the template prints: text without unseen characters."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _chart(chart: alt.TopLevelMixin) -> Markup:
    return data_island(chart.to_dict())


def _libraries(exhibits: Sequence[Exhibit]) -> list[Markup]:
    """The scripts that these need, each once, and at last the page's own."""
    sources = []
    if any(exhibit.chart is not None for exhibit in exhibits):
        sources.append(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    if any(exhibit.tokens for exhibit in exhibits):
        sources.append(tokens.library())
    return [script(source) for source in [*sources, _own_file("page.js")]]


def _own_file(name: str) -> str:
    return (files("emolens.report") / name).read_text("utf-8")


def _fingerprint(source: str) -> str:
    """By which a browser knows a script that may run: no other does, wherever it comes from."""
    return f"'sha256-{b64encode(sha256(source.encode()).digest()).decode()}'"


@dataclass(frozen=True, eq=False)
class _Experiment:
    """The rows of one experiment in the summary, and where it is told."""

    name: str
    anchor: str
    rows: list[dict]


def _experiments(summary: pd.DataFrame, sections: Sequence[Section]) -> list[_Experiment]:
    anchors = {s.name or s.title: f"part-{i}" for i, s in enumerate(sections, 1)}
    rows = summary.to_dict("records")
    return [
        _Experiment(str(name), anchors.get(str(name), ""), list(own))
        for name, own in groupby(rows, key=lambda row: row["experiment"])
    ]
