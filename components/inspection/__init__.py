"""What goes on inside a compressor: its adapters, what it attends to, what each summary token is worth."""
