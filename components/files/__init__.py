"""Files that others wrote, wherever they lie: read as data, never trusted."""
