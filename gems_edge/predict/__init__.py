"""What boards are and what they will take: profiles, work, rates, latency and memory. Plain Python."""
