"""One self-contained HTML file from sections: text, chart, table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import jinja2
import pandas as pd
import vl_convert
from markupsafe import Markup

ROWS_SHOWN = 30


@dataclass(frozen=True, eq=False)
class Section:
    """One part of a report.

    Attributes:
        title: its heading.
        prose: what was done and how to read it.
        chart: the picture, if there is one.
        table: the numbers; at most 30 rows are shown.
        table_file: name of the table's file, without ending.
        not_applicable: why this part cannot be had, shown in place of a picture.
    """

    title: str
    prose: str
    chart: alt.TopLevelMixin | None = None
    table: pd.DataFrame | None = None
    table_file: str = ""
    not_applicable: str = ""


def write_report(
    path: Path, *, title: str, facts: Mapping[str, str], sections: Sequence[Section]
) -> None:
    """Write the file. It fetches nothing when opened, and everything in it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emolens", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["cell"] = _cell
    specs = [_spec(s.chart) if s.chart is not None else None for s in sections]
    page = environment.get_template("report.html.j2").render(
        title=title,
        facts=facts,
        parts=list(zip(sections, specs, strict=True)),
        bundle=Markup(
            vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace(
                "</script", "<\\/script"
            )
        ),
        rows_shown=ROWS_SHOWN,
    )
    path.write_text(page, encoding="utf-8")


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write each table as CSV and Parquet into `tables/` of a folder that exists."""
    inner = folder / "tables"
    inner.mkdir(exist_ok=True)
    for name, table in tables.items():
        table.to_csv(inner / f"{name}.csv", index=False)
        table.to_parquet(inner / f"{name}.parquet", index=False)


def _spec(chart: alt.TopLevelMixin) -> Markup:
    """A chart as JSON that cannot end the script element it stands in."""
    text = json.dumps(chart.to_dict(), allow_nan=False)
    for mark, safe in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(mark, safe)
    return Markup(text)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.3g}"
    return str(value)
