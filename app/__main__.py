"""The first lines of `python -m app`, and of the installed command: signals, then everything else."""

from __future__ import annotations

import os
import sys

from .fleet.signals import heed

# What a container may run as its first process.
_SERVICES = ("serve", "simulate")


def main() -> None:
    """Runs the command line."""
    if sys.argv[1:2] and sys.argv[1] in _SERVICES:
        heed()
    if sys.argv[1:2] == ["serve"] and "--worker" not in sys.argv:  # a parent, which needs next to nothing
        # Its first worker starts before it has imported that: so a parent costs the start some hundredths of a second.
        from .fleet.spawn import spawn_worker

        try:
            first = spawn_worker(sys.argv[2:], os.environ)
        except OSError as error:
            sys.exit(f"Error: it cannot be run: {error}")
        from .fleet.supervisor import main as supervise

        sys.exit(supervise(sys.argv[2:], first))
    from .commands import main as run

    run()


if __name__ == "__main__":
    main()
