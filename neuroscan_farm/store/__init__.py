"""The run directory: the truth about a run. Everything is written aside and renamed; nothing is ever half there."""
