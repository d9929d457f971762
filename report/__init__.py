"""Make the documents from results/."""

import os
from contextlib import suppress

# A notebook passes its MPLBACKEND on to the programs that it starts. If this Python does not have that backend,
# matplotlib cannot be imported.
backend = os.environ.pop("MPLBACKEND", None)
import matplotlib  # noqa: E402

if backend:
    os.environ["MPLBACKEND"] = backend
    with suppress(ValueError):
        matplotlib.rcParams["backend"] = backend
