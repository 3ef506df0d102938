"""Reading answers out of completions and judging them."""
