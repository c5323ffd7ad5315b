"""One `run.toml` describes a run: `schema` declares its keys, and `load` reads and checks their values."""
