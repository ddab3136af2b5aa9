"""Federated learning with pruning on edge devices."""
