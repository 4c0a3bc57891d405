"""``python -m pythia.supervisor FD NAME``: how the supervisor starts a process. The name is for those who look at ``ps``."""

from __future__ import annotations

import sys

from pythia.supervisor.child import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
