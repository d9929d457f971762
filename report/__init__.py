"""Make the documents from results/."""

import os
from contextlib import suppress

# A notebook hands its MPLBACKEND to the programs that it starts. matplotlib cannot be imported where this Python does
# not have that backend.
backend = os.environ.pop("MPLBACKEND", None)
import matplotlib  # noqa: E402

if backend:
    os.environ["MPLBACKEND"] = backend
    with suppress(ValueError):
        matplotlib.rcParams["backend"] = backend
