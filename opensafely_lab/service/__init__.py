"""How a service of ours stands up: opens its database, knows its tokens, answers HTTP, logs and stops.

What site and backend have in common as processes, beside the messages in `wire`. It refuses to know
what a job is, and to write a body, a token, a query string or an exception's text into a log.
"""
