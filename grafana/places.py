"""Where in the runbook each panel's link leads: to the place of its row, or of the alert that is about it."""

from __future__ import annotations

from collections.abc import Mapping

# By the beginning of a row's title.
ROWS: Mapping[str, str] = {
    "Today": "what-left-answers-cost-today",
    "Requests": "sluicewaystreamerrorbudgetburn",
    "Abandonment": "sluicewayabandonedratiohigh",
    "Money": "sluicewayspendratehigh",
    "Callers": "sluicewaybudgetnearlyspent",
    "Fleet": "sluicewayfleetredisaway",
    "Backpressure": "sluicewayreadersstalled",
    "Details": "how-to-read-the-figures",
}

# By the beginning of a panel's title, the first that fits; the others have their row's.
PANELS: Mapping[str, str] = {
    "Least day's budget left": "sluicewaybudgetnearlyspent",
    "Alerts that fire": "alerts",
    "Turned away": "sluicewayreadersturnedaway",
    "First token": "sluicewayslowfirsttoken",
    "Time to first token": "sluicewayslowfirsttoken",
    "From leaving to upstream closed": "sluicewayabortslow",
    "Tokens without a price": "sluicewaysavingsnotaccounted",
    "Prices in use": "sluicewaysavingsnotaccounted",
    "What the figures do not see": "sluicewaysavingsnotaccounted",
    "Saved": "how-to-read-the-figures",
    "Tokens avoided": "how-to-read-the-figures",
    "Budgets that can be read": "sluicewaybudgetunreadable",
    "Booked for dead workers": "sluicewaybudgetunreadable",
    "Streams, upstreams": "sluicewayupstreamorphaned",
    "Event-loop lag": "sluicewayeventlooplag",
    "Saturation": "sluicewayeventlooplag",
    "Upstream errors": "sluicewayupstreamrefusing",
}


def place(row: str, panel: str) -> str:
    """The anchor for a panel in a row, by their titles."""
    rows = [anchor for begins, anchor in ROWS.items() if row.startswith(begins)]
    panels = [anchor for begins, anchor in PANELS.items() if panel.startswith(begins)]
    return (panels or rows)[0]
