"""The methods that Fwd2Bot is compared with: one file each, loaded by name, imported by nobody."""
