"""Channels by index, name or wavelength: what a caller may say, turned into channel ids."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

UNSEEN = -1  # id of a channel that was not there in training
TOLERANCE = 10.0  # nm: how far a wavelength may lie from that of the channel it means


class Channels:
    """The known channels 0 .. C-1 of a stem, with their names and wavelengths where they have any.

    Args:
        channels: a number C; or names, such as ("R", "G", "B"); or wavelengths in nm, as floats; or a mapping
            of names to wavelengths in nm, None where one has none.

    Attributes:
        names: C strings; the ids where no names were given.
        wavelengths: C wavelengths in nm, or None for each.

    Raises:
        ValueError: no channel, a name that is empty, repeated or no text, or a wavelength out of range.
    """

    names: tuple[str, ...]
    wavelengths: tuple[float | None, ...]

    def __init__(self, channels: int | Iterable | Mapping):
        names: Sequence
        wavelengths: Sequence
        if isinstance(channels, bool):
            raise ValueError(f"channels {channels}: give their number, their names or their wavelengths")
        if isinstance(channels, int):
            names, wavelengths = [str(i) for i in range(channels)], [None] * max(channels, 0)
        elif isinstance(channels, Mapping):
            names, wavelengths = list(channels), list(channels.values())
        elif isinstance(channels, Channels):
            names, wavelengths = channels.names, channels.wavelengths
        else:
            given = list(channels)
            spectral = [isinstance(item, float) for item in given]
            names = [f"{item:g}nm" if isinstance(item, float) else item for item in given]
            wavelengths = [item if isinstance(item, float) else None for item in given]
            if any(spectral) and not all(spectral):
                raise ValueError(
                    f"channels {given}: name all of them, or give all as wavelengths; a mapping "
                    f"of names to nm does both"
                )
        if not names:
            raise ValueError("at least one channel is needed")
        for name in names:
            if not isinstance(name, str) or not name.strip():
                raise ValueError(
                    f"channel {name!r} is no name: give text, such as 'B04', or a wavelength in nm as a float"
                )
            if names.count(name) > 1:
                raise ValueError(f"channel {name!r} is named twice")
        for name, value in zip(names, wavelengths):
            if value is not None and not 1 <= value <= 1e9:
                raise ValueError(f"channel {name!r}: a wavelength of {value} nm is out of range")
        self.names = tuple(names)
        self.wavelengths = tuple(None if value is None else float(value) for value in wavelengths)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return ", ".join(
            name if value is None or name.endswith("nm") else f"{name} {value:g}nm"
            for name, value in zip(self.names, self.wavelengths)
        )

    def chosen(self, ids) -> Channels:
        """Those of these ids, in their order."""
        return Channels({self.names[i]: self.wavelengths[i] for i in ids})

    def as_dict(self) -> dict[str, float | None]:
        """Name -> wavelength in nm, which the constructor takes again."""
        return dict(zip(self.names, self.wavelengths))

    @property
    def are_named(self) -> bool:
        return self.names != tuple(str(i) for i in range(len(self)))

    def id_of(self, item) -> int:
        """Id of one channel, said as an index, a name, "665nm" or a float (nm).

        Raises:
            ValueError: a bool, or none of these channels; the message names them.
        """
        item = item.item() if isinstance(item, Tensor) and item.ndim == 0 else item
        if type(item).__name__ in ("bool", "bool_"):
            raise ValueError(
                f"channel {item!r} is a bool, not an id: a mask goes into `mask`, ids are integers"
            )
        if isinstance(item, str):
            if item in self.names:
                return self.names.index(item)
            if re.fullmatch(r"\s*[0-9.]+\s*nm\s*", item):
                return self._nearest(float(item.replace("nm", "")))
            raise ValueError(f"no channel {item!r}; the channels are {self!r}")
        try:
            return operator.index(item)
        except TypeError:
            pass
        try:
            return self._nearest(float(item))
        except TypeError:
            raise ValueError(f"channel {item!r} is neither an id, a name nor a wavelength") from None

    def _nearest(self, wavelength: float) -> int:
        distances = [
            (abs(value - wavelength), i) for i, value in enumerate(self.wavelengths) if value is not None
        ]
        if not distances:
            raise ValueError(
                f"channel {wavelength:g}: a number with a fraction is a wavelength in nm, and these "
                f"channels have none; ids are integers"
            )
        distance, nearest = min(distances)
        if not distance <= TOLERANCE:
            raise ValueError(
                f"no channel within {TOLERANCE:g} nm of {wavelength:g} nm; the nearest is "
                f"{self.names[nearest]} at {self.wavelengths[nearest]:g} nm"
            )
        return nearest

    def ids(self, channels=None, unseen: bool = False) -> list[int]:
        """Channel ids, in the order given.

        Args:
            channels: ids, names, wavelengths, or a mix; text such as "B04,B03" or, of one-letter names, "RG";
                None: all.
            unseen: whether `UNSEEN` (-1) is taken.

        Raises:
            ValueError: no channel, or a bool, unknown or repeated one.
        """
        if channels is None:
            return list(range(len(self)))
        if isinstance(channels, str):
            channels = self._split(channels)
        elif isinstance(channels, (int, float)):
            channels = [channels]
        ids = [self.id_of(item) for item in channels]
        known = [i for i in ids if i != UNSEEN]
        if not ids:
            raise ValueError("at least one channel must be present")
        for i in known:
            if not 0 <= i < len(self):
                raise ValueError(f"channel id {i} of {ids}: known ids are 0 to {len(self) - 1}")
        if len(set(known)) < len(known):
            twice = sorted(known)[[a == b for a, b in zip(sorted(known), sorted(known)[1:])].index(True)]
            raise ValueError(f"channels {ids} repeat a channel: {self.names[twice]!r}")
        if len(known) < len(ids) and not unseen:
            raise ValueError(
                "channel id -1 stands for a channel unseen in training, which needs the open-set "
                "form: fill rule 'luma_chroma'"
            )
        return ids

    def _split(self, text: str) -> list[str]:
        if text in self.names or text.strip().endswith("nm") and "," not in text:
            return [text]
        if "," in text or not all(len(name) == 1 for name in self.names):
            return [part.strip() for part in text.split(",")]
        return list(text)
