"""Write the documents and figures: the texts of report/text with what results/ holds.

    python -m report.build            README.md, report/README.md, report/appendix.md, tables, figures
    python -m report.build --check    write nothing; exit 1 and name each file that is stale

In a text, `{{ table NAME }}` is a generated Markdown block and `{{ top1 ... }}` a number, see `numbers`. A text
that states a measured number by hand is refused. Rows of the data set "demo" are for tests and stay out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from engine.records import check_results
from report import paper, qualitative
from report.engineering import make_content as engineering
from report.figures import is_current, write_figure
from report.numbers import Numbers
from report.task1.content import make_content as task1
from report.task2.content import make_content as task2
from utils import ROOT, ArgumentParser, UserError, cli, write_text

DOCUMENTS = {
    "README.md": "report/text/README.md",
    "report/README.md": "report/text/report.md",
    "report/appendix.md": "report/text/appendix.md",
}  # what is made -> of which text
FIGURES = "report/figures"
TASKS = {"task1": task1, "task2": task2, "engineering": engineering}  # what each task's results are made into
FIELD = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
# a number with decimals, or one of percent or points: measured, unless it is one of these
MEASURED = re.compile(r"(?<![\w.:/-])\d+\.\d+(?![\w.]*\))|(?<![\w.])\d+(?:\.\d+)? (?:%|points?\b)")
GIVEN = {
    "95 %",
    "90 %",
    "100 %",
    "5 %",
    "50 %",
    "2.6",
    "2.11",
    "3.11",
    "3.12",
    "0.1",
    "0.2",
    "0.25",
    "0.05",
    "0.5",
    "0.002",
    "0.0005",
    "0.001",
    "0.9",
    "1.25",
    "1.75",
}
NO_PROSE = re.compile(
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)|<!--.*?-->|\{\{.*?\}\}|^## References.*",
    re.DOTALL | re.MULTILINE,
)


def main(argv: list[str] | None = None, root: Path = ROOT) -> None:
    parser = ArgumentParser(
        prog="python -m report.build",
        description="Make the documents, tables and figures from report/text and results/.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is stale")
    check = parser.parse_args(argv).check
    check_results(root / "results")
    contents = {task: make_content(root) for task, make_content in TASKS.items()}
    numbers = Numbers({task: content.settings for task, content in contents.items()}, root / "results")
    texts, blocks = {}, paper.make_tables(numbers)
    figures = {**paper.make_figures(numbers), **qualitative.make_figures(root)}
    for task, content in contents.items():
        texts |= content.texts
        figures |= content.figures
        blocks |= content.blocks(task)
    for name, source in DOCUMENTS.items():
        if not (root / source).is_file():
            raise UserError(f"{source} is missing: restore it from git")
        text = (root / source).read_text(encoding="utf-8")
        texts[name] = f"<!-- made from {source} by python -m report.build: edit that one -->\n" + fill(
            text, blocks, numbers, source
        )
    stale = []
    for name, text in texts.items():
        path = root / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                write_text(path, text)
    for name, (draw, data, title) in figures.items():
        if not is_current(draw, [title, data], root / FIGURES / name):
            stale.append(f"{FIGURES}/{name}")
            if not check:
                write_figure(draw, [title, data], root / FIGURES / name)
    for path in sorted((root / FIGURES).glob("*.png")):
        if path.name not in figures:
            stale.append(f"{FIGURES}/{path.name} (no results for it)")
            if not check:
                path.unlink()
    for name in stale:
        print(f"{name} is not what results/ gives" if check else f"updated {name}", file=sys.stderr)
    if check and stale:
        print("run `python -m report.build` and commit what it writes", file=sys.stderr)
        sys.exit(1)
    print(f"{sum(content.rows for content in contents.values())} rows, {len(figures)} figures: up to date")


def fill(text: str, blocks: dict[str, str], number: Callable[[str], str], name: str) -> str:
    """The text with blocks and numbers in their places.

    Raises:
        UserError: a field that nothing gives, or a measured number that stands in the text by hand; both with
            file and line.
    """
    typed = [match for match in MEASURED.finditer(NO_PROSE.sub(_blank, text)) if match[0] not in GIVEN]
    if typed:
        line = text.count("\n", 0, typed[0].start()) + 1
        raise UserError(
            f"{name}:{line}: {typed[0][0]!r} is typed by hand: let a program fill it, such as "
            f"{{{{ top1 48px-quarter ours mean }}}}"
        )

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

    return FIELD.sub(value, text)


def _blank(match: re.Match) -> str:
    """As many characters and lines, without what they say."""
    return re.sub(r"[^\n]", " ", match[0])


if __name__ == "__main__":
    cli(main)
