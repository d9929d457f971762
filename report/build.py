"""Put what results/ holds into the documents: every generated Markdown block and every figure.

    python -m report.build            write blocks and figures
    python -m report.build --check    write nothing; exit 1 and name each stale block or figure

A block lies between `<!-- generated:NAME -->` and `<!-- end -->`; everything outside the blocks is prose.
Rows of the data set "demo" are for tests and stay out.
"""
from __future__ import annotations

import re
import sys
from pathlib import Path

from report.figures import is_current, write_figure
from report.engineering import make_content as engineering
from report.task1.content import make_content as task1
from report.task2.content import make_content as task2
from utils import ROOT, ArgumentParser, UserError, cli, write_text

DOCUMENTS = ("README.md", "report/README.md")
FIGURES = "report/figures"
TASKS = {"task1": task1, "task2": task2, "engineering": engineering}   # what each task's results are made into
BLOCK = re.compile(r"(<!-- generated:(\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def main(argv: list[str] | None = None, root: Path = ROOT) -> None:
    parser = ArgumentParser(description="Regenerate the tables and figures of the documents from results/.")
    parser.add_argument("--check", action="store_true",
                        help="write nothing; exit 1 when a table or figure is stale")
    check = parser.parse_args(argv).check
    contents = {task: make_content(root) for task, make_content in TASKS.items()}
    texts, figures, blocks = {}, {}, {}
    for task, content in contents.items():
        texts |= content.texts
        figures |= content.figures
        blocks |= content.blocks(task)
    for name in DOCUMENTS:
        if not (root / name).is_file():
            raise UserError(f"{name} is missing: restore it from git")
        texts[name] = fill((root / name).read_text(encoding="utf-8"), blocks, name)
    stale = []
    for name, text in texts.items():
        path = root / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            changed = changed_blocks(path.read_text(encoding="utf-8"), blocks) if name in DOCUMENTS else []
            stale.append(name + f" ({', '.join(changed)})" * bool(changed))
            if not check:
                write_text(path, text)
    for name, (draw, data, title) in figures.items():
        if not is_current(root / FIGURES / name, [title, data]):
            stale.append(f"{FIGURES}/{name}")
            if not check:
                write_figure(draw, [title, data], root / FIGURES / name)
    for path in sorted((root / FIGURES).glob("*.png")):
        if path.name.split("_")[0] in TASKS and path.name not in figures:
            stale.append(f"{FIGURES}/{path.name} (no results for it)")
            if not check:
                path.unlink()
    for name in stale:
        print(f"{name} is not what results/ gives" if check else f"updated {name}", file=sys.stderr)
    if check and stale:
        print("run `python -m report.build` and commit what it writes", file=sys.stderr)
        sys.exit(1)
    print(f"{sum(content.rows for content in contents.values())} rows, {len(figures)} figures: up to date")


def fill(document: str, blocks: dict[str, str], name: str) -> str:
    """The document with each block's text replaced.

    Raises:
        UserError: a block without an end, or with a name that nothing generates.
    """
    for match in BLOCK.finditer(document):
        line = document.count("\n", 0, match.start()) + 1
        if match[2] not in blocks:
            raise UserError(f"{name}:{line}: unknown block {match[2]!r}; known: {', '.join(blocks)}")
        if "<!-- generated:" in match[3]:
            raise UserError(f"{name}:{line}: block {match[2]!r} has no <!-- end -->")
    if document.count("<!-- generated:") != len(BLOCK.findall(document)):
        raise UserError(f"{name}: the last block has no <!-- end -->, or its opening line is malformed")
    return BLOCK.sub(lambda match: f"{match[1]}{blocks[match[2]]}\n{match[4]}", document)


def changed_blocks(document: str, blocks: dict[str, str]) -> list[str]:
    return [name for _, name, text, _ in BLOCK.findall(document) if text != blocks[name] + "\n"]


if __name__ == "__main__":
    cli(main)
