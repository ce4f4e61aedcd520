"""Meta winning tickets: criteria, finding, channel tickets, analyses, FLOP books."""
