"""Move typed messages and content-addressed blobs between coordinator and devices."""
