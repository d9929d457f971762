"""Write the documents and figures from the texts in report/text and the results in results/.

    python -m report.build            write README.md, report/README.md, report/appendix.md, tables, figures
    python -m report.build --check    write nothing; exit 1 and name each file that is not up to date

Both commands check the claims of the texts (report/claims.py). If the results do not support a claim, the commands name
it and exit with 1.

In a text, `{{ table NAME }}` is replaced by a block, which is a generated piece of Markdown. `{{ top1 ... }}` and
similar expressions are replaced by numbers, see report/numbers.py. Results of the data set "demo" are for tests and are
left out. A setting is a group of results with the same preset, data set and image size.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from engine.records import TABLES, check_results
from report import appendix_tables, bands, charts, engineering, paper, qualitative
from report.claims import broken_claims
from report.compare import CSV_FILES, csv_of
from report.engineering import NO_RESULTS
from report.figures import Chart
from report.numbers import Numbers
from report.results import load_settings
from storage.files import write_text
from utils import ROOT, ArgumentParser, UserError, cli

DOCUMENTS = {
    "README.md": "report/text/README.md",
    "report/README.md": "report/text/report.md",
    "report/appendix.md": "report/text/appendix.md",
}  # name of a document -> file with its source text
FIGURES = "report/figures"
COMMANDS = {
    "task1": "python train_task1.py",
    "task2": "python experiments.py task2",
}  # task -> command that produces its first results
FIELD = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
# tables that are made from the records
MADE = [f"results/{task}/{name}" for task, files in CSV_FILES.items() for name in (TABLES[task], *files)]


class Collected(NamedTuple):
    """Hold everything that is made from the results."""

    texts: dict[str, str]  # path of a file, relative to the repository -> its text
    charts: dict[str, Chart]  # file name in report/figures -> its chart
    blocks: dict[str, str]  # name of a block -> its Markdown
    numbers: Numbers  # computes the numbers in the texts


def collect(root: Path) -> Collected:
    """Collect everything that is made from the results below `root`.

    A block TASK-figure-KIND holds links relative to report/, so only documents in report/ can use this block.

    Raises:
        UserError: a file in results/ is malformed.
    """
    texts, drawn, blocks, settings = {}, {}, {}, []
    for task, command in COMMANDS.items():
        table, of_task = load_settings(root, task)
        settings += of_task
        usual = [one for one in of_task if not bands.is_other(one)]
        thirteen = [one for one in of_task if bands.is_other(one) and one.dataset == bands.BANDS]
        texts |= table
        if usual:
            texts |= {f"results/{task}/{name}": csv_of(usual, *how) for name, how in CSV_FILES[task].items()}
        charts_of_task: dict[str, Chart] = {}
        for setting in usual:
            charts_of_task |= charts.make_charts(setting)
        for setting in thirteen:
            charts_of_task |= bands.make_charts(setting)
        made = {name: _joined(map(make, usual)) for name, make in appendix_tables.TABLES[task].items()}
        if task == "task1":
            made["task1-extra"] = bands.extra_table(of_task)
            made |= {name: _joined(map(make, thirteen)) for name, make in bands.TABLES.items()}
        for kind in charts.KINDS[task]:
            names = [name for name in charts_of_task if name.split("_")[1] == kind]
            made[f"{task}-figure-{kind}"] = _joined(
                f"![{name[:-4].replace('_', ' ')}](figures/{name})" for name in names
            )
        blocks |= {name: text or NO_RESULTS.format(command=command) for name, text in made.items()}
        drawn |= charts_of_task
    numbers = Numbers(settings, root / "results")
    return Collected(
        texts,
        {**paper.make_charts(numbers), **qualitative.make_charts(root), **drawn},
        {**paper.make_tables(numbers), **engineering.make_tables(root), **blocks},
        numbers,
    )


def _joined(parts: Iterable[str]) -> str:
    """Join all tables or figures that are not empty."""
    return "\n\n".join(filter(None, parts))


def main(argv: list[str] | None = None, root: Path = ROOT) -> None:
    parser = ArgumentParser(
        prog="python -m report.build",
        description="Make the documents, tables and figures from report/text and results/.",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a file is not up to date"
    )
    check = parser.parse_args(argv).check
    check_results(root / "results")
    collected = collect(root)
    texts, broken = collected.texts, []
    for name, source in DOCUMENTS.items():
        text = (root / source).read_text(encoding="utf-8")
        texts[name] = f"<!-- made from {source} by python -m report.build: edit that file -->\n" + fill(
            text, collected.blocks, collected.numbers, source
        )
        broken += broken_claims(text, collected.numbers, source)
    stale: dict[str, Callable[[], object]] = {}  # name of a file -> function that brings it up to date
    for name, text in texts.items():
        path = root / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale[name] = partial(write_text, path, text)
    for name, chart in collected.charts.items():
        if not chart.is_current(root / FIGURES / name):
            stale[f"{FIGURES}/{name}"] = partial(chart.write, root / FIGURES / name)
    drawn = sorted((root / FIGURES).glob("*.png"))
    left_over = [path for path in drawn if path.name not in collected.charts]
    left_over += [root / name for name in MADE if name not in texts and (root / name).is_file()]
    for path in left_over:
        stale[f"{path.relative_to(root).as_posix()} (no results for it)"] = path.unlink
    for name, mend in stale.items():
        if not check:
            mend()
        print(f"{name} does not match results/" if check else f"updated {name}", file=sys.stderr)
    if check and stale:
        print("run `python -m report.build` and commit the files it writes", file=sys.stderr)
    for message in broken:
        print(message, file=sys.stderr)
    if broken or (check and stale):
        sys.exit(1)
    rows = sum(len(setting.rows) for setting in collected.numbers.settings)
    print(f"{rows} rows, {len(collected.charts)} figures: up to date")


def fill(text: str, blocks: dict[str, str], number: Callable[[str], str], name: str) -> str:
    """Replace each field `{{ ... }}` of a text by a block or a number.

    Args:
        text: text with fields.
        blocks: a dict from the name of a block to its Markdown.
        number: a function that returns the number for the words of a field.
        name: file of the text, for error messages.

    Raises:
        UserError: a field is unknown or not closed; the message names file and line.
    """

    def value(match: re.Match) -> str:
        kind, _, rest = " ".join(match[1].split()).partition(" ")
        try:
            if kind != "table":
                return number(f"{kind} {rest}".strip())
            if rest not in blocks:
                raise UserError(f"unknown table {rest!r}; known: {', '.join(sorted(blocks))}")
            return blocks[rest]
        except UserError as error:
            line = text.count("\n", 0, match.start()) + 1
            raise UserError(f"{name}:{line}: {error}") from error

    rest = FIELD.sub(lambda match: re.sub(".", "", match[0]), text)
    if broken := re.search(r"\{\{|\}\}", rest):
        line = rest.count("\n", 0, broken.start()) + 1
        raise UserError(f"{name}:{line}: {broken[0]} does not belong to a field: write {{{{ ... }}}}")
    return FIELD.sub(value, text)


if __name__ == "__main__":
    cli(main)
