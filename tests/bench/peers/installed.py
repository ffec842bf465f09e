"""The peers, where `make bench PEERS=1` has installed them: into a folder of their own, because they bring much along."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app.tools.load.protocols import MESSAGES, PLAIN
from tests.bench.measures import MODEL
from tests.bench.processes import LOOPBACK, ROOT, Contender, Upstream, free_port, process

BINARIES = ROOT / "build" / "peers" / "py" / "bin"


@contextmanager
def peers(above: Upstream, way: str, folder: Path) -> Iterator[list[Contender]]:
    """Runs those that are installed, each as its own documentation says; `folder` holds what they want written down."""
    with ExitStack() as stack:
        installed = (BINARIES / "litellm").exists()  # the last of the lock
        yield [stack.enter_context(run(above, way, folder)) for run in (_fastapi, _litellm) if installed]


@contextmanager
def _fastapi(above: Upstream, way: str, _folder: Path) -> Iterator[Contender]:
    port = free_port()
    command = [str(BINARIES / "python"), "-m", "tests.bench.peers.fastapi_sse", str(port)]
    with process(command, (LOOPBACK, port), above.environ(way)) as pid:
        yield Contender("FastAPI + sse-starlette", way, f"http://{LOOPBACK}:{port}", PLAIN, pid)


@contextmanager
def _litellm(above: Upstream, way: str, folder: Path) -> Iterator[Contender]:
    port = free_port()
    claude = {"model": f"anthropic/{MODEL}", "api_base": above.url(way), "api_key": "sk-ant-bench"}
    config = folder / "litellm.yaml"
    told = {
        "model_list": [{"model_name": MODEL, "litellm_params": claude}],
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }
    config.write_text(json.dumps(told), "utf-8")  # JSON is YAML
    command = [str(BINARIES / "litellm"), "--config", str(config), "--host", LOOPBACK, "--port", str(port)]
    with process([*command, "--num_workers", "1"], (LOOPBACK, port), above.environ(way)) as pid:
        yield Contender("LiteLLM proxy", way, f"http://{LOOPBACK}:{port}", MESSAGES, pid)
