"""How a script makes a key so that no refusal leaves it without an end. Pure.

An ACL may forbid any command of a script, which then breaks off there, with what it has written left as it is. So before a key
is made it is made as a word that lapses by itself, given an end once more and deleted: where it cannot be, nothing stays. The
first of these is refused by a full Redis, as that refuses a script only as long as it has written nothing.
"""

# Before the first write to a key, and by which command it is given its end right after that.
FRESH = """
local function fresh(key, expire)
  if redis.call('EXISTS', key) == 0 then
    redis.call('SET', key, '', 'PX', 1000)
    redis.call(expire, key, 1)
    redis.call('DEL', key)
  end
end
"""
