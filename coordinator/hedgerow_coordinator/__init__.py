"""Run rounds, aggregate updates, prune, and keep the run."""
