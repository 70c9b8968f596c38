"""How a flow runs: its cluster, its lifetime, its progress and how it ends."""
