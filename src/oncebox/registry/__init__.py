"""Registries of schemas: a server of Confluent's REST protocol, and a client for any."""
