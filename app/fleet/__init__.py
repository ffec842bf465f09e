"""Several processes that serve as one: on one machine those of one parent, on many those that share one Redis.

`supervisor.py` starts workers, replaces them, and hands their sockets down. `member.py` is a process's lease in Redis;
`mirror.py` writes its resumable streams there, as `mirror_rules.py` says; `logs.py` reads those of the others; `limits.py`
keeps what bounds callers. Only `redis_link.py` knows the library. Imports `settings`, `wire/ money/ telemetry/ access/
streams/`. Read `supervisor.py` first, and for Redis `mirror_rules.py`.
"""
