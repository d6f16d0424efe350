"""What carries out a run. One protocol (`protocol`), one contract suite, several executors.

`sandbox.SandboxExecutor` is the default: bubblewrap on this machine, with `supervisor` beside each run.
`unsafe_plain.UnsafePlainExecutor` isolates nothing and takes dummy data only. None falls back to another.
"""
