"""Event versions as contracts: schemas, the lock, what changes break.

What a class can say of its fields is imported from here.
"""

from .tags import Aware, Digits, Tag

__all__ = ["Aware", "Digits", "Tag"]
