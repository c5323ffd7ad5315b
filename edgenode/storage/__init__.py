"""The files that outlive a process: checkpoints, controller state, run history and results."""
