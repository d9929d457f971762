"""What a task gives the documents."""
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from report.results_file import ResultsFile


class Content(NamedTuple):
    """Everything that is generated from one task's results."""
    rows: int                    # of the results file
    texts: dict[str, str]        # file, relative to the repository -> its text
    figures: dict[str, tuple]    # file name TASK_KIND_TIER_DATASET.png -> (drawing function, data, title)
    blocks: dict[str, str]       # name of a block in the documents -> Markdown


def figure_blocks(task: str, kinds: tuple[str, ...], figures: dict[str, tuple]) -> dict[str, str]:
    """Block TASK-figure-KIND -> links, relative to report/: only report/README.md may hold them; "" without a figure."""
    links: dict[str, list[str]] = {}
    for name in figures:
        links.setdefault(name.split("_")[1], []).append(f"![{name[:-4].replace('_', ' ')}](figures/{name})")
    return {f"{task}-figure-{kind}": "\n\n".join(links.get(kind, [])) for kind in kinds}


def published_rows(results: ResultsFile, path: Path) -> list[dict]:
    """Every row but those of the "demo" data set; none when there is no results file yet."""
    return [row for row in results.read(path) if row["dataset"] != "demo"] if path.exists() else []
