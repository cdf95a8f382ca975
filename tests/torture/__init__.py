"""`python -m torture`: a small shop on real PostgreSQL and Kafka while everything is being killed.

`services` is the shop, `worker` one process of it, `points` where a process can be told to die;
`place` has the servers, `proxy` stands between, `stage` keeps the processes; `faults` are what
happens, `campaign` has them happen round by round, `checker` (which shares no code with oncebox)
and `ending` say whether all is well afterwards, `report` writes docs/torture.md.
"""
