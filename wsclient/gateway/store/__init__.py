"""What several gateways share: their clients, wrong logins and quotas in one Redis (extra `redis`).

The gateway without it keeps the same things in a file and in its memory (`registry.py`, `guard.py`, `quotas.py`).
Only the modules below that say so import `redis`, and nothing imports them unless a store was named.
"""
