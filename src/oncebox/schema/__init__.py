"""Versioned schemas: what an event type looks like in each version, in any format. Pure."""
