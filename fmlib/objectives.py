"""Training objectives: a loss is a function (network, batch) -> a number to minimise."""
