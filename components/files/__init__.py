"""Files, wherever they lie: those of others are never trusted, ours appear whole."""
