"""The server of `neuroscan-farm serve`: an API over the run directories and the broker, and the page that uses it."""
