"""The training loop, checkpoints, schedules and evaluation."""
