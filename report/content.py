"""What a task gives the documents."""

from __future__ import annotations

from typing import NamedTuple

NO_RESULTS = "No results yet: run `{command}`, then `python -m report.build`."


class Content(NamedTuple):
    """Everything that is generated from one task's results."""

    rows: int  # of the results file
    texts: dict[str, str]  # file, relative to the repository -> its text
    figures: dict[str, tuple]  # file name TASK_KIND_PRESET_DATASET.png -> (drawing function, data, title)
    tables: dict[str, str]  # name of a block in the documents -> Markdown
    kinds: tuple[str, ...]  # of figures, each a block
    no_results: str  # what a block without any says
    settings: list  # `report.compare.Setting`s of the task

    def blocks(self, task: str) -> dict[str, str]:
        """Name of a block -> Markdown. TASK-figure-KIND are links, relative to report/: for documents there alone."""
        links: dict[str, list[str]] = {}
        for name in self.figures:
            links.setdefault(name.split("_")[1], []).append(
                f"![{name[:-4].replace('_', ' ')}](figures/{name})"
            )
        shown = {
            f"{task}-figure-{kind}": "\n\n".join(links.get(kind, [])) or self.no_results
            for kind in self.kinds
        }
        return {**self.tables, **shown}
