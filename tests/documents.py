"""Documents of a schema, at random: whatever its writers may write."""

from oncebox.testing.documents import documents

__all__ = ["documents"]
