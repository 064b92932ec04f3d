"""The command line. Only this package prints: stdout is data, stderr is progress. Nothing here imports torch."""
