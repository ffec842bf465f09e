"""The ledger: what an answer generated, what of it was delivered, wasted and avoided, and its money. Pure.

    account = ledger.open(model="claude-sonnet-5-5", max_tokens=4096, now=…)
    account.see(event)                       # every event, as it is received
    account.delivered(text=120)              # characters that reached the reader's connection
    entry = account.settle(Outcome.DISCONNECTED, now)      # exactly once, in a `finally`

Measured and estimated figures never mix: `basis` says which one `generated` is, and `avoided` is always an estimate.
`now` is in seconds of any clock, the same one throughout; across restarts `dump` and `restore` carry ages, not times.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from msgspec.structs import replace

from ..answer.events import ClaudeEvent, DeltaKind
from ..answer.outcome import Outcome
from ..answer.tally import Phase, Tally
from .bill import bill
from .entry import Avoided, Entry, ReconcileLimit, Total, with_money
from .learned import Learned
from .prices import Prices
from .rates import TokenRates

__all__ = ["Account", "AlreadySettledError", "Avoided", "Entry", "Ledger", "Outcome", "ReconcileLimit", "Total"]

# A request's own bound counts for at most this much, because a caller may write anything there. It is above the largest
# that any model takes (300,000, in a batch).
MOST_MAX_TOKENS = 1_000_000
# At most this many models are learned about; beyond, the one unused longest is forgotten, so that memory is bounded. A
# caller's invented names never get here, because a model comes in by an answer that began.
MAX_MODELS = 64
HALF_LIFE_S = 7 * 86400.0
# An answer that stopped for one of these would have gone on: its length is censored.
_CUT_BY_LIMIT = frozenset({"max_tokens", "model_context_window_exceeded"})
_KINDS: tuple[DeltaKind, ...] = ("text", "thinking", "input_json")


class AlreadySettledError(RuntimeError):
    """The stream's account is closed; settling twice would count its money twice."""


class Account:
    """One stream's page in the ledger, from `Ledger.open` to `settle`.

    Attributes:
        tally: what was received so far; read it, don't feed it.
        thinking_hidden: the request itself omits thinking, so none will be seen; `Ledger.open` sets it.
        settled: `settle` was called.
    """

    __slots__ = (
        "_delivered",
        "_ledger",
        "max_tokens",
        "model",
        "opened_at",
        "settled",
        "tally",
        "thinking_hidden",
        "upstream",
    )

    def __init__(self, ledger: Ledger, model: str, max_tokens: int, upstream: str, now: float) -> None:
        self._ledger = ledger
        self.thinking_hidden = False
        self._delivered: dict[DeltaKind, int] = {"text": 0, "thinking": 0, "input_json": 0}
        self.model = model
        self.max_tokens = min(max(max_tokens, 0), MOST_MAX_TOKENS)
        self.upstream = upstream
        self.opened_at = now
        self.tally = Tally()
        self.settled = False

    def see(self, event: ClaudeEvent) -> None:
        """Takes an event into account, as it is received.

        Raises:
            AlreadySettledError: the books of this stream are closed.
        """
        if self.settled:
            raise AlreadySettledError(f"an event came after the stream of {self.model} was settled")
        self.tally.see(event)

    def delivered(self, *, text: int = 0, thinking: int = 0, input_json: int = 0) -> None:
        """Adds characters that reached the reader's connection.

        What is deliberately not shown to this reader, as thinking on the plain protocol, is delivered all the same:
        it was not thrown away. More than was received counts as all of it, so replays do no harm. After `settle` it
        changes nothing.
        """
        self._delivered["text"] += text
        self._delivered["thinking"] += thinking
        self._delivered["input_json"] += input_json

    def delivered_all(self) -> None:
        """Everything received so far reached the reader's connection."""
        self._delivered.update(self.tally.chars)

    def settle(self, outcome: Outcome, now: float) -> Entry:
        """Closes the books of this stream; synchronous, so that it fits a `finally`.

        Raises:
            AlreadySettledError: it was settled before.
        """
        if self.settled:
            raise AlreadySettledError(f"the stream of {self.model} was settled before")
        self.settled = True
        return self._ledger._settle(self, outcome, now)

    def so_far(self, now: float) -> Entry:
        """The entry that settling now, as stopped, would make, but for the errors of what a curve expects; counts nothing.

        Args:
            now: seconds.
        """
        return self._ledger._so_far(self, now)

    @property
    def hidden_thinking(self) -> bool:
        """Thinking was, or may have been, generated without its text."""
        return self.thinking_hidden or self.tally.hidden_thinking

    def delivered_features(self) -> tuple[float, ...]:
        """The part of the tally's features that reached the reader's connection."""
        tally = self.tally
        chars = [min(self._delivered[kind], tally.chars[kind]) for kind in _KINDS]
        all_json, received = tally.chars["input_json"], sum(tally.chars.values())
        # A tool call's frame goes with its JSON, and wide characters are taken to be spread evenly.
        tools = tally.tool_blocks * (chars[2] / all_json if all_json else float(sum(chars) == received))
        wide = tally.wide_chars * sum(chars) / received if received else 0.0
        return (*map(float, chars), tools, wide)


