"""Graphs, which graph each round uses, and what an algorithm requires of them. Pure."""
