"""Pure state machines and mathematics: no I/O, no clock, no framework."""
