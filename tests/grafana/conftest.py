"""Debian's Prometheus over the story, for the whole run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.grafana.server import Prometheus, free_port
from tests.grafana.story import story


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Debian's Prometheus over the story, for the whole run."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "story.om").write_text(story())
    promtool = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--quiet", "story.om", "data"]
    subprocess.run(promtool, cwd=folder, check=True, capture_output=True, timeout=100)
    (folder / "prometheus.yml").write_text("global: {}\n")
    port = free_port()
    command = [
        "prometheus",
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        "--storage.tsdb.retention.time=100y",
    ]
    command.append(f"--web.listen-address=127.0.0.1:{port}")
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            log: list[str] = []
            for line in process.stderr:  # its own word that it is ready: nothing to poll
                log.append(line)
                if "Server is ready" in line:
                    break
            else:
                raise AssertionError("Prometheus ended: " + "".join(log[-5:]))
            yield Prometheus(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
