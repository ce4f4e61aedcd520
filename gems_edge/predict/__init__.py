"""What a bundle takes on a board: profiles, rates, latency, memory. Plain Python."""
