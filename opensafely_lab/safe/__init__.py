"""What a notebook imports. Builds requests; decides nothing.

In a submitted run a request has no value; at the desk it shows what would come back, on dummy data.
"""
