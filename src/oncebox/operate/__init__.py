"""The operators' side: what waits at a consumer, why, and what lets it go on.

Each program here runs at a `Desk`. It may import the loops and all that lies below them, never the
audit or the service.
"""
