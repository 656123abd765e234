"""Steps of a curation recipe that write documents with a model, and what a run of them would cost."""
