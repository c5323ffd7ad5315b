"""Reproduces the tables and figures of the paper.

`catalogue` lists the experiments in the terms of `definitions`, `recipes` has what their messages carry, and `scales`
sets their scale. `runner` and `parallel` run the trials and keep their outcomes. `labels` names what runs, and `report`
writes the tables and figures. `static_tables` holds the tables that need no training.
"""

from edgenode_lab.experiments.definitions import Metric, Outcome

__all__ = ["Metric", "Outcome"]
