"""The nouns: project, study, workspace, notebook, action, output, output level; `project.yaml` read into values.

Floor 0: no I/O. It takes text and gives values, or an error with a sentence.
"""
