"""Measure latency and memory, and describe the machine."""
