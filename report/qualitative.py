"""Drawn from results/qualitative."""
from __future__ import annotations

from pathlib import Path


def make_figures(root: Path) -> dict[str, tuple]:
    return {}
