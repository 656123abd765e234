"""New documents: worked exercises with checked answers, and pages rewritten as exercises (paper, section 2)."""
