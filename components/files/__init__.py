"""Files, wherever they lie: what others wrote is read as data and never trusted; ours appear whole."""
