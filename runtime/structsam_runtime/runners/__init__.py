"""Engines behind one lifecycle: ``with Runner(...) as runner: runner.infer({...})``."""
