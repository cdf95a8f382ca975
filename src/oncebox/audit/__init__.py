"""The audit: outbox, log and inbox compared, event by event where a digest differs.

`facts`, `keys`, `unkeyed`, `examine`, `report` are pure; `log`, `survey`, `topic` read running
services. It may import the operators' side and what lies below it, and nothing of the service.
"""
