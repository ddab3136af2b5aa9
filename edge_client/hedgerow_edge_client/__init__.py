"""Train on the device, on data that never leaves it."""
