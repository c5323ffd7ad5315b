"""A whole run on one machine without a network, bit-identical to the run on devices."""
