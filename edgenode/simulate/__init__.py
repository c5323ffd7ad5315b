"""A whole run in one process, bit-identical to the run on devices."""
