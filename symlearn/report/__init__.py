"""A finished fit in numbers, sentences, tables, figures and one page: `numbers` writes, the rest reads."""
