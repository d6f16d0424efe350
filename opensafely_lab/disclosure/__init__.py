"""The gate: requests in, cells in, verdicts and protected tables out.

Floor 1: no I/O. It never opens a file, a database or a notebook; `ehrql.engine` counts, the gate judges.

    requests    what is asked, parsed strictly from bytes
    admission   may it be asked, from the schema alone
    cells       what was counted: confidential
    redaction   what may be shown of it
    gate        the three in order, one outcome for each request
    figure      the picture of a shown table
    record      disclosure.json, csv and png of what is shown
    policy      the thresholds; slots: how slowly a run tells about itself

It refuses to decide what anybody else has to: that a list of requests is the one that was
authorised, that an extract is the right one, and who may look at what is shown.
"""
