"""How many files the system allows this process, and how many of them connections may take."""

from __future__ import annotations

import resource

# The admin port's connections: a scraper, the probes, and somebody who looks.
ADMIN_CONNECTIONS = 32
# What the process has open beside clients and streams: some 30 (log, ledger, listeners, connections to Claude that are
# kept ready), and as many again for what opens for a moment, such as a file that is read again.
_OWN_FILES = 64
# A client's connection and the one to Claude. A held stream has only the second, so that each is bounded alone.
_FILES_OF_A_STREAM = 2


def raise_limit(streams: int) -> None:
    """Raises the limit of open files to what so many streams need, as far as the system lets this user."""
    wanted = streams * _FILES_OF_A_STREAM + ADMIN_CONNECTIONS + _OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def room(limit: int | None = None) -> int:
    """How many connections, and as many streams, the limit of open files leaves room for; at least one.

    Without that, a flood of connections takes the last file, and neither the admin port nor Claude can be reached.

    Args:
        limit: of open files; None for this process's own.
    """
    if limit is None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY:
            limit = 1 << 31
    return max(1, (limit - ADMIN_CONNECTIONS - _OWN_FILES) // _FILES_OF_A_STREAM)
