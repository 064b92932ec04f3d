"""What rows say about configurations: paired effects and their intervals. Pure; numpy, scipy and Arrow."""
