"""Which paths stay: search, removals, and the verdict that rests on them."""
