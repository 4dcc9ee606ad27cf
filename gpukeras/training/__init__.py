"""The training loop: compile, fit, evaluate, predict, one step, and the ways of the data."""
