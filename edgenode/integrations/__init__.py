"""Callbacks that make a training framework's loop a node of a run: `lightning` and `transformers`.

Import the module of your framework. This package imports neither.
"""
