"""Studies that reproduce a paper: grids of trainings, what several of them give together, and verdicts on claims."""
