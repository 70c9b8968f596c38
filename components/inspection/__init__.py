"""Insides of a compressor: its adapters, its attention, the worth of each summary token."""
