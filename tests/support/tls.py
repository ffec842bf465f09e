"""Certificates for tests, made by Debian's openssl, and the two sides' contexts."""

from __future__ import annotations

import ssl
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp


@cache
def certificate(name: str = "IP:127.0.0.1", days: int = 3) -> Path:
    """A file with a key and its self-signed certificate for `name`; one of a negative number of days has expired."""
    path = Path(mkdtemp(prefix="sluiceway-tls-")) / "both.pem"
    folder = path.parent
    request = [
        *("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-subj", "/CN=test", "-addext", f"subjectAltName={name}", "-keyout", "key.pem", "-out", "request.pem"),
    ]
    sign = [
        *("openssl", "x509", "-req", "-in", "request.pem", "-signkey", "key.pem", "-copy_extensions", "copyall"),
        *("-days", str(days), "-out", "certificate.pem"),
    ]
    for command in (request, sign):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    path.write_bytes((folder / "key.pem").read_bytes() + (folder / "certificate.pem").read_bytes())
    return path


def server_side(pem: Path) -> ssl.SSLContext:
    """What a server with this certificate speaks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def client_side(pem: Path) -> ssl.SSLContext:
    """A client that trusts this certificate."""
    return ssl.create_default_context(cafile=str(pem))
