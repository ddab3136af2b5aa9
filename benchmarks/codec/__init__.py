"""The codec benchmark: bytes, seconds and memory on recorded deltas, beside what others offer."""
