"""Sets of channels as text: what a command line says, and what tables call them."""

from __future__ import annotations

from channelset import Channels, some_subsets
from utils import UserError


def parse_subset(text: str, channels: Channels | tuple[str, ...]) -> tuple[int, ...]:
    """Channel ids of a subset, in the order of the text: "RG", "B04,665nm", "all" of the channels or
    "all-B10,B12", all but these.

    Raises:
        UserError: empty, unknown or repeated channel.
    """
    known = Channels(channels)
    try:
        if text.startswith("all-") and text not in known.names:
            without = known.ids(text.removeprefix("all-"))
            return tuple(known.ids([i for i in range(len(known)) if i not in without]))
        return tuple(known.ids(None if text == "all" else text))
    except ValueError as error:
        raise UserError(f"channel subset {text!r}: {error}") from error


def parse_subsets(text: str, channels: Channels | tuple[str, ...]) -> list[tuple[int, ...]]:
    """Several subsets, the ids of each ascending: a list such as "RGB RG R" (spaces between subsets), in which
    "every" stands for all 2^C - 1, of many channels those of `some_subsets`.

    Raises:
        UserError: as `parse_subset`, or a subset named twice.
    """
    known = Channels(channels)
    words = text.split()
    subsets = [tuple(sorted(parse_subset(word, known))) for word in words if word != "every"]
    if not words:
        raise UserError("no channel subset given; try --subsets every")
    for i, subset in enumerate(subsets):
        if subset in subsets[:i]:
            raise UserError(f"channel subset {subset_name(subset, known.names)} is named twice in {text!r}")
    every = some_subsets(len(known)) if "every" in words else []
    return every + [subset for subset in subsets if subset not in every]


def parse_shares(text: str | None, channels: Channels | tuple[str, ...]) -> dict[tuple[int, ...], float]:
    """Sets of ids -> share of the images: "RGB:0.5 R:0.1".

    Raises:
        UserError: as `parse_subset`, or a share that is no number from 0, or shares above 1 in all.
    """
    shares = {}
    for part in (text or "").split():
        subset, _, share = part.rpartition(":")
        ids = tuple(sorted(parse_subset(subset, channels)))
        try:
            shares[ids] = shares.get(ids, 0) + float(share)
        except ValueError:
            raise UserError(
                f"--set-shares {part!r}: {share!r} is no number; write SET:SHARE, such as all:0.25"
            ) from None
    if not all(0 <= share <= 1 for share in shares.values()) or sum(shares.values()) > 1:
        raise UserError(f"--set-shares {text!r}: shares are at least 0 and at most 1 in all")
    return shares


def subset_name(ids: tuple[int, ...], names: tuple[str, ...]) -> str:
    """ "RG" for (0, 1); names longer than one letter are joined with commas, all of them are "all", and all
    but one "all-B10".
    """
    if all(len(name) == 1 for name in names):
        return "".join(names[i] for i in ids)
    missing = [name for i, name in enumerate(names) if i not in ids]
    if len(names) > 4 and len(missing) < 2:
        return "all" if not missing else f"all-{missing[0]}"
    return ",".join(names[i] for i in ids)
