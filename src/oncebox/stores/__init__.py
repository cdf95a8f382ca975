"""Databases: one file per engine, each importing one client."""
