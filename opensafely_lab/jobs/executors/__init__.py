"""What carries out a run. One protocol (`protocol`), one contract suite, several executors."""
