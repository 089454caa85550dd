"""Latency, memory and what machine they were measured on."""
