"""The node process: it joins a run, trains, pushes and mixes."""
