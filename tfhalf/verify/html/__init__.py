"""``report.html`` beside a version's artifacts: one file that a browser opens offline, and that runs and fetches
nothing; and what a run keeps of each class."""
