"""Convert sets of channels from and to text. The channels themselves are declared in bands.txt (data/lists.py)."""

from __future__ import annotations

from channelset import Channels, some_subsets
from utils import UserError


def parse_subset(text: str, channels: Channels | tuple[str, ...]) -> tuple[int, ...]:
    """Return the channel ids of a subset, in the order of the text.

    Examples: "RG", "B04,665nm", "all" for all channels, and "all-B10,B12" for all channels except these two.

    Raises:
        UserError: a channel is empty, unknown or repeated.
    """
    channels = Channels(channels)
    if not isinstance(text, str):
        raise UserError(f'channel subset {text!r}: give it as text, such as "RG" or "B04,B03"')
    try:
        if text.startswith("all-") and text not in channels.names:
            without = channels.ids(text.removeprefix("all-"))
            return tuple(channels.ids([i for i in range(len(channels)) if i not in without]))
        return tuple(channels.ids(None if text == "all" else text))
    except ValueError as error:
        raise UserError(f"channel subset {text!r}: {error}") from error


def parse_subsets(text: str, channels: Channels | tuple[str, ...]) -> list[tuple[int, ...]]:
    """Return several subsets, each as ascending ids, from a text such as "RGB RG R" with spaces between subsets.

    The word "every" means all 2^C - 1 subsets, or for many channels the subsets of `some_subsets`.

    Raises:
        UserError: see `parse_subset`; or a subset is named twice.
    """
    channels = Channels(channels)
    words = text.split()
    subsets = [tuple(sorted(parse_subset(word, channels))) for word in words if word != "every"]
    if not words:
        raise UserError("no channel subset given; try --subsets every")
    for i, subset in enumerate(subsets):
        if subset in subsets[:i]:
            raise UserError(
                f"channel subset {subset_name(subset, channels.names)} is named twice in {text!r}"
            )
    every = some_subsets(len(channels)) if "every" in words else []
    return every + [subset for subset in subsets if subset not in every]


def parse_shares(text: str | None, channels: Channels | tuple[str, ...]) -> dict[tuple[int, ...], float]:
    """Return a dict from each set of ids to its share of the images, for a text such as "RGB:0.5 R:0.1".

    Raises:
        UserError: see `parse_subset`; or a share is not a number from 0 to 1, or the sum of shares is above 1.
    """
    shares = {}
    for part in (text or "").split():
        subset, colon, share = part.rpartition(":")
        if not colon:
            raise UserError(f"--set-shares {part!r}: write SET:SHARE, such as all:0.25")
        ids = tuple(sorted(parse_subset(subset, channels)))
        try:
            shares[ids] = shares.get(ids, 0) + float(share)
        except ValueError:
            raise UserError(
                f"--set-shares {part!r}: {share!r} is not a number; write SET:SHARE, such as all:0.25"
            ) from None
    if not all(0 <= share <= 1 for share in shares.values()) or sum(shares.values()) > 1:
        raise UserError(f"--set-shares {text!r}: each share must be at least 0, and their sum at most 1")
    return shares


def subset_name(ids: tuple[int, ...], names: tuple[str, ...]) -> str:
    """Return the name of a set: "RG" for (0, 1).

    Names of several letters are joined with commas. If there are more than four channels, the set of all is "all", and
    the set of all but one is "all-B10".
    """
    if all(len(name) == 1 for name in names):
        return "".join(names[i] for i in ids)
    missing = [name for i, name in enumerate(names) if i not in ids]
    if len(names) > 4 and len(missing) < 2:
        return "all" if not missing else f"all-{missing[0]}"
    return ",".join(names[i] for i in ids)
