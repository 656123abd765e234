"""The half of the sandbox that runs within the box: it imports the standard library only, and is mounted read-only."""
