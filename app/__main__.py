"""The first lines of `python -m app`, and of the installed command: signals, then everything else."""

from __future__ import annotations

import sys

from .fleet.signals import heed

# What a container may run as its first process.
_SERVICES = ("serve", "simulate")


def main() -> None:
    """Runs the command line."""
    if sys.argv[1:2] and sys.argv[1] in _SERVICES:
        heed()
    if sys.argv[1:2] == ["serve"] and "--worker" not in sys.argv:  # a parent, which needs next to nothing
        from .fleet.supervisor import main as supervise

        sys.exit(supervise(sys.argv[2:]))
    from .commands import main as run

    run()


if __name__ == "__main__":
    main()
