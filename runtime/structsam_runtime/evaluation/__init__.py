"""Datasets and metrics: how good are the masks."""
