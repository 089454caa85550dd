"""What merging saves and what it distorts, counted rather than timed."""
