"""Replace letters that the font of the charts lacks, such as Chinese ones."""

from __future__ import annotations

from matplotlib.font_manager import findfont, get_font


def drawable(text: str) -> str:
    """Return the text with a question mark for each letter that the font lacks.

    For such a letter, matplotlib would print a warning and draw an empty box.
    """
    font = get_font(findfont("DejaVu Sans"))  # the font of every chart; matplotlib contains it
    return "".join(letter if letter == "\n" or font.get_char_index(ord(letter)) else "?" for letter in text)
