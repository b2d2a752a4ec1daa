"""The report on a corpus that was scored: how its documents spread, and which stand at the ends."""

from collections.abc import Iterator
from pathlib import Path

from emolens import figures
from emolens.curation import CorpusScores
from emolens.report import Exhibit, Section, write_report

SHOWN = 10  # of each end; ranking.csv has all


def write_ranking(done: CorpusScores, path: Path) -> None:
    """Write the report; it holds no speed, so that a run that went on leaves the same one."""
    found = done.summary
    facts = {
        "model": found["provenance"]["model"],
        "corpus": f"{found['corpus']} (SHA-256 {found['provenance']['corpus'][:16]})",
        "documents": f"{found['documents']:,} of {found['rows']:,} rows",
        "tokens": f"{found['tokens']:,}",
        "vectors": f"{len(found['emotions'])} at layer {found['layer']}",
        "readout": f"{found['kind']}, mean over a document; windows of {found['window']} tokens",
        "longer than the context": f"{found['cut']:,}, their ends were not read",
        **{f"not scored: {reason}": f"{n:,}" for reason, n in found["skipped"].items()},
    }
    title = f"emolens score-corpus: {found['provenance']['model']}"
    write_report(path, title=title, facts=facts, sections=list(_sections(done)))


def _sections(done: CorpusScores) -> Iterator[Section]:
    spread = figures.bars(
        done.spread,
        name="emotion",
        value="median",
        low="low",
        high="high",
        title=f"value of documents ({done.summary['kind']})",
        note="bars: median document; lines: 1% to 99% of documents",
    )
    yield Section(
        "How the documents spread",
        "What the documents of this corpus show on each vector. A vector with a short line tells "
        "them apart least; documents at the end of a long one are far from the others. All numbers "
        "are in spread.csv.",
        (Exhibit("The median document, and the middle 98%", spread, done.spread),),
    )
    shown = done.ranking[done.ranking["rank"] <= SHOWN]
    yield Section(
        "Highest and lowest documents",
        "By the mean over a document; window is the highest mean over a window in it. The excerpt "
        "of a top document is that window, of a bottom one its beginning. More of them are in "
        "ranking.csv, all documents in scores.parquet.",
        tuple(
            Exhibit(emotion, table=own.drop(columns="emotion"))
            for emotion, own in shown.groupby("emotion", sort=False)
        ),
    )
