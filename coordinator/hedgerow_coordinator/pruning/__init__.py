"""Pruning policies: score, budget, schedule. Pure numpy on flat vectors, equal on every machine."""
