"""The arithmetic of one node: compression, error feedback and mixing, for Sparse-Push and related algorithms. Pure."""
