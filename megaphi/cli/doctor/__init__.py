"""`megaphi doctor`: what is installed here, whether a recipe fits, and whether a node is fit for a job."""
