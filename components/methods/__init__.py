"""Fwd2Bot, the interface of methods, and the catalogue that loads the compared ones."""
