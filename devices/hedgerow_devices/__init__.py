"""Say what a device is and how it feels."""
