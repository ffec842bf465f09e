"""Budgets, rates and places of a fleet, in Redis: each question is one script, one round trip, by Redis's own clock.

The same promises as `streams/state.py` keeps on one machine. What a process has spent of a budget stands there as one
number, absolute, and so does what it has drawn, so that an answer that was lost is made good by the next one, and a Redis
that has forgotten learns from each process what that has spent. What a process holds lapses: its places after 30 s, what
it drew after 60 s, which then counts as spent, since nobody knows how much of it was. Whoever still lives says both anew
well before that.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from ..access.limits import PERIOD_S, Late, Want
from ..streams.state import Balance, Draft, StateAway, Taking
from .apart import MOST_BUDGETS, Apart, Budget, budget_of
from .contact import RedisAway, RedisRefused, ScriptUnknown
from .errors import FleetAway
from .member import Asking
from .names import digest

# Places lapse after the first and are told anew each third of it; what is drawn is told anew by every draft, in seconds.
PLACES_S = 30.0
DRAWN_S = 60.0
# While Redis is away it is tried again this often, in seconds.
_AGAIN_S = 1.0
# Sums of a day or a month are kept for so long after the last draft, in seconds: 40 days.
_SUMS_S = 40 * 86_400

_NOW = "local t = redis.call('TIME') local now = tonumber(t[1]) + tonumber(t[2]) / 1000000\n"

# For each budget: own sum, limit, what stays drawn, what is needed, what is liked beyond. As `money.allowance.grant`.
_DRAW = (
    _NOW
    + """
