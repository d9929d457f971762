"""Publish a trained network: copy its checkpoint, without the paths of this machine, to results/weights/NAME/model.pt.

    python -m tools.weights runs/NAME/model.pt any-channels
    python eval_channels.py results/weights/any-channels/model.pt      # evaluates the published network again

Only networks with a record in results/ are published. So everybody can evaluate the network and compare the answers
with the record.
"""

from __future__ import annotations

from pathlib import Path

from engine.evaluation import PLACES, training_in, training_of
from engine.records import load_records, note_checksums
from storage.checkpoint import load_checkpoint, save_checkpoint
from utils import ROOT, ArgumentParser, UserError, check_name, cli

MOST_BYTES = 20_000_000
WEIGHTS = "weights"  # folder of results/
KINDS = ("task1-model", "task2-model")


def record_of(checkpoint: dict, folder: Path) -> str:
    """Return the name of the record in which the network of a checkpoint is evaluated as it was trained.

    Raises:
        UserError: the folder has no such record.
    """
    task = checkpoint["kind"].removesuffix("-model")
    for name, record in load_records(folder, task).items():
        if training_in(record) == training_of(checkpoint) and not record["test"]:
            return name
    raise UserError(
        f"{folder}/{task}/runs has no record of this training: evaluate it with --results {folder}"
    )


def publish(path: Path, name: str, folder: Path) -> Path:
    """Copy the checkpoint `path` to folder/weights/name/model.pt and return the path of the copy.

    Raises:
        UserError: the checkpoint has no record, is too large, or its training used another network; or `name` holds
            another network.
    """
    checkpoint = load_checkpoint(path, KINDS)
    record_of(checkpoint, folder)
    if path.stat().st_size > MOST_BYTES:
        raise UserError(
            f"{path} has {path.stat().st_size / 1e6:.0f} MB; at most {MOST_BYTES / 1e6:.0f} MB are published"
        )
    config = checkpoint["config"]
    if config.get("teacher") or config.get("init_from"):
        raise UserError(
            f"{path} holds the path of the network that its training used: publish a network trained from scratch"
        )
    dropped = {*PLACES} - {"name"}
    target = folder / WEIGHTS / check_name(name, "the name") / "model.pt"
    if target.exists() and training_of(load_checkpoint(target, KINDS)) != training_of(checkpoint):
        raise UserError(f"{target} holds another network: choose another name, or delete this file")
    save_checkpoint(
        target, {**checkpoint, "config": {key: value for key, value in config.items() if key not in dropped}}
    )
    note_checksums(target, folder=folder)
    return target


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m tools.weights", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="model.pt of a run")
    parser.add_argument("name", help="name of the folder in results/weights")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of results")
    args = parser.parse_args(argv)
    print(f"wrote {publish(args.checkpoint, args.name, args.results)}")


if __name__ == "__main__":
    cli(main)
