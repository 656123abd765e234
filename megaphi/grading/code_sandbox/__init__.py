"""Programs that strangers or models write, run in a box and graded: `sandbox.py` is the way in."""