local me, out = ARGV[1], {}
for n, key in ipairs(KEYS) do
  local a = 2 + (n - 1) * 5
  redis.call('HSET', key, 's:' .. me, ARGV[a])
  local limit, keep = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local least, ahead = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local spent, others, dead = 0, 0, 0
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local kind, who = string.sub(all[i], 1, 1), string.sub(all[i], 3)
    if kind == 's' then
      spent = spent + tonumber(all[i + 1])
    elseif who ~= me then
      local nano, till = string.match(all[i + 1], '^(%d+):([%d.]+)$')
      if tonumber(till) <= now then
        redis.call('HINCRBY', key, 's:' .. who, nano)
        redis.call('HDEL', key, all[i])
        spent, dead = spent + tonumber(nano), dead + tonumber(nano)
      else
        others = others + tonumber(nano)
      end
    end
  end
  local left = math.max(0, limit - spent - others - keep)
  local needed = math.min(left, math.max(0, least))
  local granted = needed + math.min(math.max(0, ahead), math.floor((left - needed) / 10))
  local kept = math.max(0, keep + granted)
  if kept > 0 then
    redis.call('HSET', key, 'd:' .. me, string.format('%.0f:%.3f', kept, now + DRAWN_S))
  else
    redis.call('HDEL', key, 'd:' .. me)
  end
  redis.call('EXPIRE', key, SUMS_S)
  for _, figure in ipairs({granted, spent, others, dead}) do out[#out + 1] = string.format('%.0f', figure) end
end
return out
""".replace("DRAWN_S", str(DRAWN_S)).replace("SUMS_S", str(_SUMS_S))
)

# So many keys of places, each with how many this process has, how many there may be in all ('' for any number) and what is
# said where there are; then the buckets, each with what it costs and what it must have, in seconds of refilling.
_TAKE = (
    _NOW
    + """
local me, places = ARGV[1], tonumber(ARGV[2])
for n = 1, places do
  local here, most, others = tonumber(ARGV[3 * n]), ARGV[3 * n + 1], 0
  if most ~= '' then
    local all = redis.call('HGETALL', KEYS[n])
    for i = 1, #all, 2 do
      local count, till = string.match(all[i + 1], '^(%d+):([%d.]+)$')
      if tonumber(till) <= now then
        redis.call('HDEL', KEYS[n], all[i])
      elseif all[i] ~= me then
        others = others + tonumber(count)
      end
    end
    if others + here > tonumber(most) then return {ARGV[3 * n + 2]} end
  end
end
local after = 3 * places + 3
local latest, longest, owing = 0, 1e-9, {}
for n = places + 1, #KEYS do
  local a = after + (n - places - 1) * 2
  owing[n] = math.max(0, tonumber(redis.call('GET', KEYS[n]) or now) - now)
  local wait = owing[n] + tonumber(ARGV[a + 1]) - PERIOD_S
  if wait > longest then latest, longest = n, wait end
end
if latest > 0 then return {'late', latest - places - 1, string.format('%.6f', longest), string.format('%.6f', owing[latest])} end
for n = places + 1, #KEYS do
  local owed = owing[n] + tonumber(ARGV[after + (n - places - 1) * 2])
  redis.call('SET', KEYS[n], string.format('%.6f', now + owed), 'PX', math.ceil(owed * 1000) + 1000)
end
for n = 1, places do
  redis.call('HSET', KEYS[n], me, string.format('%s:%.3f', ARGV[3 * n], now + PLACES_S))
  redis.call('EXPIRE', KEYS[n], 2 * PLACES_S)
end
return {'taken'}
""".replace("PERIOD_S", str(PERIOD_S)).replace("PLACES_S", str(int(PLACES_S)))
)

# So many keys of places with a count each, then buckets with what is owed more, in seconds of refilling.
_NOTE = (
    _NOW
    + """
local me, places = ARGV[1], tonumber(ARGV[2])
for n, key in ipairs(KEYS) do
  local figure = ARGV[2 + n]
  if n > places then
    local owed = math.max(0, tonumber(redis.call('GET', key) or now) - now) + tonumber(figure)
    if owed > 0 then
      redis.call('SET', key, string.format('%.6f', now + owed), 'PX', math.ceil(owed * 1000) + 1000)
    else
      redis.call('DEL', key)
    end
  elseif figure == '0' then
    redis.call('HDEL', key, me)
  else
    redis.call('HSET', key, me, string.format('%s:%.3f', figure, now + PLACES_S))
    redis.call('EXPIRE', key, 2 * PLACES_S)
  end
end
return 1
""".replace("PLACES_S", str(int(PLACES_S)))
)


class FleetLimits:
    """What the processes of a fleet share of limits and budgets.

    Args:
        asks: of Redis.
        prefix: of every key.
        process: this one's incarnation.
        apart: what it lets in by itself while Redis is away.
        clock: seconds since the epoch, for that alone.

    Attributes:
        on_dead: told what was booked as spent for processes that died, in nano-dollars.
    """

    def __init__(
        self, asks: Asking, prefix: str, process: str, apart: Apart, clock: Callable[[], float] = time.time
    ) -> None:
        self._asks = asks
        # One tag: a script's keys must lie in one place.
        self._tag = f"{prefix}:{{l}}"
        self._process = process
        self._apart = apart
        self._clock = clock
        self._spent: OrderedDict[Budget, int] = OrderedDict()  # by this process, as Redis knows
        self._places: dict[str, int] = {}  # of this process, by caller; none at zero
        self._untold: list[Want] = []  # corrections
        self._wake = asyncio.Event()
        self.on_dead: Callable[[int], None] = lambda _nano: None

    async def draw(self, drafts: Sequence[Draft]) -> list[Balance]:
        """Books what was spent, and draws more as far as it is there.

        While Redis is away it is drawn from what this process may spend by itself.

        Raises:
            StateAway: that is nothing by the policy; or Redis did not answer in time, and is not known to be away, so that
            nobody knows whether it was done. Cancelling leaves it open whether it was done; the next draft tells
            anew.
        """
        if not drafts:
            return []
        own: dict[Budget, int] = {}
        sums: list[int] = []  # of each draft's budget, with that draft's; a budget may come twice
        given: list[int] = []
        for draft in drafts:
            budget = budget_of(draft)
            own[budget] = own.get(budget, self._spent.get(budget, 0)) + draft.book
            sums.append(own[budget])
            given += [own[budget], draft.limit, draft.keep, draft.least, draft.ahead]
        keys = [f"{self._tag}:b:{digest(name)}:{span}:{period}" for name, span, period in map(budget_of, drafts)]
        balances: list[Balance] | None
        try:
            balances = self._told(drafts, sums, await self._do(_DRAW, keys, given))
        except StateAway:
            balances = self._apart.draw(drafts, sums) if self._asks.contact.away else None
            if balances is None:
                raise
        for budget, spent in own.items():
            self._spent[budget] = spent
            self._spent.move_to_end(budget)
        while len(self._spent) > MOST_BUDGETS:
            self._spent.popitem(last=False)
        return balances

    def _told(self, drafts: Sequence[Draft], sums: Sequence[int], raw: Sequence[bytes]) -> list[Balance]:
        told = [int(figure) for figure in raw]
        balances = [Balance(told[at], told[at + 1], told[at + 2]) for at in range(0, len(told), 4)]
        for draft, own, balance in zip(drafts, sums, balances, strict=True):
            self._apart.heard(draft, own, balance)
        if dead := sum(told[3::4]):
            self.on_dead(dead)
        return balances

    async def take(self, wants: Sequence[Want], place: Taking) -> Late | str | None:
        """Takes of all buckets, and a place; nothing where one of them has not enough, and says which.

        While Redis is away this process goes by its own share.

        Raises:
            FleetAway: it did not answer in time, and is not known to be away. Cancelling as in `draw`.
        """
        counted = _counted(place)
        given: list[int | str] = [len(counted)]
        for _, here, most, refusal in counted:
            given += [here, "" if most is None else most, refusal]
        for want in wants:
            given += [f"{_seconds(want, want.cost):.6f}", f"{_seconds(want, min(want.cost, want.per_minute)):.6f}"]
        keys = [*(self._place(name) for name, *_ in counted), *map(self._bucket, wants)]
        try:
            answer = await self._do(_TAKE, keys, given)
        except StateAway as late:
            if not self._asks.contact.away:  # it may be done, and whoever is let in besides would be one too many
                raise FleetAway("Redis did not answer in time", retry_after_s=1.0) from late
            refused = self._apart.take(wants, place, self._clock())
            if refused is None:
                self._places.update((name, here) for name, here, *_ in counted if name)
            return refused
        match answer[0]:
            case b"taken":
                self._places.update((name, here) for name, here, *_ in counted if name)
                return None
            case b"late":
                want, wait_s, owed_s = wants[answer[1]], float(answer[2]), float(answer[3])
                remaining = max(0, int((PERIOD_S - owed_s) * want.per_minute / PERIOD_S))
                return Late(want, wait_s, remaining, owed_s)
            case which:
                return str(which.decode())

    def note(self, places: Sequence[tuple[str, int]], corrections: Sequence[Want]) -> None:
        """Tells how many places this process has of some callers, and what estimates took too little or too much.

        Nobody waits for it. Where it cannot be told, places are told again, and corrections are lost.
        """
        self._places.update(places)
        self._untold += corrections
        self._wake.set()

    def tell_again(self) -> None:
        """Redis has forgotten: it is told of all places of this process at once."""
        self._wake.set()

    async def reap(self) -> None:
        """Nothing: what processes held that died lapses by itself."""

    async def run(self) -> None:
        """Tells what is to be told, and all places anew before they lapse, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(PLACES_S / 3):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            corrections, self._untold = self._untold, []
            of_callers = sum(count for name, count in self._places.items() if not _is_subject(name))
            places = {**self._places, "": of_callers}
            if not (self._places or corrections):
                continue
            keys = [*map(self._place, places), *map(self._bucket, corrections)]
            given: list[int | str] = [len(places), *places.values()]
            given += [f"{_seconds(want, want.cost):.6f}" for want in corrections]
            try:
                await self._do(_NOTE, keys, given)
            except StateAway:
                self._wake.set()  # again as soon as it is back; its own log line has said that it is away
                await asyncio.sleep(_AGAIN_S)
                continue
            self._places = {name: count for name, count in self._places.items() if count}

    async def _do(self, script: str, keys: Sequence[str], given: Sequence[int | str]) -> Any:
        rest = (len(keys), *keys, self._process, *given)
        try:
            try:
                return await self._asks.ask("EVALSHA", hashlib.sha1(script.encode()).hexdigest(), *rest)
            except ScriptUnknown:
                return await self._asks.ask("EVAL", script, *rest)
        except (RedisAway, RedisRefused) as error:
            raise StateAway(str(error)) from error

    def _place(self, name: str) -> str:
        return f"{self._tag}:p:{digest(name)}" if name else f"{self._tag}:p"

    def _bucket(self, want: Want) -> str:
        kind, name = want.key
        return f"{self._tag}:r:{kind}:{digest(name)}"


def _counted(place: Taking) -> list[tuple[str, int, int | None, str]]:
    """Under which names a place is counted, each with how many this process has, may be in all, and what is said then."""
    counted: list[tuple[str, int, int | None, str]] = []
    if place.most is not None or place.most_in_all is not None:
        counted = [
            (place.name, place.here, place.most, "streams"),
            ("", place.here_in_all, place.most_in_all, "all streams"),
        ]
    if place.most_of_subject is not None:
        counted.append((place.subject, place.here_of_subject, place.most_of_subject, "token streams"))
    return counted


def _is_subject(name: str) -> bool:
    """Whether places are counted under the name of a caller's user: it holds a line feed, as no caller's does."""
    return "\n" in name


def _seconds(want: Want, cost: float) -> float:
    """What it costs, in seconds in which that comes again."""
    return cost * PERIOD_S / want.per_minute
