"""What the method costs and how it behaves inside."""
