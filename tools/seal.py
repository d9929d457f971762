"""Add checksums to results from an older version: python -m tools.seal [FOLDER]

A record without checksums gets checksums if its test metrics agree with its predictions. A measured file, such as
speed.csv, is added to SHA256SUMS if it is not listed there. A file that has a checksum is only checked. A damaged file
is reported and gets no new checksum. The checksums show that nothing changed after this command ran. They cannot show
that nothing changed before.
"""

from __future__ import annotations

import math
from pathlib import Path

from engine.records import (
    SECTIONS,
    SINGLE,
    SUMS,
    RunFiles,
    check_file,
    check_predictions,
    check_results,
    load_records,
    note_checksums,
    read_predictions,
    read_sums,
    save_record,
)
from metrics.accuracy import classification_metrics
from utils import ROOT, ArgumentParser, UserError, cli

MEASURED = ("fill_error.csv", "qualitative.json", "robustness.csv", "speed.csv")


def seal_records(folder: Path, task: str) -> int:
    """Add checksums to the records of a task; return the number of records that had no checksums.

    Raises:
        UserError: a record does not agree with its predictions.
    """
    sealed = 0
    for name, record in load_records(folder, task).items():
        files = RunFiles(folder, task, name)
        check_predictions(files, record)
        if "checksums" in record:
            continue
        for row in record["splits"].get("test", []):
            predictions = read_predictions(files.predictions)
            answers = predictions.by_column[row.get("subset", SINGLE)]
            classes = 1 + max(answers.max(), predictions.labels.max())
            for key, value in classification_metrics(predictions.labels, answers, classes).items():
                recorded = row.get(key, math.nan)
                if not abs(value - recorded) < 1e-9:
                    raise UserError(
                        f"{files.record}: {key} is {recorded}, but its predictions give {value}: evaluate the "
                        "model again"
                    )
        save_record(files, record)
        sealed += 1
    return sealed


def seal_files(folder: Path) -> int:
    """Add to SHA256SUMS each measured file that it does not list yet; return the number of added files."""
    files = [folder / name for name in MEASURED if (folder / name).is_file()]
    for file in files:
        check_file(file, folder)
    new = [file for file in files if file.name not in read_sums(folder / SUMS)]
    if new:
        note_checksums(*new)
    return len(new)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m tools.seal", description=__doc__)
    parser.add_argument("folder", nargs="?", default=str(ROOT / "results"), help="folder of results")
    folder = Path(parser.parse_args(argv).folder)
    if not any(folder.rglob(SUMS)) and not any(folder.glob("*/runs/*.json")):
        raise UserError(f"{folder} holds no results: name the folder that holds task1/ or task2/")
    records = sum(seal_records(folder, task) for task in SECTIONS)
    files = seal_files(folder)
    check_results(folder)
    print(f"{records} records and {files} files got checksums; all results agree with their checksums")


if __name__ == "__main__":
    cli(main)
