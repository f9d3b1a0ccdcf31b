"""Into the toolkit with a network of one's own, and out of it with a plain one: relax, collapse, export."""