class Ledger:
    """Opens and settles accounts, and learns from every one.

    Args:
        prices: the price table.
        half_life_s: age in seconds at which what was learned counts half.
    """

    def __init__(self, prices: Prices, half_life_s: float = HALF_LIFE_S) -> None:
        self._prices = prices
        self._half_life_s = half_life_s
        self._models: OrderedDict[str, Learned] = OrderedDict()
        self.total = Total()  # avoided tokens since the start, all models
        self.open_accounts = 0

    def __repr__(self) -> str:
        return f"<Ledger open={self.open_accounts} models={len(self._models)} aborted={self.total.streams}>"

    def open(
        self, *, model: str, max_tokens: int, now: float, upstream: str = "anthropic", thinking_hidden: bool = False
    ) -> Account:
        """Opens a stream's account; whoever calls it settles it.

        Args:
            model: the model asked for.
            max_tokens: the request's own bound, any whole number.
            now: seconds.
            upstream: which of the price table's upstreams answers.
            thinking_hidden: the request itself omits thinking (`thinking.display`), so none will be seen.
        """
        self.open_accounts += 1
        account = Account(self, model, max_tokens, upstream, now)
        account.thinking_hidden = thinking_hidden
        return account

    def tokens_each(self, model: str) -> tuple[float, ...]:
        """The tokens a character (and a tool call, and a wide character) of this model, as known now."""
        known = self._models.get(model)
        return (known.rates if known else TokenRates(self._half_life_s)).tokens_each

    def _so_far(self, account: Account, now: float) -> Entry:
        known = self._models.get(account.model)
        rates = known.rates if known else TokenRates(self._half_life_s)
        entry = _with_tokens(_begun(account, Outcome.STOPPED, now), account, rates)
        if entry.aborted and self._prices.bills(account.upstream) != "whole_answer":
            upper = float(max(0, account.max_tokens - entry.generated))
            avoided = Avoided(upper=upper, high=upper, enough=False)
            curve = known.curve(account.max_tokens, account.hidden_thinking) if known else None
            if curve is not None and curve.enough:
                left = curve.mean_left(_length(account, entry, rates), account.max_tokens)
                avoided = replace(avoided, expected=min(left, upper), enough=True)
            entry = replace(entry, avoided=avoided)
        return with_money(self._with_prices(entry, account.tally))

    def _settle(self, account: Account, outcome: Outcome, now: float) -> Entry:
        self.open_accounts -= 1
        model = self._model(account.model, account.tally.phase is not Phase.BEFORE_FIRST_EVENT)
        entry = _with_tokens(_begun(account, outcome, now), account, model.rates)
        entry = self._with_avoided(entry, account, model, now)
        if entry.finished and not account.tally.fell_back:
            _learn(account, entry, model.rates, now)
        return with_money(self._with_prices(entry, account.tally))

    def _model(self, name: str, began: bool) -> Learned:
        if (model := self._models.get(name)) is None:
            model = Learned(self._half_life_s)
            if not began:
                return model  # not kept: it may be no model at all, only a caller's word for one
            self._models[name] = model
        self._models.move_to_end(name)
        if len(self._models) > MAX_MODELS:
            self._models.popitem(last=False)
        return model

    def _with_avoided(self, entry: Entry, account: Account, model: Learned, now: float) -> Entry:
        """Adds the length to the curve of its kind, and asks the curve what an aborted stream would still have added."""
        if not entry.aborted and entry.phase is Phase.BEFORE_FIRST_EVENT:
            return entry  # Claude never began: neither a length nor a saving
        length = _length(account, entry, model.rates)
        curve = model.curve(account.max_tokens, account.hidden_thinking)
        ended = entry.finished or entry.phase is Phase.DONE
        unsure = 0.0 if entry.basis == "exact" else model.rates.scatter * length
        curve.observe(length, ended and entry.stop_reason not in _CUT_BY_LIMIT, now, unsure)
        if not entry.aborted:
            return entry
        upper = float(max(0, account.max_tokens - entry.generated))
        if curve.enough:
            left = curve.remaining(length, account.max_tokens, unsure)
            avoided = Avoided(
                expected=min(left.mean, upper),
                upper=upper,
                low=min(left.low, upper),
                high=min(left.high, upper),
                variance=left.variance,
            )
        else:
            avoided = Avoided(upper=upper, high=upper, enough=False)
        if self._prices.bills(account.upstream) == "whole_answer":
            # Nothing was avoided, because this upstream generates and bills the rest without us.
            return replace(entry, unseen_tokens=avoided.expected, avoided=Avoided(enough=avoided.enough))
        self.total = self.total.plus(avoided)
        return replace(entry, avoided=avoided)

    def _with_prices(self, entry: Entry, tally: Tally) -> Entry:
        model = entry.served_model or entry.model
        if not tally.fell_back and self._prices.find(model) is None:
            model = entry.model  # another name for the same one
        refused = entry.stop_reason == "refusal" and entry.basis == "exact" and not entry.generated
        usage, untold = _with_what_was_seen(tally)
        whole = bill(self._prices, model, usage, refused=refused)
        return replace(
            entry,
            priced=whole.priced,
            spent_usd=whole.cost,
            output_usd_per_token=whole.output_usd_per_token,
            on_top_usd=whole.cost.output,
            unpriced=(*whole.unpriced, *untold),
            unpriced_beside=whole.unpriced_tokens,
        )

    def dump(self, now: float) -> dict[str, Any]:
        """What was learned, as plain JSON, for `restore` after a restart. Open accounts and totals are not in it."""
        return {"version": 1, "models": {name: model.dump(now) for name, model in self._models.items()}}

    def restore(self, data: dict[str, Any], now: float, age_s: float = 0.0) -> None:
        """Takes back what `dump` gave; what is known already is replaced.

        Args:
            data: decoded JSON.
            now: seconds, on this process's clock.
            age_s: how long ago it was dumped.

        Raises:
            ValueError: the data are not what `dump` gives; then nothing has changed.
        """
        self._models = self._restored(data, now - age_s)

    def join(
        self, theirs: dict[str, Any], base: dict[str, Any], now: float, theirs_age_s: float, base_age_s: float
    ) -> None:
        """Takes in what other workers learned since all had the same.

        Args:
            theirs: what they dumped, with what this one had dumped in it.
            base: what this one had dumped then.
            now: seconds.
            theirs_age_s, base_age_s: how long ago each was dumped.

        Raises:
            ValueError: the data are not what `dump` gives; then nothing has changed.
        """
        others, before = self._restored(theirs, now - theirs_age_s), self._restored(base, now - base_age_s)
        models = OrderedDict((name, model) for name, model in others.items() if name not in self._models)
        for name, model in self._models.items():
            if name in others:
                model.join(others[name], before.get(name, Learned(self._half_life_s)), now)
            models[name] = model
        self._models = OrderedDict(list(models.items())[-MAX_MODELS:])

    def _restored(self, data: dict[str, Any], as_of: float) -> OrderedDict[str, Learned]:
        try:
            if data["version"] != 1:
                raise ValueError(f"unknown version {data['version']!r}")
            saved = list(data["models"].items())[-MAX_MODELS:]
            return OrderedDict((name, Learned.restore(model, self._half_life_s, as_of)) for name, model in saved)
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            raise ValueError(f"not a ledger's dump: {error!r}") from error


