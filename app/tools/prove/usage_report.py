"""The organisation's own usage report, where an admin key is given (Admin API, usage report of messages)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp

# The report follows a request's end within about this many seconds, usually (Admin API, usage and cost); with a reserve.
REPORT_DELAY_S = 420.0
_MINUTES_A_PAGE = 1440
_PATH = "/v1/organizations/usage_report/messages"
_DEFAULT_BASE_URL = "https://api.anthropic.com"


class ReportError(Exception):
    """The usage report could not be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Reported:
    """The model's tokens in a span of whole minutes, of everyone who used the organisation.

    Attributes:
        output_tokens, uncached_input_tokens: as reported.
        began_at, ended_at: the span, in RFC 3339.
    """

    output_tokens: int
    uncached_input_tokens: int
    began_at: str
    ended_at: str


async def fetch(
    admin_key: str, model: str, began_at: float, ended_at: float, *, base_url: str | None = None
) -> Reported:
    """The report of the minutes that hold this span. Cancelling is safe.

    Args:
        began_at, ended_at: seconds since the epoch.
        base_url: of the API, without `/v1`.

    Raises:
        ReportError: it was refused, or is not what is documented.
    """
    start, end = _rfc3339(began_at // 60 * 60), _rfc3339(ended_at // 60 * 60 + 60)
    query = [("starting_at", start), ("ending_at", end), ("bucket_width", "1m"), ("models[]", model)]
    query.append(("limit", str(_MINUTES_A_PAGE)))
    headers = {"x-api-key": admin_key, "anthropic-version": "2023-06-01"}
    output = uncached_input = 0
    page: str | None = None
    try:
        async with aiohttp.ClientSession(headers=headers, trust_env=True) as session:
            while True:
                asked = [*query, ("page", page)] if page else query
                url = f"{(base_url or _DEFAULT_BASE_URL).rstrip('/')}{_PATH}"
                async with session.get(url, params=asked, timeout=aiohttp.ClientTimeout(60)) as response:
                    if response.status != 200:
                        raise ReportError(f"the usage report was refused with {response.status}")
                    body: dict[str, Any] = await response.json()
                for bucket in body["data"]:
                    for result in bucket["results"]:
                        output += int(result["output_tokens"])
                        uncached_input += int(result["uncached_input_tokens"])
                page = body["next_page"] if body["has_more"] else None
                if not page:
                    return Reported(output, uncached_input, start, end)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ReportError(f"the usage report could not be fetched: {type(error).__name__}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError("the usage report is not what is documented") from error


def _rfc3339(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
