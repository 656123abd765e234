"""Looking at runs from outside: what a run folder says, as a frame of a terminal or one HTML page. No torch here."""
