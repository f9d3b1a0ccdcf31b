"""symlearn."""
