"""The coordinator: `prepare` makes the run, `decide` (pure) says what to do next, `drive` does it."""
