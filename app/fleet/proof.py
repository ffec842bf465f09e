"""How one process of a fleet proves to another that it is one. Pure.

The secret itself is never sent. The proof is for one request to one incarnation, so that what is sent to a process that
is gone is not taken by the one that got its port. Whoever can read the network can repeat a request that he saw, whose
caller's key he saw too: where the network is not trusted, that between the hosts needs a VPN, as Redis's does.

By the same secret a stream's id shows that a process of the fleet gave it: its last characters are a mark of the others. So
of a dead process, who can be asked no more, ids that it never gave are told from those of answers that it had not written yet.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from functools import lru_cache

# The header that holds it.
PROOF = "X-Sluiceway-Proof"
# 72 bits: who guesses can only ask.
_MARK_BYTES = 9
_MARK_LENGTH = _MARK_BYTES * 4 // 3


def proof(secret: bytes, incarnation: str, method: str, target: str) -> str:
    """For a request of this method and target, path and query, to this process."""
    said = "\n".join((incarnation, method, target)).encode("utf-8", "surrogatepass")
    return hmac.new(secret, said, hashlib.sha256).hexdigest()


def is_proof(given: str, secret: bytes, incarnation: str, method: str, target: str) -> bool:
    """Whether this is the proof, compared in constant time."""
    expected = proof(secret, incarnation, method, target)
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


def mark(secret: bytes, stream_id: str) -> str:
    """What is put behind a new id, which names its process."""
    said = _keyed(secret).copy()
    said.update(f"stream\n{stream_id}".encode())
    return base64.urlsafe_b64encode(said.digest()[:_MARK_BYTES]).decode("ascii")


@lru_cache(maxsize=1)
def _keyed(secret: bytes) -> hmac.HMAC:
    """To be copied, because every stream begins with a mark, and to make it anew takes several times as long."""
    return hmac.new(secret, digestmod="sha256")


def is_marked(stream_id: str, secret: bytes) -> bool:
    """Whether a process with this secret gave it; of ids that name a process."""
    expected = mark(secret, stream_id[:-_MARK_LENGTH])
    return hmac.compare_digest(stream_id[-_MARK_LENGTH:].encode(), expected.encode())