def _begun(account: Account, outcome: Outcome, now: float) -> Entry:
    """An entry with what is known without any rate or price."""
    tally = account.tally
    finished = tally.exact and tally.stop_reason is not None and not tally.since_usage
    return Entry(
        model=account.model,
        served_model=tally.model,
        upstream=account.upstream,
        outcome=outcome,
        phase=tally.phase,
        aborted=outcome.aborts and not finished and tally.phase is not Phase.DONE,
        finished=finished,
        stop_reason=tally.stop_reason,
        opened_at=account.opened_at,
        settled_at=now,
        usage=dict(tally.usage),
        unreadable=tally.unreadable,
        unreadable_names=tuple(tally.unreadable_names),
    )


def _with_what_was_seen(tally: Tally) -> tuple[dict[str, Any], list[str]]:
    """The usage with the searches that were seen before its end came, and what else is billed that it does not tell."""
    usage, beside = tally.usage, tally.beside
    if tally.exact:
        return usage, []
    told = usage.get("server_tool_use") or {}
    if beside["web_search"] > (told.get("web_search_requests") or 0):
        usage = usage | {"server_tool_use": told | {"web_search_requests": beside["web_search"]}}
    kinds = [entry.get("type") for entry in usage.get("iterations") or ()]
    missing = [kind for kind in ("compaction", "advisor_message") if beside[kind] > kinds.count(kind)]
    return usage, [f"{kind} of an answer that was cut short" for kind in missing]


