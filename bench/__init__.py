"""Benchmarks: paired, in one run, as ratios. `python -m bench` and `python -m bench --engines`."""
