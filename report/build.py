"""Put what results/ holds into the documents: every generated Markdown block and every figure.

    python -m report.build            write blocks and figures
    python -m report.build --check    write nothing; exit 1 and name each stale block or figure

A block lies between `<!-- generated:NAME -->` and `<!-- end -->`; everything outside the blocks is prose.
Rows of the data set "demo" are for tests and stay out.
"""
from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from report.analysis import ABLATION_COLUMNS, STATS_COLUMNS, ablations, compare_models, to_csv
from report.figure_data import make_figures
from report.figures import is_current, write_figure
from report.rows import SPECIALISTS, read_rows
from report.tables import ablation_table, channel_table, cost_table, detail_table, stats_table
from utils import ROOT, ArgumentParser, UserError, cli, write_text

RESULTS = "results/task1_channels.csv"
DOCUMENTS = ("README.md", "report/README.md")
FIGURES = "report/figures"
FIGURE_KINDS = ("channels", "map", "cost", "retention", "curves", "length", "kernels", "classes", "confusion")
NO_RESULTS = "No results yet: run `python train_task1.py`, then `python -m report.build`."
BLOCK = re.compile(r"(<!-- generated:(\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def main(argv: list[str] | None = None, root: Path = ROOT) -> None:
    parser = ArgumentParser(description="Regenerate the tables and figures of the documents from results/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a table or figure is stale")
    check = parser.parse_args(argv).check
    rows, records = load_rows(root), load_records(root)
    statistics, variants = compare_models(rows, root / "results"), ablations(rows, root / "results")
    figures = make_figures(rows, records, root / "results")
    texts = {"results/task1_stats.csv": to_csv(statistics, STATS_COLUMNS),
             "results/task1_ablations.csv": to_csv(variants, ABLATION_COLUMNS)} if rows else {}
    blocks = make_blocks(rows, records, statistics, variants, list(figures))
    for name in DOCUMENTS:
        if not (root / name).is_file():
            raise UserError(f"{name} is missing: restore it from git")
        texts[name] = fill((root / name).read_text(encoding="utf-8"), blocks, name)
    stale = []
    for name, text in texts.items():
        path = root / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name + (f" ({', '.join(changed_blocks(path.read_text(encoding='utf-8'), blocks))})" if name in DOCUMENTS else ""))
            if not check:
                write_text(path, text)
    for name, (draw, data, title) in figures.items():
        if not is_current(root / FIGURES / name, [title, data]):
            stale.append(f"{FIGURES}/{name}")
            if not check:
                write_figure(draw, [title, data], root / FIGURES / name)
    for path in sorted((root / FIGURES).glob("task1_*.png")):
        if path.name not in figures:
            stale.append(f"{FIGURES}/{path.name} (no results for it)")
            if not check:
                path.unlink()
    for name in stale:
        print(f"{name} is not what {RESULTS} gives" if check else f"updated {name}", file=sys.stderr)
    if check and stale:
        print("run `python -m report.build` and commit what it writes", file=sys.stderr)
        sys.exit(1)
    print(f"{len(rows)} rows, {len(figures)} figures: up to date")


def load_rows(root: Path) -> list[dict]:
    """Every row but those of the "demo" data set; none when there is no results file yet."""
    path = root / RESULTS
    return [row for row in read_rows(path) if row["dataset"] != "demo"] if path.exists() else []


def load_records(root: Path) -> dict[tuple, dict]:
    """(tier, dataset, image_size, model, seed) -> the record that eval_channels.py wrote.

    Raises:
        UserError: a record is no JSON of that kind; names the file.
    """
    records = {}
    for path in sorted((root / "results" / "runs").glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            records[tuple(record[key] for key in ("tier", "dataset", "image_size", "model", "seed"))] = record
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no record of an evaluation ({error}): evaluate the model again or delete the file") from error
    return records


def make_blocks(rows: list[dict], records: dict, statistics: list[dict], variants: list[dict], figures: list[str]) -> dict[str, str]:
    """Block name -> Markdown. Image links are relative to report/, so only report/README.md may hold them."""
    detailed = sorted({row["model"] for row in rows if row["role"] in ("ours", "baseline")}) + [SPECIALISTS]
    train_s = {key: record["train_s"] for key, record in records.items()}
    links = {}
    for name in figures:
        links.setdefault(name.split("_")[1], []).append(f"![{name[:-4].replace('_', ' ')}](figures/{name})")
    blocks = {"task1-channels": channel_table(rows), "task1-detail": detail_table(rows, detailed),
              "task1-cost": cost_table(rows, train_s), "task1-stats": stats_table(statistics), "task1-ablations": ablation_table(variants),
              **{f"task1-figure-{kind}": "\n\n".join(links.get(kind, [])) for kind in FIGURE_KINDS}}
    return {name: text or NO_RESULTS for name, text in blocks.items()}


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
