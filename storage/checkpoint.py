"""Save and load checkpoints; a file that is not a checkpoint causes an error that gives the reason."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from storage.files import atomic_path
from utils import UserError, check_name, check_ranges, option_fields

CONTENT = {  # kind of a checkpoint -> its required keys
    "training-state": "config digest environment world step seconds loss_sum model ema optimizer torch_rng",
    "model": "config dataset environment train_s state",
}
# options that "config" of every checkpoint must hold
TRAINED_WITH = "name preset seed image_size epochs width"
# kind of a checkpoint -> dataclass of its training's options; config.py fills it
OPTIONS: dict[str, type] = {}


def save_checkpoint(path: str | Path, state: dict) -> None:
    """Save `state` with `torch.save`. If the save fails or is interrupted, the old file stays."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: str | Path, kind: str | tuple[str, ...]) -> dict:
    """Load a checkpoint of this project. It may hold tensors and plain values, but no other pickled objects.

    Args:
        path: the file.
        kind: the kind that the caller expects, such as "task1-model", or several kinds.

    Raises:
        UserError: the file is missing, damaged, unsafe, not of this project, or a checkpoint of another kind.
    """
    path, kinds = Path(path), (kind,) if isinstance(kind, str) else kind
    if not path.is_file():
        hint = ": check the path, or train the network first"
        if path.is_dir():
            hint = " (it is a folder: name the .pt file in it)"
        elif path.with_name("last.pt").is_file():
            hint = f": the training in {path.parent} is not finished; continue it with --resume --out {path.parent}"
        raise UserError(f"no checkpoint at {path}{hint}")
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums, but does not compare them
            # torch writes only uncompressed parts, but would decompress the parts of any file
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its parts are compressed")
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"{damaged} was changed")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types of errors for damaged files
        raise UserError(
            f"{path} is not a readable checkpoint ({type(error).__name__}): it is truncated, "
            "or not written by this project. Train again or copy the file again."
        ) from error
    actual = state.get("kind") if isinstance(state, dict) else None
    if actual not in kinds:
        raise UserError(
            f"{path} is {f'a {actual!r} checkpoint' if actual else 'not a checkpoint of this project'}; "
            f"expected {' or '.join(map(repr, kinds))}. Name the file that the matching training script wrote."
        )
    missing = [key for key in CONTENT.get(actual, CONTENT["model"]).split() if state.get(key) is None]
    missing = missing or [f"config {key}" for key in TRAINED_WITH.split() if key not in state["config"]]
    if missing:
        raise UserError(
            f"{path} has no {', '.join(missing)}: it was written by another version, or changed. Train again."
        )
    broken = _not_finite(state)
    if broken:
        raise UserError(
            f"{path} holds values that are not finite ({broken}): the training diverged, or the file is damaged. "
            f"Train again, with a lower --lr."
        )
    for key, part in (("name", "config"), ("preset", "config"), ("name", "dataset")):
        if part in state:
            check_name(state[part].get(key), f"{path}: {part} {key}")
    if actual in OPTIONS:
        check_options(state["config"], OPTIONS[actual], path)
    return state


def check_options(config: Mapping, cls: type, path: str | Path) -> None:
    """Check the choices and ranges of the options in a checkpoint.

    Options that the dataclass `cls` does not have come from another version and are ignored.

    Raises:
        UserError: an option is wrong; the message names it and the file `path`.
    """
    fields = {field.name: field for field in option_fields(cls)}
    options = {name: value for name, value in config.items() if name in fields}
    for name, value in options.items():
        choices = fields[name].metadata["choices"]
        if choices and value not in (*choices, fields[name].default):
            raise UserError(
                f"{path} holds an option that this version does not know: --{name.replace('_', '-')} is "
                f"{value!r:.60}. Use the file with the version that wrote it."
            )
    try:
        check_ranges(cls(**options))
    except UserError as error:
        raise UserError(f"{path} was changed: its option {error}. Train again.") from error


def brief(error: Exception) -> str:
    """Return the beginning of a message that may have many lines."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])[:300]


def _not_finite(value, name: str = "") -> str:
    """Return the name of the first tensor, also in nested containers, that holds NaN or infinity; else ""."""
    if isinstance(value, torch.Tensor):
        return name if value.is_floating_point() and not value.isfinite().all() else ""
    items = value.items() if isinstance(value, Mapping) else ()
    items = enumerate(value) if isinstance(value, (list, tuple)) else items
    return next(filter(None, (_not_finite(item, f"{name}.{key}".lstrip(".")) for key, item in items)), "")
