"""The plan of a run: its records, which graph each round uses, and what follows from both for every member."""
