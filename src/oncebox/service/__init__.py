"""A service put together: what it declares, its configuration, its engines, and what runs of it.

It may import everything but the command line, the demo, and the pages that watch it over HTTP.
"""
