"""What a model is trained on and for: one file per stage of the recipe, all on the same engine."""
