"""Programs that measure Canvas: what it costs to use, and whether its numbers are the originals'."""
