"""Merging methods: one file each, listed in `merging/registry.py`."""
