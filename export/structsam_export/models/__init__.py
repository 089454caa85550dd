"""Segment Anything: its sizes, its weights, and the files in which people have them."""
