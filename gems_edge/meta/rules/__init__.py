"""Update rules: what one inner step moves, and how."""
