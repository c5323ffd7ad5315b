"""Sparse-Push and its relatives: compression, error feedback, mixing. Pure."""
