"""Models as other projects write them, a folder per format, and what the formats share."""
