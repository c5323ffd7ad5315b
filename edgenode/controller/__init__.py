"""The controller process: it creates the run, changes its plan and watches its nodes."""
