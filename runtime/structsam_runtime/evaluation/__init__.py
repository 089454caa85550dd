"""Evaluation of mask quality: datasets, metrics, results and tables."""
