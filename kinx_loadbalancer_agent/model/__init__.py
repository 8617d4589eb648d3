"""What callers may ask for and what follows from it. Pure: no clock, no machine, no settings."""
