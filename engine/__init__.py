"""Train and evaluate: the loop with exact resume, one step, and the code that both evaluations share."""
