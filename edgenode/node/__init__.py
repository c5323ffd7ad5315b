"""The node process. It joins a run, trains, pushes and mixes."""
