"""What must happen on Redis in one step, as Lua: taking, beating, giving back and burying a claim."""

# A free claim with a record that says "running" is the trace of a death that nobody has seen yet: it is
# reported before the new record takes its place.
CLAIM = """
local claim, running, sent, reports, dead, runs = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local token, ttl, shard, record, run, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if redis.call('HEXISTS', runs, run) == 0 then return 0 end
if not redis.call('SET', claim, token, 'NX', 'PX', ttl) then return 0 end
local old = redis.call('HGET', running, shard)
if old then
    redis.call('RPUSH', reports, old)
    redis.call('EXPIRE', reports, keep)
    redis.call('SADD', dead, cjson.decode(old)['token'])
    redis.call('EXPIRE', dead, keep)
end
redis.call('HSET', running, shard, record)
redis.call('EXPIRE', running, keep)
redis.call('HDEL', sent, shard)
return 1
"""

# A claim that expired, or vanished with a wiped broker, is taken again unless another worker has it, or its
# holder's death was reported: who was frozen for so long must not come back as if nothing had been.
BEAT = """
local claim, running, dead = KEYS[1], KEYS[2], KEYS[3]
local token, ttl, shard, record, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local holder = redis.call('GET', claim)
if holder and holder ~= token then return 0 end
if redis.call('SISMEMBER', dead, token) == 1 then return 0 end
redis.call('SET', claim, token, 'PX', ttl)
redis.call('HSET', running, shard, record)
redis.call('EXPIRE', running, keep)
return 1
"""

# A refusal holds whoever has the shard by now; a failure is told by its holder alone.
RELEASE = """
local claim, running, reports, refused = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local token, shard, report, worker, refusal, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if refusal ~= '' then
    redis.call('HSET', refused, worker, refusal)
    redis.call('EXPIRE', refused, keep)
end
if redis.call('GET', claim) ~= token then return 0 end
redis.call('DEL', claim)
redis.call('HDEL', running, shard)
if report ~= '' then
    redis.call('RPUSH', reports, report)
    redis.call('EXPIRE', reports, keep)
end
return 1
"""

# The death of a claim's holder: its record becomes a report, once, unless the shard was claimed meanwhile.
BURY = """
local claim, running, reports, sent, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local shard, record, even_claimed_by, report, token, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local holder = redis.call('GET', claim)
if holder and holder ~= even_claimed_by then return 0 end
if redis.call('HGET', running, shard) ~= record then return 0 end
redis.call('DEL', claim)
redis.call('HDEL', running, shard)
redis.call('HDEL', sent, shard)
redis.call('RPUSH', reports, report)
redis.call('EXPIRE', reports, keep)
redis.call('SADD', dead, token)
redis.call('EXPIRE', dead, keep)
return 1
"""

LEASE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

END_LEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""
