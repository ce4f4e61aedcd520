"""Meta winning tickets (KDD 2022)."""
