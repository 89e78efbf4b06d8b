"""What the store does in one step, in Lua: nothing can come in between, and times are the store's own.

Keys are named by the caller, prefix and all; a script that makes names of its own is told the prefix. All of them are
on one server: Redis Cluster would want them in one slot, which a prefix in braces (`{wsclient}:`) gives.
"""

from __future__ import annotations

__all__ = ["ADMIT", "BLOCKED_FOR", "COMMIT", "ENTER", "FAILURE", "LOOK", "NOTE_LOGINS", "RENEW", "SUCCESS", "UNLOCK"]

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# --- clients ----------------------------------------------------------------------------------------------------------

LOOK = """
-- version, changes, clients, filling | the version that the caller knows, -1 for none; whether it knows any clients
-- Answers the version, and of what changed since the ids and entries; without those where there is too much to tell,
-- and then version -1 while the store is being filled: who is not there yet has not been revoked.
local version = tonumber(redis.call('GET', KEYS[1]) or '0')
local behind = version - tonumber(ARGV[1])
if behind == 0 then return {version, {}, {}} end
if tonumber(ARGV[1]) < 0 or behind < 0 or behind > redis.call('LLEN', KEYS[2]) then
    if ARGV[2] == '1' and redis.call('EXISTS', KEYS[4]) == 1 then return {-1} end
    return {version}
end
local ids, entries, seen = {}, {}, {}
for _, id in ipairs(redis.call('LRANGE', KEYS[2], 0, behind - 1)) do
    if not seen[id] then
        seen[id] = true
        ids[#ids + 1] = id
        entries[#entries + 1] = redis.call('HGET', KEYS[3], id)
    end
end
return {version, ids, entries}
"""

COMMIT = """
-- lock, version, changes, clients, logins, revoked, filling | token, channel, changes to keep, number of entries, of
-- removed ids, of records, milliseconds until more comes, then these: id and entry, id, name and record.
-- Answers the version; nothing without the lock.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
redis.call('DEL', KEYS[7])
if ARGV[7] ~= '0' then
    redis.call('SET', KEYS[7], '1', 'PX', ARGV[7])
    redis.call('PEXPIRE', KEYS[1], ARGV[7])
end
local at = 8
local function note(id)
    redis.call('LPUSH', KEYS[3], id)
    redis.call('INCR', KEYS[2])
end
for _ = 1, tonumber(ARGV[4]) do
    redis.call('HSET', KEYS[4], ARGV[at], ARGV[at + 1])
    note(ARGV[at])
    at = at + 2
end
for _ = 1, tonumber(ARGV[5]) do
    redis.call('HDEL', KEYS[4], ARGV[at])
    redis.call('HDEL', KEYS[5], ARGV[at])
    note(ARGV[at])
    at = at + 1
end
for _ = 1, tonumber(ARGV[6]) do
    redis.call('HSET', KEYS[6], ARGV[at], ARGV[at + 1])
    at = at + 2
end
redis.call('LTRIM', KEYS[3], 0, tonumber(ARGV[3]) - 1)
local version = redis.call('GET', KEYS[2])
redis.call('PUBLISH', ARGV[2], version)
return tonumber(version)
"""

UNLOCK = """
-- lock | token
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

NOTE_LOGINS = """
-- clients, logins | id and what to note, again and again. Who is gone stays gone.
local noted = 0
for at = 1, #ARGV, 2 do
    if redis.call('HEXISTS', KEYS[1], ARGV[at]) == 1 then
        redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
        noted = noted + 1
    end
end
return noted
"""

# --- wrong logins -----------------------------------------------------------------------------------------------------

BLOCKED_FOR = (
    _NOW
    + """
-- record | Answers for how many milliseconds it is blocked yet.
return math.max(0, tonumber(redis.call('HGET', KEYS[1], 'until') or '0') - now)
"""
)

FAILURE = (
    _NOW
    + """
-- record, index of all records | the record's name in the index, what names of records begin with, the failure that
-- blocks first, the longest block in milliseconds, how many records there may be
-- Answers the failures so far, and for how many milliseconds it is blocked; 0 failures when it was blocked already.
local left = tonumber(redis.call('HGET', KEYS[1], 'until') or '0') - now
if left > 0 then return {0, left} end
local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
local longest = tonumber(ARGV[4])
local pause = 0
if failures >= tonumber(ARGV[3]) then pause = math.min(longest, 2 ^ math.min(failures - 1, 40) * 1000) end
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + pause))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', pause + longest))
redis.call('ZADD', KEYS[2], string.format('%.0f', now + pause + longest), ARGV[1])
redis.call('PEXPIRE', KEYS[2], string.format('%.0f', 2 * longest))
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))
-- Two at most for each one added, as in LoginGuard.
for _ = 1, 2 do
    if redis.call('ZCARD', KEYS[2]) <= tonumber(ARGV[5]) then break end
    redis.call('DEL', ARGV[2] .. redis.call('ZPOPMIN', KEYS[2])[1])
end
return {failures, pause}
"""
)

SUCCESS = """
-- record, index of all records | the record's name in the index
redis.call('DEL', KEYS[1])
return redis.call('ZREM', KEYS[2], ARGV[1])
"""

# --- quotas -----------------------------------------------------------------------------------------------------------

ADMIT = (
    _NOW
    + """
-- the client's requests | how many it may a minute. Answers 0, or after how many milliseconds the next one may come.
local limit = tonumber(ARGV[1])
while true do
    local oldest = redis.call('LINDEX', KEYS[1], 0)
    if not oldest or tonumber(oldest) > now - 60000 then break end
    redis.call('LPOP', KEYS[1])
end
local count = redis.call('LLEN', KEYS[1])
if count >= limit then
    local blocking = limit > 0 and tonumber(redis.call('LINDEX', KEYS[1], count - limit)) or now
    return math.max(1, blocking + 60000 - now)
end
redis.call('RPUSH', KEYS[1], string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], 60000)
return 0
"""
)

ENTER = (
    _NOW
    + """
-- the client's open generations | how many it may have, for how many milliseconds the new one counts unless renewed,
-- its name, then the names of those that have ended. Answers 1, or 0 when there is no room.
-- Its own name may be there already: a RENEW in between two tries takes it for one that runs.
for at = 3, #ARGV do redis.call('ZREM', KEYS[1], ARGV[at]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
)

RENEW = (
    _NOW
    + """
-- a client's open generations | milliseconds, the number of those that run, their names, the names of those that ended
local running = tonumber(ARGV[2])
for at = 3, 2 + running do
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[1])), ARGV[at])
end
for at = 3 + running, #ARGV do redis.call('ZREM', KEYS[1], ARGV[at]) end
if running > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return 1
"""
)
