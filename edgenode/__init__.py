"""edgenode: decentralised training of one model on devices that keep their own data."""

__version__ = "0.1.0"
