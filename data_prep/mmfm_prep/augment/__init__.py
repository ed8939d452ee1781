"""Further texts made from those that a sample has: synonyms, swaps, deletions, back-translation."""
