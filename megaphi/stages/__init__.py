"""The training tasks: one file per task of the recipe, all on the same engine."""
