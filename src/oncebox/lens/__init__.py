"""Lenses: one declaration between two versions of an event gives the way up and the way down."""
