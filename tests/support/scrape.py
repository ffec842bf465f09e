"""What a service exposes on its admin port, as Prometheus reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

if TYPE_CHECKING:
    from app.web.runner import Running


@dataclass
class Scrape:
    """One exposition.

    Attributes:
        samples: every line of it.
    """

    samples: list[Sample] = field(default_factory=list)

    def value(self, name: str, **labels: str) -> float:
        """The sum over all samples of that name (without `sluiceway_`) that have these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == f"sluiceway_{name}" and labels.items() <= sample.labels.items()
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """What is not zero of that name, by one of its labels."""
        found: dict[str, float] = {}
        for sample in self.samples:
            if sample.name == f"sluiceway_{name}" and sample.value:
                found[sample.labels[label]] = found.get(sample.labels[label], 0) + sample.value
        return found


async def scrape(service: Running) -> Scrape:
    """Asks the service's own `/metrics`."""
    return await scrape_of(service.admin_url)


async def scrape_of(admin_url: str) -> Scrape:
    """Asks `/metrics` of an admin port."""
    async with aiohttp.ClientSession() as session, session.get(f"{admin_url}/metrics") as response:
        families = text_string_to_metric_families(await response.text())
    return Scrape([sample for family in families for sample in family.samples])