def _with_tokens(entry: Entry, account: Account, rates: TokenRates) -> Entry:
    """Generated, delivered and wasted tokens."""
    tally = account.tally
    counted: int = tally.usage["output_tokens"] if tally.exact else 0
    # Nothing came. Nothing was generated for sure only if the answer was not aborted; otherwise nobody knows.
    nothing = tally.phase is Phase.BEFORE_FIRST_EVENT and not entry.outcome.aborts
    exact = nothing or (tally.exact and not tally.since_usage)
    since = [float(now - then) for now, then in zip(tally.features, tally.at_usage, strict=True)]
    generated = counted if exact else counted + round(rates.estimate(since))
    if all(account._delivered[kind] >= tally.chars[kind] for kind in _KINDS):
        # If all that can be seen was handed over, so was the rest; with nothing to see, only a completed stream counts.
        share = 1.0 if any(tally.chars.values()) or entry.outcome is Outcome.COMPLETED else 0.0
    else:
        received = rates.estimate(tally.features)
        share = min(1.0, rates.estimate(account.delivered_features()) / received) if received else 0.0
    delivered = round(share * generated)
    return replace(
        entry,
        generated=generated,
        basis="exact" if exact else "estimated",
        delivered=delivered,
        wasted=generated - delivered,
        hidden_thinking=account.hidden_thinking and not exact,
    )


def _thinking_tokens(account: Account) -> int | None:
    """Exact thinking tokens, where usage tells them."""
    details = account.tally.usage.get("output_tokens_details") or {}
    tokens: int | None = details.get("thinking_tokens")
    return tokens if account.tally.exact else None


def _length(account: Account, entry: Entry, rates: TokenRates) -> float:
    """The length in which answers of this kind are compared: all tokens, or those that are not hidden thinking."""
    return _visible(account, entry, rates) if account.hidden_thinking else float(entry.generated)


def _visible(account: Account, entry: Entry, rates: TokenRates) -> float:
    """Tokens of an answer apart from its hidden thinking."""
    thinking = _thinking_tokens(account)
    if entry.finished and thinking is not None and not account.tally.chars["thinking"]:
        return max(0, entry.generated - thinking)
    return min(float(entry.generated), rates.estimate(account.tally.features))


def _learn(account: Account, entry: Entry, rates: TokenRates, now: float) -> None:
    """Learns tokens a character from a finished answer; hidden thinking of unknown size teaches nothing."""
    thinking = _thinking_tokens(account)
    features = account.tally.features
    if thinking is None:
        if not account.hidden_thinking:
            rates.learn(features, entry.generated, now)
        return
    text, thought, *rest = features
    if not account.tally.hidden_thinking:
        # Thinking has a rate of its own, because usage counts raw reasoning where the wire may carry a summary of it.
        rates.learn((0, thought, 0, 0, 0), thinking, now)
    rates.learn((text, 0, *rest), max(0, entry.generated - thinking), now)
