"""What a process says of itself: counts, spans, lines of its log.

It may import the core only, since the loops count and trace through it.
"""
