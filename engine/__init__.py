"""Training and evaluation: the loop with exact resume, one step, what both evaluations share."""
