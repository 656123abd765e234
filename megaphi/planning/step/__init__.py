"""The model of a training step's time: values in, values out."""
