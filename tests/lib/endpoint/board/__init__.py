"""The board: its pages, and what they have in common."""
