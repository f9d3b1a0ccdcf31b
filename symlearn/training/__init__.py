"""A network's state under training: steps on weights, updates of precisions, phases with a guard."""
