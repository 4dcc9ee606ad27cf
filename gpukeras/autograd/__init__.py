"""Values that remember how they were computed, and the walk back. Knows no particular op."""
