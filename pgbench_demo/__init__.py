"""pgbench's own workload, replicated by events into a second database while everything is killed.

    make pgbench-demo                                   300,000 transactions, with faults
    .venv/bin/python -m pgbench_demo --transactions 5000 --faults 5

`tpcb.sql` is pgbench's builtin transaction with three added lines, which emit. `bank.py` is the
application, which knows nothing of all this. `stage.py` starts the servers (those that
`make engines` prepared), pgbench and `oncebox run`; `compare.py` reads both databases at the end,
and nothing of oncebox's.
"""
