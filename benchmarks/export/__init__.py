"""What pruning and quantisation do to the size and speed of exported models."""
