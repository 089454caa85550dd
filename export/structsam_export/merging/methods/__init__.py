"""Ways to merge tokens: one file each, listed in `merging/registry.py`."""
