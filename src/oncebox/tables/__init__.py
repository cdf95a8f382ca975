"""oncebox's tables in somebody's database: made and changed, who may use them, other outboxes.

It may import the core, programs, sessions and stores.
"""
