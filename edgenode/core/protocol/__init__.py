"""The rounds, the plan and the membership of a run, as state machines. Pure."""
