"""``python -m pythia``."""

from __future__ import annotations

import sys

from pythia.cli import main

if __name__ == "__main__":
    sys.exit(main())
