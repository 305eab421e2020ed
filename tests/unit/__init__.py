"""Tests of the pure part and of the stores at hand: the standard library alone, so that they run under every Python."""
