"""Let the examples of this folder find channelset where it is not installed: import this file first."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
