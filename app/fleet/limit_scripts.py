"""The scripts by which Redis keeps limits and budgets: each is one question, answered in one step, by Redis's own clock. Pure.

A full Redis refuses a script only as long as it has written nothing.
"""

from __future__ import annotations

from ..access.limits import PERIOD_S
from .fresh_keys import FRESH

# Places lapse after the first and are told anew each third of it; what is drawn is told anew by every draft, in seconds.
PLACES_S = 30.0
DRAWN_S = 60.0
# Sums of a day or a month are kept for so long after the last draft, in seconds: 40 days.
_SUMS_S = 40 * 86_400

# Redis's clock can be set back, and that of a replica that is promoted is another one. So what a bucket owes is never taken
# for more than it was when it was written, and what lapses for later than a while from now (`is_far`).
_NOW = (
    FRESH
    + """
local t = redis.call('TIME') local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local function owed(key)
  local seconds, since = string.match(redis.call('GET', key) or '', '^([%d.]+) ([%d.]+)$')
  if not seconds then return 0, false end
  return math.max(0, tonumber(seconds) - math.max(0, now - tonumber(since))), tonumber(since) > now
end
local function owe(key, seconds)
  redis.call('SET', key, string.format('%.6f %.6f', seconds, now), 'PX', math.ceil(seconds * 1000) + 1000)
end
local function is_far(till, while_s)
  return tonumber(till) > now + while_s + 1
end
"""
)

# For each budget: own sum, limit, what stays drawn, what is needed, what is liked beyond. As `money.allowance.grant`.
DRAW = (
    _NOW
    + """
local me, out = ARGV[1], {}
for n, key in ipairs(KEYS) do
  local a = 2 + (n - 1) * 5
  fresh(key, 'EXPIRE')
  redis.call('HSET', key, 's:' .. me, ARGV[a])
  redis.call('EXPIRE', key, SUMS_S)
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
        if is_far(till, DRAWN_S) then redis.call('HSET', key, all[i], string.format('%s:%.3f', nano, now + DRAWN_S)) end
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
  for _, figure in ipairs({granted, spent, others, dead}) do out[#out + 1] = string.format('%.0f', figure) end
end
return out
""".replace("DRAWN_S", str(DRAWN_S)).replace("SUMS_S", str(_SUMS_S))
)

# So many keys of places, each with how many this process has, how many there may be in all ('' for any number) and what is
# said where there are; then the buckets, each with what it costs and what it must have, in seconds of refilling. What lapsed
# goes last, because a full Redis refuses a script only as long as it has written nothing.
TAKE = (
    _NOW
    + """
local me, places, lapsed, far = ARGV[1], tonumber(ARGV[2]), {}, {}
for n = 1, places do
  local here, most, others = tonumber(ARGV[3 * n]), ARGV[3 * n + 1], 0
  if most ~= '' then
    local all = redis.call('HGETALL', KEYS[n])
    for i = 1, #all, 2 do
      local count, till = string.match(all[i + 1], '^(%d+):([%d.]+)$')
      if tonumber(till) <= now then
        lapsed[#lapsed + 1] = {KEYS[n], all[i]}
      elseif all[i] ~= me then
        others = others + tonumber(count)
        if is_far(till, PLACES_S) then far[#far + 1] = {KEYS[n], all[i], count} end
      end
    end
    if others + here > tonumber(most) then
      for _, place in ipairs(far) do
        redis.call('HSET', place[1], place[2], string.format('%s:%.3f', place[3], now + PLACES_S))
      end
      return {ARGV[3 * n + 2]}
    end
  end
end
local after = 3 * places + 3
local latest, longest, owing, back = 0, 1e-9, {}, {}
for n = places + 1, #KEYS do
  local a = after + (n - places - 1) * 2
  owing[n], back[n] = owed(KEYS[n])
  local wait = owing[n] + tonumber(ARGV[a + 1]) - PERIOD_S
  if wait > longest then latest, longest = n, wait end
end
if latest > 0 then
  for n = places + 1, #KEYS do
    if back[n] then owe(KEYS[n], owing[n]) end
  end
  return {'late', latest - places - 1, string.format('%.6f', longest), string.format('%.6f', owing[latest])}
end
for n = places + 1, #KEYS do
  owe(KEYS[n], owing[n] + tonumber(ARGV[after + (n - places - 1) * 2]))
end
for n = 1, places do
  fresh(KEYS[n], 'EXPIRE')
  redis.call('HSET', KEYS[n], me, string.format('%s:%.3f', ARGV[3 * n], now + PLACES_S))
  redis.call('EXPIRE', KEYS[n], 2 * PLACES_S)
end
for _, place in ipairs(lapsed) do redis.call('HDEL', place[1], place[2]) end
return {'taken'}
""".replace("PERIOD_S", str(PERIOD_S)).replace("PLACES_S", str(int(PLACES_S)))
)

# So many keys of places with a count each, then buckets with what is owed more, in seconds of refilling.
NOTE = (
    _NOW
    + """
local me, places = ARGV[1], tonumber(ARGV[2])
for n, key in ipairs(KEYS) do
  local figure = ARGV[2 + n]
  if n > places then
    local owing = owed(key) + tonumber(figure)
    if owing > 0 then
      owe(key, owing)
    else
      redis.call('DEL', key)
    end
  elseif figure == '0' then
    redis.call('HDEL', key, me)
  else
    fresh(key, 'EXPIRE')
    redis.call('HSET', key, me, string.format('%s:%.3f', figure, now + PLACES_S))
    redis.call('EXPIRE', key, 2 * PLACES_S)
  end
end
return 1
""".replace("PLACES_S", str(int(PLACES_S)))
)

# All that the others do, and nothing in the end: whether Redis takes it.
TRY = (
    _NOW
    + """
redis.call('SET', KEYS[1], redis.call('GET', KEYS[1]) or now, 'PX', 1000)
redis.call('EXPIRE', KEYS[1], 1)
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], ARGV[1], 1)
redis.call('EXPIRE', KEYS[2], 1)
redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
redis.call('HGETALL', KEYS[2])
return redis.call('HDEL', KEYS[2], ARGV[1])
"""
)
