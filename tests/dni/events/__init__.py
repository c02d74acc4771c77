"""Tests of what a user writes to have the structure change."""
