"""What a run tells about itself: losses, speed and times, as lines, events and pictures."""
