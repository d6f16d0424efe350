"""The data's side: the agent that asks the site for work, extracts, level 3 and 4 stores, the level 4 service.

Nothing outside the wall connects to it; what it sends out is the closed list in `wire`.

    agent      `python -m opensafely_lab.backend.agent`: polls the site, tells it codes, never listens
    steps      what to do next with a job, as a pure function
    authorise  may this job run here: asked of our own list of people and policies
    work       the protocol of what carries out a job (the pipeline; a fake in tests)
    store      the database and the two stores, level 3 and level 4
    level4     `python -m opensafely_lab.backend.level4`: results, for those with level 4 permission

It refuses to send text that a run made, to run what the site alone vouches for, and to show a result
without an audit event.
"""
