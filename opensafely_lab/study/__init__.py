"""The nouns: project, study, workspace, notebook, action, output, output level; `project.yaml` read into values.

Public: `project.parse_project`, `project.read_project`, `parameters.bind`, `patterns.matches`, `ids`.
Floor 0: no I/O. It takes text and gives values, or an error with a sentence; it refuses to execute anything.
"""
