"""What a fitted network says: effective parameters, the report, and the report as table, page and figures."""
