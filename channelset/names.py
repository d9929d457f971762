"""Convert channels given by index, name or wavelength into channel ids."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from typing import Any

UNSEEN = -1  # id of a channel that was not in the training data
TOLERANCE = 10.0  # nm, largest distance of a wavelength from its channel, unless half the bandwidth is larger


class Channels:
    """The known channels 0 .. C-1 of a stem, with their names and wavelengths, if given.

    Args:
        channels: a number C; or names, such as ("R", "G", "B"), "red,green,blue" or "RGB" (a name for each letter);
            or wavelengths in nm, as floats; or a mapping of names to wavelengths in nm, or to None if unknown. A
            mapping may also give (wavelength, bandwidth), as in `sensors.SENSORS`. Then a wavelength within half
            the bandwidth means the channel.

    Attributes:
        names: C strings; the ids if no names were given.
        wavelengths: C wavelengths in nm; None for an unknown wavelength.
        widths: C bandwidths in nm; None for an unknown bandwidth.

    Raises:
        ValueError: there is no channel; the channels are a set, which has no order; a name is empty, repeated or not
            text; or a wavelength is out of range.
    """

    names: tuple[str, ...]
    wavelengths: tuple[float | None, ...]
    widths: tuple[float | None, ...]

    def __init__(self, channels: int | Iterable[Any] | Mapping[str, Any] | Channels):
        channels = _plain(channels)
        if isinstance(channels, Channels):
            channels = channels.as_dict()
        _refuse_sets(channels)
        if isinstance(channels, bool) or not isinstance(channels, (int, Iterable)):
            raise ValueError(
                f"channels {channels!r}: give their number, their names or a mapping of names to nm"
            )
        if isinstance(channels, int):
            channels = [str(i) for i in range(channels)]
        if isinstance(channels, str) and "," in channels:
            channels = [name.strip() for name in channels.split(",")]
        items: list[tuple[Any, Any]]
        if isinstance(channels, Mapping):
            items = list(channels.items())
        else:
            given = [_plain(item) for item in channels]
            items = [(f"{x:.7g}nm", x) if isinstance(x, float) else (x, None) for x in given]
            if len({isinstance(x, float) for x in given}) > 1:
                raise ValueError(
                    f"channels {given}: name all of them, or give all as wavelengths; a mapping "
                    f"of names to nm does both"
                )
        if not items:
            raise ValueError("at least one channel is needed")
        names = [name for name, _ in items]
        for name in names:
            if not isinstance(name, str) or not name.strip():
                raise ValueError(
                    f"channel {name!r} is not a name: give text, such as 'B04', or a wavelength in nm as a float"
                )
            if names.count(name) > 1:
                raise ValueError(f"channel {name!r} is named twice")
        pairs = []
        for name, value in items:
            pair = value if isinstance(value, (tuple, list)) else (value, None)
            try:
                nm, width = (None if number is None else float(number) for number in pair)
            except (TypeError, ValueError, RuntimeError):
                raise ValueError(f"channel {name!r}: {pair} is not (wavelength, bandwidth) in nm") from None
            if (nm is not None and not 1 <= nm <= 1e9) or (width is not None and not 0 < width <= 1e9):
                raise ValueError(f"channel {name!r}: {pair}: a wavelength or bandwidth in nm is out of range")
            pairs.append((nm, width))
        self.names = tuple(names)
        self.wavelengths, self.widths = zip(*pairs)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return ", ".join(
            name if value is None or name.endswith("nm") else f"{name} {value:g}nm"
            for name, value in zip(self.names, self.wavelengths)
        )

    def chosen(self, ids: Iterable[int]) -> Channels:
        """Return the channels with these ids, in the order of the ids."""
        everything = list(self.as_dict().items())
        return Channels(dict(everything[i] for i in ids))

    def as_dict(self) -> dict[str, Any]:
        """Return a dict from names to wavelengths in nm or (wavelength, bandwidth), which the constructor accepts."""
        return {
            name: value if width is None else (value, width)
            for name, value, width in zip(self.names, self.wavelengths, self.widths)
        }

    def differs(self, other: Channels) -> str:
        """Describe how the names or wavelengths of `other` differ from those of this object; "" if they are equal."""
        if len(self) != len(other):
            return f"{len(other)} channels, not {len(self)}"
        if self.are_named and other.are_named and self.names != other.names:
            return f"the channels {', '.join(other.names)}, not {', '.join(self.names)}"
        for name, mine, theirs in zip(self.names, self.wavelengths, other.wavelengths):
            if mine is not None and theirs is not None and abs(mine - theirs) > 1e-6 * mine:
                return f"channel {name} at {theirs:g} nm, not {mine:g} nm"
        return ""

    @property
    def are_named(self) -> bool:
        """Return whether names or wavelengths were given, not only the number of channels."""
        return any(self.wavelengths) or self.names != tuple(str(i) for i in range(len(self)))

    def id_of(self, item: Any) -> int:
        """Return the id of one channel, given as an index, a name, "665nm" or a float (nm).

        Raises:
            ValueError: the channel is a bool or unknown; the message lists the known channels.
        """
        item = _plain(item)
        if isinstance(item, bool):
            raise ValueError(
                f"channel {item!r} is a bool, not an id: give ids as integers, or give a mask as `mask`"
            )
        if isinstance(item, str):
            if item in self.names:
                return self.names.index(item)
            if match := re.fullmatch(r"\s*(\d+\.?\d*)\s*nm\s*", item):
                return self._nearest(float(match[1]))
            raise ValueError(f"no channel {item!r}; the channels are {self!r}")
        try:
            return operator.index(item)  # under torch.compile it guards a symbolic integer
        except TypeError:
            pass
        try:
            wavelength = float(item)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"channel {item!r} is neither an id, a name nor a wavelength") from None
        return self._nearest(wavelength)

    def _nearest(self, wavelength: float) -> int:
        distances = [
            (abs(value - wavelength), i) for i, value in enumerate(self.wavelengths) if value is not None
        ]
        if not distances:
            raise ValueError(
                f"channel {wavelength:g}: a float is a wavelength in nm, but these channels have no "
                f"wavelengths; give names, or ids as integers"
            )
        reaches = [max(TOLERANCE, (width or 0.0) / 2) for width in self.widths]
        distance, nearest = min([pair for pair in distances if pair[0] <= reaches[pair[1]]] or distances)
        if not distance <= reaches[nearest]:
            raise ValueError(
                f"no channel within {reaches[nearest]:g} nm of {wavelength:g} nm; the nearest is "
                f"{self.names[nearest]} at {self.wavelengths[nearest]:g} nm"
            )
        return nearest

    def ids(self, channels: Any = None, unseen: bool = False) -> list[int]:
        """Return channel ids, in the order of `channels`.

        Args:
            channels: ids, names, wavelengths, or a mix; text such as "B04,B03" or, for one-letter names, "RG";
                None: all.
            unseen: whether `UNSEEN` (-1) is allowed.

        Raises:
            ValueError: there is no channel; a channel is a bool, unknown or repeated; or the channels are a set, which
                has no order.
        """
        if channels is None:
            return list(range(len(self)))
        _refuse_sets(channels)
        channels = _plain(channels)
        if isinstance(channels, str):
            channels = self._split(channels)
        ids = [self.id_of(item) for item in (channels if isinstance(channels, Iterable) else [channels])]
        if not ids:
            raise ValueError("at least one channel must be present")
        if UNSEEN in ids and not unseen:
            raise ValueError(
                "channel id -1 means a channel unseen in training; only fill rule 'luma_chroma' accepts it"
            )
        seen = [i for i in ids if i != UNSEEN]
        for i in seen:
            if not 0 <= i < len(self):
                hint = f" ({i}.0 is a wavelength)" if any(self.wavelengths) and i >= len(self) else ""
                raise ValueError(f"channel id {i} of {ids}: known ids are 0 to {len(self) - 1}{hint}")
        if len(set(seen)) < len(seen):
            twice = next(i for i in seen if seen.count(i) > 1)
            raise ValueError(f"channels {ids} repeat a channel: {self.names[twice]!r}")
        return ids

    def _split(self, text: str) -> list[str]:
        if text in self.names or text.strip().endswith("nm") and "," not in text:
            return [text]
        if "," in text or not all(len(name) == 1 for name in self.names):
            return [part.strip() for part in text.split(",")]
        return list(text)


def _plain(item: Any) -> Any:
    """Convert a number of numpy or torch to a Python number."""
    # torch.compile makes integers symbolic. Such an integer also has an `item`, but its result has no guards. With
    # `item`, torch would use a graph that was compiled for one list of ids for other lists, too
    if isinstance(item, int):
        return item
    return item.item() if hasattr(item, "item") and getattr(item, "ndim", 1) == 0 else item


def _refuse_sets(channels: Any) -> None:
    if isinstance(channels, (set, frozenset)):
        raise ValueError(
            f"channels {channels}: a Python set has no order, and the order says which channel is which; give a list"
        )
