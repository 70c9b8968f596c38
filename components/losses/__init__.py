"""The training losses, and the similarity of several vectors that one of them trains."""
