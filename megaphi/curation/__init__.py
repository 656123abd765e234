"""Raw documents to training documents: readers, steps, writers, and the pipeline that runs a recipe of them."""
