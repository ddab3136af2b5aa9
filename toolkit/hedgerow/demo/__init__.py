"""The demo: a federation of real processes on this machine, on handwritten digits."""
