"""A whole fit: its beginning, its stages, its result."""
