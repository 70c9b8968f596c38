"""The demo world: drawn scenes, what can be said and asked about them, and the files they are published in."""
