"""A run of a command: its loop, hooks, checkpoints, folder, data sets and pictures."""
