"""Folders of pictures, segmented here or on a cluster."""
