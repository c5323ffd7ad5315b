"""Attacks that measure what the messages and models of a run tell of its training samples.

`membership`, `inversion` and `class_counts` know neither edgenode nor torch. Each is shown to work where it must.
"""
