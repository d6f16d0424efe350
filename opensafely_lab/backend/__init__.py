"""The data's side: the agent that asks the site for work, extracts, level 3 and 4 stores, the level 4 service.

Nothing outside the wall connects to it; what it sends out is the closed list in `wire`.
"""
