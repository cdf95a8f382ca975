"""Starters of the real engines that the suite runs on: PostgreSQL and Kafka.

`lookup` finds what `make engines` prepared, `server` keeps a process and its folder, `postgres`
and `kafka` each start one engine on free loopback ports.
"""
