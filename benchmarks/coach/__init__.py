"""Is the coach right? Curves made by training with a known fault, and the table of what it said: see docs/coach.md."""
