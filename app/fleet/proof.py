"""How one process of a fleet proves to another that it is one. Pure.

The secret itself is never sent. The proof is for one request to one incarnation, so that what is sent to a process that
is gone is not taken by the one that got its port. Whoever can read the network can repeat a request that he saw, whose
caller's key he saw too: where the network is not trusted, that between the hosts needs a VPN, as Redis's does.
"""

from __future__ import annotations

import hashlib
import hmac

# The header that holds it.
PROOF = "X-Sluiceway-Proof"


def proof(secret: bytes, incarnation: str, method: str, target: str) -> str:
    """For a request of this method and target, path and query, to this process."""
    said = "\n".join((incarnation, method, target)).encode("utf-8", "surrogatepass")
    return hmac.new(secret, said, hashlib.sha256).hexdigest()


def is_proof(given: str, secret: bytes, incarnation: str, method: str, target: str) -> bool:
    """Whether this is the proof, compared in constant time."""
    expected = proof(secret, incarnation, method, target)
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())
