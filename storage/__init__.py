"""Keep files safe: locks, files that are whole or absent, checkpoints."""
